"""What the page's events do and show; every answer is made anew from files."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from typing import Any

import gradio as gr

from ..pipeline.run import Run
from . import choices, show
from .jobs import Queue
from .library import Item, Library, RunItem, losses

#: Bytes that must be free before a run is begun: checkpoints and files of all stages, with room to spare.
ROOM = 300e6


class View:
    """Answers of the page, for one library and its queue."""

    def __init__(self, library: Library, queue: Queue) -> None:
        self.library, self.queue = library, queue
        self._making = threading.Lock()  # two browsers that ask for the same run get the same folder

    # ------------------------------------------------------------------------------------------------ doing
    def make(self, shown: str, config_set: str, *given: Any) -> tuple[str, str]:
        """Put runs into the queue; the name of the first, and what is said about it."""
        try:
            settings = choices.settings_of(*given, config_set=config_set)
            free = shutil.disk_usage(self.library.out).free
            if free < ROOM:
                raise ValueError(f"the disk is nearly full ({free / 1e6:.0f} MB left); nothing was started")
            names, finished = [], 0
            for one in settings:
                with self._making:
                    run = Run.create(one, self.library.out)
                names.append(run.folder.relative_to(self.library.out).as_posix())
                if run.progress.state == "done":
                    finished += 1
                else:
                    self.queue.add(names[-1])
        except (ValueError, OSError) as error:
            return shown, show.message(_said(error), "error")
        if finished == len(names):
            return names[0], show.message("This was made before, with the same settings; here it is.")
        return names[0], show.message("" if len(names) == 1 else f"{len(names)} variations are in the queue.")

    def stop(self, name: str) -> str:
        return self._do(self.queue.stop, name, "It stops after the present step, with a checkpoint.")

    def go_on(self, name: str) -> str:
        return self._do(self.queue.add, name, "")

    def score(self, name: str) -> str:
        return self._do(lambda name: self.queue.add(name, "score"), name, "It is being scored; that takes a minute.")

    def delete(self, name: str) -> str:
        return self._do(self.queue.delete, name, f"{name} is deleted.") if name else ""

    def _do(self, action: Callable[[str], None], name: str, done: str) -> str:
        try:
            action(name)
        except (ValueError, OSError) as error:
            return show.message(_said(error), "error")
        return show.message(done)

    # ------------------------------------------------------------------------------------------------ looking
    def first(self, request: gr.Request) -> tuple[str, str]:
        """Name and prompt of the run that the address names, or of the newest one."""
        name = request.query_params.get("run", "")
        try:
            item = self.library.find(name)
        except ValueError:
            item = next((item for item in self.library.items() if isinstance(item, RunItem)), None)
        return (item.name, item.title) if item else ("", "")

    def look(self, name: str, seen: dict[str, Any]) -> list[Any]:
        """Values of the panel; those that are as they were are left alone."""
        item: Item | None
        try:
            item = self.library.find(name) if name else None
        except ValueError:
            item = None
        values = [*self._values(item), self._waiting()]
        answer = [gr.skip() if seen.get(str(i)) == value else value for i, value in enumerate(values)]
        buttons = range(1, 5)
        answer = [
            gr.update(interactive=value) if i in buttons and isinstance(value, bool) else value
            for i, value in enumerate(answer)
        ]
        return [*answer, {str(i): value for i, value in enumerate(values)}]

    def _values(self, item: Item | None) -> list[Any]:
        if item is None:
            return [show.message("Nothing is shown yet: type what to make."), *[False] * 4, *[""] * 4]
        try:
            if not isinstance(item, RunItem):
                return [show.heading(item, "done"), *[False] * 4, "", show.preview(item), show.results(item), ""]
            state, progress = self.queue.state(item), item.progress
            done = state in ("done", "scoring")
            picture = "" if done and "turntable.mp4" in item.files else show.preview(item)
            stage = progress.stage if progress.stage in show.STEPS[:-1] else show.STEPS[-2]
            return [
                show.heading(item, state),
                state in ("running", "starting", "queued"),
                state in ("waiting", "stopped", "failed"),
                state == "done" and not item.scores,
                state in ("waiting", "stopped", "failed", "done"),
                show.progress(progress, state), picture,
                show.results(item) if done else show.downloads(item, item.files),
                show.curves(losses(item.folder / stage)),
            ]  # fmt: skip
        except (ValueError, OSError) as error:
            return [show.message(_said(error), "error"), *[False] * 4, *[""] * 4]

    def _waiting(self) -> str:
        lines = []
        for job in self.queue.jobs():
            place = self.queue.slots[job.slot].name if job.slot is not None and job.slot < len(self.queue.slots) else ""
            what = f"on {place}" if job.pid is not None else "waits"
            work = "scores " if job.work == "score" else ""
            lines.append(f"<li><a href='{show.url(job.run)}'>{show.escape(work + job.run)}</a> <i>{what}</i></li>")
        return f"<h3>Queue</h3><ul class='s-queue'>{''.join(lines)}</ul>" if lines else ""

    def cards(self, wanted: str, most: int = 300) -> str:
        """The gallery of those whose prompt or name has these words."""
        found = [item for item in self.library.items() if wanted.lower() in f"{item.title} {item.name}".lower()]
        return show.cards(self._card(item) for item in found[:most])

    def _card(self, item: Item) -> str:
        try:
            return show.card(item, self.queue.state(item) if isinstance(item, RunItem) else "done")
        except (ValueError, OSError):  # deleted meanwhile, or not readable
            return ""

    def names(self) -> list[tuple[str, str]]:
        """(label, name) of everything that can be compared."""
        return [(f"{item.title}  ({item.name})", item.name) for item in self.library.items()]

    def side(self, name: str | None) -> str:
        """One of two runs side by side."""
        try:
            if not name:
                return ""
            item = self.library.find(name)
            state = self.queue.state(item) if isinstance(item, RunItem) else "done"
            spent = item.progress.seconds if isinstance(item, RunItem) else 0
            time = f"<p class='s-dim'>{show.duration(spent)} of work</p>" if spent else ""
            return show.heading(item, state) + time + show.preview(item) + show.results(item, small=True)
        except (ValueError, OSError) as error:
            return show.message(_said(error), "error")


def _said(error: Exception) -> str:
    """One line about an error."""
    if isinstance(error, OSError):
        return f"{error.strerror or error}; nothing was started" if error.errno else str(error)
    return str(error)
