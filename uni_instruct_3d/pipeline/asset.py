"""A finished run as an object in Python: its mesh, turntable, scores; to be saved, shown, looked at in a notebook."""

from __future__ import annotations

import base64
import html
import shutil
import webbrowser
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .run import Run

if TYPE_CHECKING:
    import trimesh
    from PIL.Image import Image

#: Suffix -> the result that is copied; other mesh suffixes are converted.
COPIED = {".glb": "model.glb", ".mp4": "turntable.mp4", ".png": "preview.png", ".html": "report.html"}
CONVERTED = (".ply", ".stl", ".off", ".gltf")


class Asset:
    """What came out of a run. folder: where everything lies. prompt. notes: what a person should know about it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.folder, self.prompt, self.notes = run.folder, run.settings.prompt, list(run.progress.notes)

    @classmethod
    def open(cls, folder: str | Path) -> Asset:
        """Of a finished run's folder. Raises ValueError where there is none."""
        run = Run.open(folder)
        if run.progress.state != "done":
            raise ValueError(f"{folder}: the run is not finished ({run.progress.state})")
        return cls(run)

    @cached_property
    def mesh(self) -> trimesh.Trimesh:
        """With colours; glTF's axes: y up, front towards z. Raises ValueError for a run without a mesh file."""
        import trimesh

        return trimesh.load(self._result("model.glb"), force="mesh", process=False)

    @property
    def turntable(self) -> Path:
        """Video, once around. Raises ValueError for a run without one."""
        return self._result("turntable.mp4")

    @property
    def preview(self) -> Image:
        """Four views side by side."""
        from PIL import Image

        with Image.open(self._result("preview.png")) as picture:
            return picture.convert("RGB")

    def scores(self) -> dict[str, float]:
        """CLIP score over eight views; for prompts of the world also agreement with it; see docs/scoring.md."""
        return self.run.scores()

    def save(self, path: str | Path) -> Path:
        """Write it as .glb, .obj (with .mtl and texture beside it), .ply, .stl, .off, or as .mp4, .png, .html; returns
        the path.

        Raises:
            ValueError: another suffix.
        """
        path = Path(path).expanduser()
        suffix = path.suffix.lower()
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".obj":
            return self._save_obj(path)
        if suffix in COPIED:
            shutil.copyfile(self._result(COPIED[suffix]), path)
        elif suffix in CONVERTED:
            self.mesh.export(path)
        else:
            raise ValueError(f"{path}: cannot save as {suffix!r}; choices: .obj, {', '.join([*COPIED, *CONVERTED])}")
        return path

    def _save_obj(self, path: Path) -> Path:
        """Under the new name; material and texture keep theirs, to which the files refer."""
        for name, source in self.run.results.items():
            if name == "model.obj":
                shutil.copyfile(source, path)
            elif name == "model.mtl" or name.startswith("texture_"):
                shutil.copyfile(source, path.parent / name)
        if not path.is_file():
            self.mesh.export(path)
        return path

    def show(self) -> Any:
        """The turntable in a notebook; elsewhere the report, in a browser."""
        try:
            from IPython import get_ipython
            from IPython.display import display
        except ImportError:
            get_ipython = lambda: None  # noqa: E731
        if get_ipython() is not None:
            return display(self)
        return webbrowser.open(self._result("report.html").as_uri())

    def _repr_html_(self) -> str:
        """The turntable, in a notebook."""
        source = base64.b64encode(self.turntable.read_bytes()).decode()
        notes = "".join(f"<br>{html.escape(note)}" for note in self.notes)
        return (
            f"<figure><video autoplay loop muted playsinline controls width='384' src='data:video/mp4;base64,{source}'>"
            f"</video><figcaption>{html.escape(self.prompt)}{notes}</figcaption></figure>"
        )

    def __repr__(self) -> str:
        return f"Asset({self.prompt!r}, {str(self.folder)!r})"

    def _result(self, name: str) -> Path:
        results = self.run.results
        if name not in results:
            raise ValueError(f"{self.folder} has no {name}; it has: {', '.join(results) or 'nothing'}")
        return results[name]
