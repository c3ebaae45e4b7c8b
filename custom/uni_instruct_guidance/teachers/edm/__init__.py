"""EDM networks: U-Nets with the published parameter names, their preconditioning, presets and weight files."""

from .architectures import DhariwalUNet, SongUNet
from .checkpoint import CheckpointError, load_edm, read_header, save_edm
from .precond import UNETS, EDMPrecond
from .presets import EDM_PRESETS, build_network
from .unet import Encoded

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
