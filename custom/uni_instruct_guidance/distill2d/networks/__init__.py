"""EDM networks: U-Nets with the published parameter names, their preconditioning, presets and weight files."""

from .checkpoint import CheckpointError, load_edm, read_header, save_edm
from .precond import UNETS, EDMPrecond
from .presets import EDM_PRESETS, build_network
from .unet import DhariwalUNet, Encoded, SongUNet

__all__ = [
    "EDM_PRESETS",
    "UNETS",
    "CheckpointError",
    "DhariwalUNet",
    "EDMPrecond",
    "Encoded",
    "SongUNet",
    "build_network",
    "load_edm",
    "read_header",
    "save_edm",
]
