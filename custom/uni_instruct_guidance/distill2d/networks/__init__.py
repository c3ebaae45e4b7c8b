"""EDM networks: U-Nets with the published parameter names, their preconditioning, presets and weight files."""

from .precond import UNETS, EDMPrecond
from .presets import EDM_PRESETS, build_network
from .unet import DhariwalUNet, Encoded, SongUNet

__all__ = ["EDM_PRESETS", "UNETS", "DhariwalUNet", "EDMPrecond", "Encoded", "SongUNet", "build_network"]
