"""Three lines of Python from a prompt to an asset.

    pipe = TextTo3D()
    asset = pipe("a red mug", seed=0)
    asset.save("mug.glb")
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .asset import Asset
from .events import Event, Listener, Preview
from .run import Run
from .settings import Settings

if TYPE_CHECKING:
    from PIL.Image import Image


class TextTo3D:
    """From prompts to assets, with settings that hold for all of them; any field of :class:`Settings`.

    out: folder that receives one folder per run. A prompt that was made before with the same settings is not made
    again; one that was cut short goes on.

    Raises:
        ValueError: names the setting, its value and the choices.
    """

    def __init__(self, out: str | Path = "outputs", overrides: Sequence[str] = (), **settings: Any) -> None:
        self.out = Path(out)
        self.settings = Settings(prompt="-", overrides=tuple(overrides), **settings)

    def __call__(
        self,
        prompt: str,
        seed: int = 0,
        *,
        on_preview: Callable[[Image], Any] | None = None,
        on_event: Listener | None = None,
        preview_every: int = 10,
    ) -> Asset:
        """Make it; minutes on two cores.

        Args:
            on_preview: is given four views side by side every `preview_every` steps, as a PIL picture.
            on_event: is given everything that happens; see :mod:`events`. None: a bar on the terminal.

        Raises:
            ValueError: a prompt that cannot be used. StageError: training stopped. Stopped: ``run.stop`` was called.
        """
        run = Run.create(replace(self.settings, prompt=prompt, seed=seed), self.out)
        run.preview_every = preview_every
        listen = on_event
        if listen is None:
            from .terminal import Terminal

            listen = Terminal(prompt, sys.stderr)

        def hear(event: Event) -> None:
            if on_preview is not None and isinstance(event, Preview):
                on_preview(event.picture)
            listen(event)

        run.start(hear)
        return Asset(run)
