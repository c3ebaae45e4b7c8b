"""Makes the built-in teacher: renders of the procedural world -> VAE -> U-Net with text encoder -> CLIP -> judge.

The order of the modules is the order of the work: :mod:`data`, :mod:`vae`, :mod:`tokenizer`, :mod:`diffusion`,
:mod:`clip`, :mod:`judge`, :mod:`report`; :mod:`presets` holds every number, :mod:`loop` the resumable training loop.
"""

from .judge import Judge, load_judge
from .presets import PRESETS, Preset

__all__ = ["PRESETS", "Judge", "Preset", "load_judge"]
