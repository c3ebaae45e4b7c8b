"""How good is an asset: camera protocols, CLIP and aesthetic scores, rewards.

Only what renders (`rendering`, `checkpoints`, `sources`) and the registered rewards need a threestudio host.
"""

from .clip import BUILTIN, ClipScorer, clip_numbers, diversity, first_in_list
from .protocols import PROTOCOLS, Framing, Protocol, get_protocol

__all__ = [
    "BUILTIN",
    "PROTOCOLS",
    "ClipScorer",
    "Framing",
    "Protocol",
    "clip_numbers",
    "diversity",
    "first_in_list",
    "get_protocol",
]
