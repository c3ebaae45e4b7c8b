"""A run on the terminal: one bar over all its steps, and lines that a person should read."""

from __future__ import annotations

from typing import TextIO

from tqdm import tqdm

from .events import Done, Event, Note, StageDone, StageStart, Step


class Terminal:
    """Listens to a run; a bar per stage, one at a time, closed without a trace when the stage is done."""

    def __init__(self, title: str, stream: TextIO) -> None:
        self.title, self.stream = title, stream
        self._bar: tqdm | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageStart):
            self._open(event)
        elif isinstance(event, Step):
            if self._bar is None:
                self._open(StageStart(event.stage, event.step - 1, event.steps))
            self._bar.set_postfix({k: f"{v:.3g}" for k, v in event.losses.items()}, refresh=False)
            self._bar.update(event.step - self._bar.n)
        elif isinstance(event, StageDone):
            self.close()
            self.say(f"{event.stage} is finished ({event.seconds:.0f} s)")
        elif isinstance(event, Note):
            self.say(f"note: {event.text}")
        elif isinstance(event, Done):
            self.close()

    def say(self, text: str) -> None:
        """A line above the bar."""
        tqdm.write(f"text-to-3d: {text}", file=self.stream)

    def _open(self, event: StageStart) -> None:
        self.close()
        if not event.steps:
            self.say("files")
            return
        # on a terminal redrawn in place; in a log file one line every ten seconds
        interval = 0.5 if self.stream.isatty() else 10.0
        self._bar = tqdm(
            total=event.steps, initial=event.step, desc=event.stage, file=self.stream, mininterval=interval,
            dynamic_ncols=True, smoothing=0.1, leave=False,
        )  # fmt: skip

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
