"""Pictures of a coloured surface from a protocol's cameras, through the host's rasteriser.

Unlit by default: what is scored is the colour that the file says. Every picture is rendered several times finer and
averaged, so that it depends on the surface and not on how it is cut into triangles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from threestudio.utils.rasterize import NVDiffRasterizerContext

from ..core.errors import choose
from .meshes import Surface
from .protocols import Framing, Protocol

# Pictures are rendered at this many pixels a side at least, and twice as fine as asked at least.
INTERNAL_SIZE = 256


@dataclass(frozen=True)
class Light:
    """Lambert light that moves with the camera.

    direction: towards the light (right, up, towards the viewer). The shade of a face with normal n towards the camera
    is ambient + diffuse·max(n·l, 0) + sky·(1 + n_z)/2; the default is that of the built-in world's renders.
    """

    direction: tuple[float, float, float] = (0.3, 0.5, 0.8)
    ambient: float = 0.35
    diffuse: float = 0.55
    sky: float = 0.15


#: Names for the command line.
LIGHTS: dict[str, Light | None] = {"none": None, "camera": Light()}


def get_light(name: str) -> Light | None:
    """`none`: albedo as it is. `camera`: shaded.

    Raises:
        ValueError: unknown name.
    """
    return choose("light", name, LIGHTS)


def projection(fovy_deg: float, near: float, far: float) -> Float[Tensor, "4 4"]:
    """Square perspective projection with y turned down, as rasterisers store images from the top."""
    cot = 1 / math.tan(math.radians(fovy_deg) / 2)
    depth, offset = -(far + near) / (far - near), -2 * far * near / (far - near)
    return torch.tensor([[cot, 0, 0, 0], [0, -cot, 0, 0], [0, 0, depth, offset], [0, 0, -1, 0]])


def render_surface(
    surface: Surface,
    protocol: Protocol,
    light: Light | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> UInt8[np.ndarray, "n S S 3"]:
    """Pictures of a surface, one per camera of the protocol, framed as the protocol says.

    light: None shows albedo as it is. progress: draw a bar.
    """
    framing = protocol.framing(surface.vertices, surface.faces)
    surface, device = surface.to(device), torch.device(device)
    context = NVDiffRasterizerContext("cuda", device)
    c2w = protocol.cameras(framing).to(device)
    rows = zip(c2w, protocol.fovy_deg.tolist())
    pictures = [
        _render_view(context, surface, camera, fovy, protocol, framing, light)
        for camera, fovy in tqdm(rows, total=len(c2w), desc="render", unit="view", disable=not progress)
    ]
    return np.stack(pictures)


@torch.no_grad()
def _render_view(
    context: NVDiffRasterizerContext,
    surface: Surface,
    camera: Float[Tensor, "4 4"],
    fovy_deg: float,
    protocol: Protocol,
    framing: Framing,
    light: Light | None,
) -> UInt8[np.ndarray, "S S 3"]:
    """One camera: visible faces, their colours, the background, then the average over each pixel."""
    supersample = max(2, math.ceil(INTERNAL_SIZE / protocol.size))
    size = supersample * protocol.size
    near, far = 0.01 * framing.scale, 100.0 * framing.scale
    world_to_clip = projection(fovy_deg, near, far).to(camera) @ torch.linalg.inv(camera)
    clip = context.vertex_transform(surface.vertices, world_to_clip[None])
    rast, _ = context.rasterize(clip, surface.faces, (size, size))
    rast = rast.detach()
    attributes = torch.cat([surface.rgb, surface.uv], -1)
    seen = context.interpolate_one(attributes, rast, surface.faces)[0][0]
    face = rast[0, ..., 3].long() - 1
    rgb = _textured(surface, face, seen[..., :3], seen[..., 3:])
    if light is not None:
        rgb = rgb * _shades(surface, camera, light)[face.clamp(min=0)][..., None]
    rgb = torch.where(face[..., None] >= 0, rgb, rgb.new_tensor(protocol.background))
    pooled = F.avg_pool2d(rgb.clamp(0, 1).permute(2, 0, 1), supersample).permute(1, 2, 0)
    return (255 * pooled + 0.5).to(torch.uint8).cpu().numpy()


def _textured(
    surface: Surface, face: Tensor, rgb: Float[Tensor, "h w 3"], uv: Float[Tensor, "h w 2"]
) -> Float[Tensor, "h w 3"]:
    """Colours times the texture of each pixel's face; coordinates beyond 0..1 repeat the texture."""
    if not surface.textures:
        return rgb
    rgb = rgb.clone()
    which = torch.where(face >= 0, surface.texture[face.clamp(min=0)], -1)
    for index, picture in enumerate(surface.textures):
        here = which == index
        if here.any():
            where = uv[here] - uv[here].floor()
            found = F.grid_sample(
                picture.permute(2, 0, 1)[None],
                (2 * where - 1)[None, None],
                mode="bilinear",
                padding_mode="border",
                align_corners=False,
            )
            rgb[here] *= found[0, :, 0].T
    return rgb


def _shades(surface: Surface, camera: Float[Tensor, "4 4"], light: Light) -> Float[Tensor, "F"]:
    """Shade of every face from its own plane: file normals and winding differ between programs, planes do not."""
    corners = surface.vertices[surface.faces]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], dim=-1)
    normal = F.normalize(normal, dim=-1)
    away = ((camera[:3, 3] - corners.mean(1)) * normal).sum(-1, keepdim=True) < 0
    normal = torch.where(away, -normal, normal)
    towards = F.normalize(camera[:3, :3] @ normal.new_tensor(light.direction), dim=0)
    lambert = (normal @ towards).clamp(min=0)
    return light.ambient + light.diffuse * lambert + light.sky * (1 + normal[:, 2]) / 2
