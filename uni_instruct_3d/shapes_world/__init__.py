"""A procedural world of stylised objects: the data of the built-in teacher, with ground truth.

Objects are signed-distance parts traced by one compiled kernel. World convention: right-handed, z up, azimuth 0 on +x
sees the front; every object fits a sphere of radius 0.6 around the origin.
"""

from .palette import COLORS, PATTERNS
from .render import Instance, Light, fit_distance, instance_mesh, look_at, make_instance, render
from .sampling import caption_of, class_probabilities, sample_batch
from .vocabulary import CLASSES, HELD_OUT, OBJECT_CLASSES, VIEW_CLASSES, VIEWS, caption, is_held_out, view_word

__all__ = [
    "CLASSES",
    "COLORS",
    "HELD_OUT",
    "OBJECT_CLASSES",
    "PATTERNS",
    "VIEWS",
    "VIEW_CLASSES",
    "Instance",
    "Light",
    "caption",
    "caption_of",
    "class_probabilities",
    "fit_distance",
    "instance_mesh",
    "is_held_out",
    "look_at",
    "make_instance",
    "render",
    "sample_batch",
    "view_word",
]
