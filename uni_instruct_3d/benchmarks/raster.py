"""The rasteriser beside mitsuba: 20,480 triangles, forward and backward to vertex positions, in turns in one run.

Ours: rasterize, interpolate, antialias (so silhouettes have gradients), mean squared image, backward. With mitsuba
installed (pip install mitsuba; on a CPU it needs a system libLLVM, whose path goes into DRJIT_LIBLLVM_PATH), its
`direct` integrator (no silhouette gradients) and `direct_projective` (with them) render the same sphere, 4 samples per
pixel. Targets: at least 15 x faster than `direct_projective`, not slower than `direct`.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import time
from collections.abc import Callable

import torch

from backends import raster
from uni_instruct_guidance.core.ranges import argument, whole

from ..command import COUNT, PIXELS, device

SPLITS = argument(whole(least=0, most=9))
FOVY_DEG, DISTANCE, RADIUS = 40.0, 3.0, 0.8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=PIXELS, nargs="+", default=[128, 256, 512], help="image sides in pixels")
    parser.add_argument("--subdivisions", type=SPLITS, default=5, help="of the icosphere: 20 * 4^n faces")
    parser.add_argument("--repeats", type=COUNT, default=5)
    parser.add_argument("--threads", type=COUNT, default=1, help="of both; more pay only on an idle machine")
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu", help="ours")
    parser.add_argument("--variant", default="llvm_ad_rgb", help="mitsuba's")


def _sphere(subdivisions: int):
    import trimesh

    return trimesh.creation.icosphere(subdivisions=subdivisions, radius=RADIUS)


def _ours(mesh, size: int, device: str) -> Callable[[], None]:
    vertices = torch.tensor(mesh.vertices, dtype=torch.float32, device=device, requires_grad=True)
    faces = torch.tensor(mesh.faces, device=device)
    focal, near, far = 1 / math.tan(math.radians(FOVY_DEG) / 2), 0.1, 10.0
    projection = torch.tensor(
        [
            [focal, 0, 0, 0],
            [0, focal, 0, 0],
            [0, 0, -(far + near) / (far - near), -2 * far * near / (far - near)],
            [0, 0, -1, 0],
        ],
        device=device,
    )
    view = torch.eye(4, device=device)
    view[2, 3] = -DISTANCE
    topology, context = raster.antialias_construct_topology_hash(faces), raster.RasterizeTorchContext()

    def step() -> None:
        clip = (torch.cat([vertices, torch.ones_like(vertices[:, :1])], 1) @ (projection @ view).T)[None]
        rast, _ = raster.rasterize(context, clip, faces, (size, size))
        color, _ = raster.interpolate(vertices[None], rast, faces)
        image = raster.antialias(color, rast, clip, faces, topology)
        vertices.grad = None
        image.square().mean().backward()
        if device != "cpu":
            torch.cuda.synchronize()

    return step


def _mitsuba(mesh, size: int, integrator: str, variant: str) -> Callable[[], None]:
    import drjit
    import mitsuba

    mitsuba.set_variant(variant)
    shape = mitsuba.Mesh("sphere", len(mesh.vertices), len(mesh.faces))
    parameters = mitsuba.traverse(shape)
    parameters["vertex_positions"] = mesh.vertices.astype("float32").ravel()
    parameters["faces"] = mesh.faces.astype("uint32").ravel()
    parameters.update()
    camera = mitsuba.ScalarTransform4f().look_at(origin=[0, 0, DISTANCE], target=[0, 0, 0], up=[0, 1, 0])
    film = {"type": "hdrfilm", "width": size, "height": size, "rfilter": {"type": "box"}}
    scene = mitsuba.load_dict(
        {
            "type": "scene",
            "integrator": {"type": integrator},
            "sensor": {"type": "perspective", "fov": FOVY_DEG, "to_world": camera, "film": film},
            "light": {"type": "constant"},
            "shape": shape,
        }
    )
    parameters = mitsuba.traverse(scene)
    key = next(name for name in parameters.keys() if name.endswith("vertex_positions"))  # noqa: SIM118 - not a dict

    def step() -> None:
        drjit.enable_grad(parameters[key])
        parameters.update()
        image = mitsuba.render(scene, parameters, spp=4)
        drjit.backward(drjit.mean(drjit.square(image), axis=None))
        drjit.eval(drjit.grad(parameters[key]))
        drjit.sync_thread()

    return step


def _milliseconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def run(args: argparse.Namespace) -> dict:
    torch.set_num_threads(args.threads)
    mesh = _sphere(args.subdivisions)
    missing = None if importlib.util.find_spec("mitsuba") else "mitsuba is not installed"
    if missing is None:
        import drjit

        drjit.set_thread_count(args.threads)
    rows = []
    for size in args.sizes:
        steps = {"ours": _ours(mesh, size, args.device)}
        if missing is None:
            for integrator in ("direct", "direct_projective"):
                steps[integrator] = _mitsuba(mesh, size, integrator, args.variant)
        for step in steps.values():
            step()  # compiles, allocates
        turns = [{name: _milliseconds(step) for name, step in steps.items()} for _ in range(args.repeats)]
        row = {"size": size} | {f"{name}_ms": statistics.median(t[name] for t in turns) for name in steps}
        for name in list(steps)[1:]:
            row[f"{name}_over_ours"] = statistics.median(t[name] / t["ours"] for t in turns)
        rows.append({key: round(value, 2) for key, value in row.items()})
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return {"faces": len(mesh.faces), "device": args.device, "beside": missing or "mitsuba", "rows": rows}
