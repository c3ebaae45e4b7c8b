"""Terms on the rendering that keep the 3D model solid while the guidance shapes it. Each is one row of a table."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def orientation(out: dict) -> Tensor:
    """Visible normals should face the camera (Ref-NeRF; DreamFusion's lambda_orient). Needs `normal` per sample."""
    facing = (out["normal"] * out["t_dirs"]).sum(-1, keepdim=True).clamp_min(0.0) ** 2
    return (out["weights"].detach() * facing).sum() / (out["opacity"] > 0).sum().clamp_min(1)


def sparsity(out: dict) -> Tensor:
    """Mean opacity, softened near zero: pushes empty space to be empty."""
    return (out["opacity"] ** 2 + 0.01).sqrt().mean()


def opaqueness(out: dict) -> Tensor:
    """Entropy of the opacity: pushes every pixel to fully in or fully out."""
    opacity = out["opacity"].clamp(1.0e-3, 1.0 - 1.0e-3)
    return F.binary_cross_entropy(opacity, opacity)


def z_variance(out: dict) -> Tensor:
    """Spread of the density along rays that hit something (HiFA): thin surfaces instead of fog."""
    hit = out["opacity"].detach() > 0.5
    return (out["z_variance"] * hit).sum() / hit.sum().clamp_min(1)


def normal_smoothness_2d(out: dict) -> Tensor:
    """Squared differences of neighbouring normals in the picture."""
    normal = out["comp_normal"]
    across, down = normal[:, :, 1:] - normal[:, :, :-1], normal[:, 1:] - normal[:, :-1]
    return across.square().mean() + down.square().mean()


def normal_consistency(out: dict) -> Tensor:
    """1 − cosine between the normals at the two ends of each mesh edge."""
    return out["mesh"].normal_consistency()


def laplacian_smoothness(out: dict) -> Tensor:
    """Distance of each mesh vertex from the mean of its neighbours."""
    return out["mesh"].laplacian()


# lambda_<name> in system.loss switches a row on; needs: what the rendering must contain.
REGULARISERS = {
    "orient": (orientation, ("normal", "t_dirs", "weights", "opacity")),
    "sparsity": (sparsity, ("opacity",)),
    "opaque": (opaqueness, ("opacity",)),
    "z_variance": (z_variance, ("z_variance", "opacity")),
    "normal_smoothness_2d": (normal_smoothness_2d, ("comp_normal",)),
    "normal_consistency": (normal_consistency, ("mesh",)),
    "laplacian_smoothness": (laplacian_smoothness, ("mesh",)),
}


def regularise(out: dict, weights: dict[str, float]) -> dict[str, Tensor]:
    """Unweighted values of the rows whose weight is positive.

    Raises:
        ValueError: a row needs something that this renderer does not give (named).
    """
    terms = {}
    for name, weight in weights.items():
        if weight <= 0:
            continue
        function, needs = REGULARISERS[name]
        missing = [key for key in needs if key not in out]
        if missing:
            raise ValueError(
                f"system.loss.lambda_{name} needs {missing} from the renderer, which gives {sorted(out)}; set it to 0"
            )
        terms[name] = function(out)
        assert terms[name].dim() == 0, name
    return terms
