"""Pictures of a trained scene, straight from its checkpoint through the system's own renderer: no mesh in between."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from tqdm import tqdm

import threestudio
from threestudio.utils.misc import get_device, load_module_weights
from threestudio.utils.ops import get_mvp_matrix, get_projection_matrix, get_ray_directions, get_rays

from .protocols import Framing, Protocol, world_framing

SUFFIXES = (".ckpt", ".pt", ".pth")
# Only training needs these; the protocol brings its own background.
LEFT_OUT = ("guidance", "prompt_processor", "background")
NEEDED = ("geometry_type", "material_type", "renderer_type")


def trial_of(path: str | Path) -> tuple[Path, Path]:
    """(checkpoint, parsed.yaml) of a trial folder or of a checkpoint in its ckpts/.

    Raises:
        ValueError: one of them is missing.
    """
    path = Path(path)
    checkpoint = path / "ckpts" / "last.ckpt" if path.is_dir() else path
    config = checkpoint.resolve().parents[1] / "configs" / "parsed.yaml"
    if not checkpoint.is_file():
        raise ValueError(f"{path}: no checkpoint at {checkpoint}")
    if not config.is_file():
        raise ValueError(f"{path}: no configuration at {config}; a checkpoint is read with its trial folder")
    return checkpoint, config


def load_scene(path: str | Path, background: tuple[float, float, float]) -> Any:
    """The system of a trial with its trained weights, without guidance, before a background of one colour.

    Raises:
        ValueError: one line naming the file: no checkpoint of a 3D scene, or one that does not fit its configuration.
    """
    # A trial names what these register; where the extension was imported before its host, nothing has yet.
    from .. import models, systems  # noqa: F401

    checkpoint, config = trial_of(path)
    # First of all the file itself: a wrong one is named before anything is built.
    weights, epoch, step = load_module_weights(str(checkpoint), ignore_modules=list(LEFT_OUT))
    cfg = OmegaConf.load(config)
    system_cfg = cfg.get("system") if isinstance(cfg, DictConfig) else None
    missing = [key for key in NEEDED if not (system_cfg or {}).get(key)]
    if missing:
        raise ValueError(f"{checkpoint}: no checkpoint of a 3D scene; {config.name} has no system.{missing[0]}")
    own = {
        "guidance_type": "",
        "guidance": {},
        "prompt_processor_type": "",
        "prompt_processor": {},
        "background_type": "solid-color-background",
        "background": {"color": list(background)},
        "weights": None,
    }
    kept = {key: value for key, value in system_cfg.items() if key not in own}
    system = threestudio.find(cfg.system_type)(OmegaConf.create({**kept, **own}), resumed=True)
    try:
        result = system.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # shapes; torch lists them over several lines
        raise ValueError(f"{checkpoint}: does not fit its configuration: {' '.join(str(error).split())}") from error
    lost = [key for key in result.missing_keys if key.startswith(("geometry.", "material."))]
    if lost:
        raise ValueError(f"{checkpoint}: does not fit its configuration; it lacks {', '.join(lost[:4])}")
    system = system.to(get_device()).eval()
    system.set_resume_status(epoch, step)
    system.do_update_step(epoch, step, on_load_weights=True)
    return system


def scene_framing(system: Any, protocol: Protocol) -> Framing:
    """The protocol's framing of a scene, by the surface of its geometry where one is needed.

    Raises:
        ValueError: the geometry has no surface.
    """
    if protocol.framing is world_framing:
        return Framing()
    try:
        mesh = system.geometry.isosurface()
    except (ValueError, NotImplementedError) as error:  # the latter is threestudio's for `isosurface: false`
        raise ValueError(f"{protocol.label} frames an object by its surface, and there is none: {error}") from error
    return protocol.framing(mesh.v_pos.detach().cpu(), mesh.t_pos_idx.detach().cpu())


def camera_batch(c2w: Float[Tensor, "1 4 4"], fovy_deg: float, size: int, framing: Framing) -> dict[str, Any]:
    """One camera as threestudio's data modules give it to a renderer; the light stands where the camera stands."""
    fovy = torch.tensor([math.radians(fovy_deg)], device=c2w.device)
    focal = 0.5 * size / math.tan(0.5 * math.radians(fovy_deg))
    rays_o, rays_d = get_rays(get_ray_directions(size, size, focal).to(c2w)[None], c2w, keepdim=True)
    proj_mtx = get_projection_matrix(fovy, 1.0, 0.01 * framing.scale, 100.0 * framing.scale).to(c2w)
    position = c2w[:, :3, 3]
    return {
        "rays_o": rays_o,
        "rays_d": rays_d,
        "mvp_mtx": get_mvp_matrix(c2w, proj_mtx),
        "camera_positions": position,
        "light_positions": position,
        "c2w": c2w,
        "fovy": fovy,
        "height": size,
        "width": size,
    }


def render_checkpoint(path: str | Path, protocol: Protocol, progress: bool = False) -> UInt8[np.ndarray, "n S S 3"]:
    """Pictures of a trial (its folder or a checkpoint in it) from the protocol's cameras, on the host's device.

    Raises:
        ValueError: see `load_scene`; or a stage that renders no colours.
    """
    system = load_scene(path, protocol.background)
    framing = scene_framing(system, protocol)
    pictures = []
    rows = list(zip(protocol.cameras(framing).to(get_device()), protocol.fovy_deg.tolist()))
    for camera, fovy in tqdm(rows, desc="render", unit="view", disable=not progress):
        with torch.no_grad():
            out = system(camera_batch(camera[None], fovy, protocol.size, framing))
        if "comp_rgb" not in out:
            raise ValueError(f"{path}: this stage renders no colours ({', '.join(out)}); score its texture stage")
        pictures.append((255 * out["comp_rgb"][0].clamp(0, 1) + 0.5).to(torch.uint8).cpu().numpy())
    return np.stack(pictures)
