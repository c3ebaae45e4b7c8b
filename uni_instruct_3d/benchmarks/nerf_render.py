"""The volume renderer alone, on a fixed object: empty-space skipping against dense sampling, and several geometries.

The object (two balls and a bar, 8 % of the box) is fitted from its images first, so that every geometry has a surface
and the occupancy grid has something to skip. Reported for one training render (two cameras of 64² by default, random
cotangent): milliseconds of processor time forward and backward, samples, and what skipping costs in the image (dB).
Target: dense over pruned at least 3.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import torch
import torch.nn.functional as F

from ..command import COUNT, INDEX, PIXELS, POSITIVE

LINEAR = {"otype": "Linear"}
MLP = {"otype": "VanillaMLP", "activation": "ReLU", "output_activation": "none", "n_neurons": 16, "n_hidden_layers": 1}
PYRAMID = {"otype": "DenseGridPyramid", "n_levels": 4, "base_resolution": 8, "n_features_per_level": 4}
HASH = {"otype": "HashGrid", "n_levels": 8, "log2_hashmap_size": 15, "base_resolution": 8, "per_level_scale": 1.35}

# name -> registered geometry and its configuration
GEOMETRIES = {
    "pyramid, linear": ("implicit-volume", {"pos_encoding_config": PYRAMID, "mlp_network_config": LINEAR}),
    "pyramid, mlp": ("implicit-volume", {"pos_encoding_config": PYRAMID, "mlp_network_config": MLP}),
    "hash grid, mlp": ("implicit-volume", {"pos_encoding_config": HASH, "mlp_network_config": MLP}),
    "volume-grid": ("volume-grid", {"grid_size": (64, 64, 64), "density_blob_scale": 10.0}),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--geometries", nargs="+", choices=list(GEOMETRIES), default=["pyramid, linear"])
    parser.add_argument("--size", type=PIXELS, default=64, help="height and width of the images")
    parser.add_argument("--cameras", type=COUNT, default=2, help="images per render")
    parser.add_argument("--samples", type=COUNT, default=64, help="samples per ray")
    parser.add_argument("--fit", type=INDEX, default=120, help="steps of fitting")
    parser.add_argument("--lr", type=POSITIVE, default=0.05, help="learning rate of the grids; networks get a tenth")
    parser.add_argument("--repeats", type=COUNT, default=9)
    parser.add_argument("--threads", type=COUNT, default=1)


def object_field(points: torch.Tensor) -> dict[str, torch.Tensor]:
    """Density and features (logits of the colour) of the object at world points (n, 3)."""
    big = (points - points.new_tensor([0, 0, -0.25])).norm(dim=-1) - 0.38
    small = (points - points.new_tensor([0, 0, 0.32])).norm(dim=-1) - 0.22
    bar = ((points - points.new_tensor([0.45, 0, -0.2])).abs() - points.new_tensor([0.25, 0.08, 0.08])).amax(-1)
    distance, part = torch.stack([big, small, bar], -1).min(-1)
    stripes = 0.6 + 0.4 * ((points[:, 2:] * 12).floor() % 2)
    colour = points.new_tensor([[0.8, 0.1, 0.1], [0.1, 0.2, 0.9], [0.1, 0.7, 0.2]])[part] * stripes
    return {"density": 60.0 * (distance < 0)[:, None].float(), "features": torch.logit(colour.clamp(0.02, 0.98))}


def cameras(count: int, size: int, turn: float = 0.0) -> dict[str, torch.Tensor]:
    """Rays of ``count`` cameras around the object at distance 1.8, elevation 20°, field of view 50°."""
    from threestudio.utils.ops import get_ray_directions, get_rays

    azimuth = turn + 2 * math.pi * torch.arange(count) / count
    height = torch.full_like(azimuth, math.sin(math.radians(20)))
    flat = (1 - height**2).sqrt()
    position = 1.8 * torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), height], -1)
    look = -F.normalize(position, dim=-1)
    right = F.normalize(torch.linalg.cross(look, torch.tensor([0.0, 0, 1]).expand_as(look), dim=-1), dim=-1)
    c2w = torch.eye(4).repeat(count, 1, 1)
    c2w[:, :3] = torch.stack([right, torch.linalg.cross(right, look, dim=-1), -look, position], -1)
    directions = get_ray_directions(size, size, 0.5 * size / math.tan(math.radians(25))).expand(count, -1, -1, -1)
    rays_o, rays_d = get_rays(directions, c2w, keepdim=True, normalize=True)
    return {"rays_o": rays_o, "rays_d": rays_d, "light_positions": position}


def build(geometry, args: argparse.Namespace, **cfg):
    import threestudio

    return threestudio.find("nerf-volume-renderer")(
        {"num_samples_per_ray": args.samples, **cfg},
        geometry=geometry,
        material=threestudio.find("no-material")({}),
        background=threestudio.find("solid-color-background")({}),
    )


def target_images(views: dict[str, torch.Tensor], args: argparse.Namespace) -> torch.Tensor:
    from threestudio.models.geometry.base import BaseImplicitGeometry

    class Object(BaseImplicitGeometry):
        def forward(self, points, output_normal=False):
            return object_field(points)

    fine = argparse.Namespace(samples=4 * args.samples)
    with torch.no_grad():
        return build(Object({}), fine, grid_prune=False).eval()(**views)["comp_rgb"]


def fit(renderer, args: argparse.Namespace) -> None:
    """Adam on images from 24 sides, two at a time."""
    views = cameras(24, args.size)
    images = target_images(views, args)
    grids = [p for name, p in renderer.geometry.named_parameters() if "network" not in name]
    networks = [p for name, p in renderer.geometry.named_parameters() if "network" in name]
    groups = [{"params": grids, "lr": args.lr}] + [{"params": networks, "lr": args.lr / 10}] * bool(networks)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-15, fused=True)
    for step in range(args.fit):
        renderer.update_step(0, step)
        pair = torch.randperm(24)[:2]
        out = renderer(**{key: value[pair] for key, value in views.items()})
        optimizer.zero_grad(set_to_none=True)
        F.mse_loss(out["comp_rgb"], images[pair]).backward()
        optimizer.step()


def timed(renderer, views: dict[str, torch.Tensor], repeats: int) -> dict[str, float]:
    """Median processor milliseconds of one training render and of its backward pass."""
    forward, backward = [], []
    for _ in range(repeats + 2):  # the first two allocate
        start = time.process_time()
        out = renderer(**views)
        middle = time.process_time()
        (out["comp_rgb"] * torch.randn_like(out["comp_rgb"])).sum().backward()
        forward.append(middle - start)
        backward.append(time.process_time() - middle)
        renderer.geometry.zero_grad(set_to_none=True)
    return {
        "samples": len(out["points"]),
        "forward_ms": round(1e3 * statistics.median(forward[2:]), 1),
        "backward_ms": round(1e3 * statistics.median(backward[2:]), 1),
    }


def decibels(image: torch.Tensor, reference: torch.Tensor) -> float:
    return round(-10 * math.log10(F.mse_loss(image, reference).item() + 1e-12), 2)


def run(args: argparse.Namespace) -> dict:
    import threestudio

    torch.set_num_threads(args.threads)
    views = cameras(args.cameras, args.size, turn=0.1)
    truth = target_images(views, args)
    figures = {}
    for name in args.geometries:
        torch.manual_seed(0)
        kind, cfg = GEOMETRIES[name]
        pruned = build(threestudio.find(kind)({"normal_type": None, **cfg}), args).train()
        fit(pruned, args)
        dense = build(pruned.geometry, args, grid_prune=False).train()
        times = {"pruned": timed(pruned, views, args.repeats), "dense": timed(dense, views, args.repeats)}
        with torch.no_grad():
            images = {"pruned": pruned.eval()(**views)["comp_rgb"], "dense": dense.eval()(**views)["comp_rgb"]}
        total = {way: time["forward_ms"] + time["backward_ms"] for way, time in times.items()}
        figures[name] = {
            **times,
            "dense_over_pruned": round(total["dense"] / total["pruned"], 2),
            "psnr_to_truth": {way: decibels(image, truth) for way, image in images.items()},
            "cells_occupied": round(pruned.estimator.binaries.float().mean().item(), 3),
        }
    return {"renders": figures}
