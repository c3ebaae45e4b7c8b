"""Are the cameras of a batch groups as a multi-view teacher draws them? What to say if not; how to complete them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.orbits import are_orbits, orbit_azimuths, turned

MODULE = "data_type=random-multiview-camera-datamodule"
#: What the networks read of a camera; not every batch says the last.
READ = ("elevation", "azimuth", "camera_distances", "c2w", "fovy")


def check_views(cameras: dict, n: int, teacher: str) -> None:
    """Refuse a batch that is not made of whole groups of n views around one object.

    Args:
        cameras: `elevation`, `azimuth` [B] degrees, `c2w` [B, 4, 4] and, where the data module says so, `n_view`.

    Raises:
        ValueError: one line with the key to change.
    """
    if n == 1:
        return
    drawn = f"teacher {teacher!r} draws {n} views at once"
    if cameras.get("c2w") is None:
        raise UserError(f"{drawn} and must be told their cameras: the batch has no c2w; take {MODULE}")
    given, rows = cameras.get("n_view"), len(cameras["elevation"])
    if given is not None and given != n:
        raise UserError(f"data.n_view={given}, but {drawn}: set data.n_view={n}")
    if rows % n:
        raise UserError(
            f"data.batch_size={rows} must be a multiple of {n}: {drawn}; take {MODULE} with data.n_view={n}"
        )
    if given is None and not are_orbits(cameras["elevation"], cameras["azimuth"], n):
        raise UserError(
            f"{drawn}, {360 // n} degrees apart at one elevation, but the batch has single views: take {MODULE} with "
            f"data.n_view={n}"
        )


def whole_groups(cameras: dict, n: int, teacher: str) -> tuple[dict[str, Tensor], Tensor | slice]:
    """Cameras of whole groups, and which of their rows were asked for.

    Rows that are groups stay as they are; of others each becomes the first view of a group of its own.

    Raises:
        ValueError: no c2w, see `check_views`.
    """
    if n == 1:
        return cameras, slice(None)
    elevation, azimuth = cameras["elevation"], cameras["azimuth"]
    told = {key: cameras[key] for key in READ if cameras.get(key) is not None}
    if "c2w" not in told or are_orbits(elevation, azimuth, n):
        check_views(cameras, n, teacher)
        return told, slice(None)
    around = {key: value.repeat_interleave(n, 0) for key, value in told.items()}
    around |= {"azimuth": orbit_azimuths(azimuth, n), "c2w": turned(cameras["c2w"], n)}
    return around, torch.arange(len(elevation), device=elevation.device) * n
