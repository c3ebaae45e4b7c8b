"""From a prompt to files: the one pipeline behind the command line, the comparison, the page and the notebook.

:class:`TextTo3D` is the short way. A :class:`Run` is one prompt with its :class:`Settings` in one folder, and tells
what happens as :mod:`events`. Importing this loads none of the large libraries.
"""

from .asset import Asset
from .events import Done, Note, Preview, StageDone, StageError, StageStart, Step, Stopped
from .folder import Progress
from .run import Run
from .settings import Files, Settings
from .text_to_3d import TextTo3D

__all__ = [
    "Asset",
    "Done",
    "Files",
    "Note",
    "Preview",
    "Progress",
    "Run",
    "Settings",
    "StageDone",
    "StageError",
    "StageStart",
    "Step",
    "Stopped",
    "TextTo3D",
]
