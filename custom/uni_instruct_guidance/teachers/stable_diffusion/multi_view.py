"""Teachers that draw several views of one object at once (MVDream, arXiv 2308.16512): rows know their group.

Such a U-Net is an ordinary `UNet2DConditionModel` that is told each row's camera (`class_embed_type="projection"`: two
layers to the time embedding's width, as MVDream's) and whose self-attention runs over all rows of a group. A batch
stays a batch of single views, the views of a group one after the other, so nothing else of the house changes. How many
views make a group, and what it is told of a camera, stands beside the weights, in ``unet/multi_view.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...core.errors import UserError, choose
from ...core.files import atomically
from .checks import forget_origin

#: Beside the U-Net's weights.
MARK = "multi_view.json"
#: Numbers that it is told of a camera.
WIDTH = 16


def camera_matrix(c2w: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B 16"]:
    """Camera-to-world matrices with their positions at unit length (MVDream's normalisation), flattened."""
    matrix = c2w.clone()
    matrix[:, :3, 3] = F.normalize(matrix[:, :3, 3], dim=-1)
    return matrix.flatten(1)


def where_it_stands(cameras: dict) -> Float[Tensor, "B 16"]:
    """The `c2w` of a batch as MVDream tells them."""
    return camera_matrix(cameras["c2w"])


def how_large_it_draws(cameras: dict) -> Float[Tensor, "B 16"]:
    """The same with the magnification 1 / (d tan(fovy / 2)) for the last number, which is 1 in every matrix.

    d: distance from the origin; `fovy` in radians. In homogeneous coordinates the camera then stands as far off as the
    picture is half high at the origin. A network that does not know how large an object is drawn draws it, under
    guidance, as large as the picture lets it.

    Raises:
        ValueError: the batch does not say `fovy`.
    """
    if cameras.get("fovy") is None:
        raise UserError("this teacher is told how large objects are drawn: the batch of cameras has no fovy")
    c2w, half = cameras["c2w"], 0.5 * cameras["fovy"]
    told = camera_matrix(c2w)
    told[:, -1] = 1.0 / (c2w[:, :3, 3].norm(dim=-1) * torch.tan(half).to(c2w))
    return told


#: What the network is told of the cameras of a batch.
CAMERAS: dict[str, Callable[[dict], Float[Tensor, "B 16"]]] = {
    "c2w": where_it_stands,
    "c2w_zoom": how_large_it_draws,
}


class Mark(NamedTuple):
    """What stands beside the weights: views of a group, and a row of `CAMERAS`."""

    n_views: int = 1
    camera: str = "c2w"


class GroupAttention:
    """Attention processor: in self-attention every token sees the tokens of all views of its group.

    Args:
        n_views: rows of a group, one after the other. inner: what attends.
    """

    def __init__(self, n_views: int, inner: Any) -> None:
        self.n_views, self.inner = n_views, inner

    def __call__(
        self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *args, **kwargs
    ) -> Tensor:
        if encoder_hidden_states is not None:  # each view reads its own text
            return self.inner(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        # tokens [G n, L, D] -> [G, n L, D]; a picture's rows [G n, C, h, w] -> [G, C, n h, w]
        along = 1 if hidden_states.ndim == 3 else 2
        groups = hidden_states.unflatten(0, (-1, self.n_views))
        joined = groups.movedim(1, along).flatten(along, along + 1)
        out = self.inner(attn, joined, None, *args, **kwargs)
        return out.unflatten(along, (self.n_views, -1)).movedim(along, 1).flatten(0, 1)


def attend(unet: nn.Module, n_views: int = 1) -> None:
    """Give a U-Net its attention: over groups of ``n_views`` rows; on CPUs by the plain product.

    There the backward pass of fused attention costs a third of a step; the plain product does not.
    """
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    plain = next(unet.parameters()).device.type == "cpu"
    if n_views > 1:
        unet.set_attn_processor(GroupAttention(n_views, AttnProcessor() if plain else AttnProcessor2_0()))
    elif plain:
        unet.set_attn_processor(AttnProcessor())


def make_multi_view(unet: nn.Module, n_views: int) -> nn.Module:
    """An ordinary U-Net as a multi-view one with the same weights.

    The camera's last layer starts at zero, so that with ``n_views`` 1 it answers as before, whatever the camera.

    Raises:
        ValueError: it has class embeddings of another meaning, or fewer than one view.
    """
    from diffusers import UNet2DConditionModel

    if n_views < 1:
        raise ValueError(f"n_views {n_views} must be at least 1")
    if unet.config.class_embed_type is not None or unet.config.num_class_embeds is not None:
        raise ValueError("this U-Net has class embeddings already; a multi-view one tells them the camera")
    config = {**unet.config, "class_embed_type": "projection", "projection_class_embeddings_input_dim": WIDTH}
    grown = UNet2DConditionModel.from_config(config)
    missing, unexpected = grown.load_state_dict(unet.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("class_embedding.") for name in missing)
    nn.init.zeros_(grown.class_embedding.linear_2.weight)
    nn.init.zeros_(grown.class_embedding.linear_2.bias)
    grown = grown.to(next(unet.parameters()).device, next(unet.parameters()).dtype)
    attend(grown, n_views)
    return grown


def save_multi_view(unet: nn.Module, mark: Mark, folder: str | Path) -> None:
    """The U-Net as diffusers writes it into ``folder``, with the mark that it draws groups."""
    from ...core.errors import require_writable

    require_writable("folder", str(folder))
    unet.save_pretrained(folder, safe_serialization=True)
    forget_origin(Path(folder))
    write_mark(folder, mark)


def write_mark(folder: str | Path, mark: Mark) -> None:
    """Say beside a U-Net's weights that it draws groups."""
    text = json.dumps(mark._asdict()) + "\n"
    atomically(Path(folder) / MARK, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_mark(unet_folder: str | Path) -> Mark:
    """What is said beside a U-Net's weights: one view where it is an ordinary one.

    Raises:
        ValueError: a mark that says something else.
    """
    path = Path(unet_folder) / MARK
    if not path.is_file():
        return Mark()
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        n_views, camera = int(said["n_views"]), said["camera"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"corrupt {path}: it must say n_views and camera ({error})") from None
    choose(f"camera of {path}", camera, CAMERAS)
    if n_views < 2:
        raise ValueError(f"{path}: n_views={n_views}; a group has at least 2 views")
    return Mark(n_views, camera)


def require_groups(rows: int, n_views: int) -> None:
    """Refuse a batch that is not made of whole groups."""
    if rows % n_views:
        raise ValueError(
            f"{rows} views for a teacher that draws {n_views} at once: the batch (data.batch_size) must be a multiple "
            f"of {n_views} (data.n_view)"
        )


def require_cameras(class_labels: Tensor | None, name: str) -> None:
    """Refuse a call that does not tell a multi-view teacher where its cameras stand."""
    if class_labels is None:
        raise ValueError(f"teacher {name!r} draws several views at once and needs their cameras (c2w), got none")
