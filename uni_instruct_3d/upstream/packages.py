"""The packages that threestudio imports at its start: which must be there, and which only some of its features use."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

#: import name -> what pip calls it. Needed by every run.
NEEDED = {
    "cv2": "opencv-python-headless",
    "einops": "einops",
    "typeguard": "typeguard",
    "matplotlib": "matplotlib",
    "imageio": "imageio[ffmpeg]",
    "trimesh": "trimesh",
    "diffusers": "diffusers",
    "transformers": "transformers",
}
#: import name -> (what needs it, how to get it). Imported by every run, used by few.
OPTIONAL = {
    "wandb": ("logging to Weights & Biases", "pip install wandb"),
    "controlnet_aux": ("ControlNet guidance", "pip install controlnet_aux"),
    "igl": ("signed distances to meshes", "pip install libigl"),
    "IPython": ("pictures in notebooks", "pip install ipython"),
}
#: modules of those packages that are imported by name.
SUBMODULES = {"IPython": ("IPython.display",)}


def missing_packages() -> list[str]:
    """What pip has to install before threestudio can be imported, all of it at once."""
    return [pip for name, pip in NEEDED.items() if importlib.util.find_spec(name) is None]


class Absent(ModuleType):
    """In place of a package that is not installed: complains when something of it is used, not when it is imported."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        what, how = OPTIONAL[self.__name__.partition(".")[0]]

        def use(*_, **__):
            raise ValueError(f"{self.__name__}.{name}: {what} needs a package that is not installed: {how}")

        return use


@contextmanager
def optional_packages_excused() -> Iterator[list[str]]:
    """While threestudio is being imported, packages of :data:`OPTIONAL` that are missing are there by name.

    Only for that time: other libraries ask by name whether these packages are installed.
    """
    absent = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
    # they ask while they are imported, so they come first
    for name in ("diffusers", "transformers", "pytorch_lightning", "torchmetrics", "peft", "accelerate"):
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    names = [module for name in absent for module in (name, *SUBMODULES.get(name, ()))]
    try:
        sys.modules.update({name: Absent(name) for name in names})
        yield absent
    finally:
        for name in names:
            sys.modules.pop(name, None)
