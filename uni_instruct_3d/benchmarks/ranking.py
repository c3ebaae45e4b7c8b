"""Does CLIP rank right? Ground-truth objects of the built-in world against the captions of all classes and colours.

Every object (class x colour; patterns and proportions vary) is rendered as a mesh by each protocol and light, and its
"a {colour} {class}" has to beat the other 279 captions: by the cosine averaged over the views, and view by view. A tie
is lost. Objects that lose are listed with what won. Target for `shapes-8` with the camera's light: at least 95 %.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from tqdm import tqdm

import threestudio  # noqa: F401  its host's rasteriser draws
from uni_instruct_guidance.scoring import BUILTIN, PROTOCOLS, ClipScorer, first_in_list, get_protocol
from uni_instruct_guidance.scoring.meshes import Surface, coloured
from uni_instruct_guidance.scoring.rendering import LIGHTS, get_light, render_surface

from ..command import COUNT, PIXELS
from ..shapes_world import CLASSES, COLORS, PATTERNS, instance_mesh

COMBINATIONS = [(name, color) for color in COLORS for name in CLASSES]
# Proportions that no training render has: training draws them from other streams.
FIRST_SEED = 9000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--objects", type=COUNT, default=len(COMBINATIONS), help="class by class, colour by colour")
    parser.add_argument("--protocols", nargs="+", default=["shapes-8"], help=", ".join(PROTOCOLS))
    parser.add_argument("--lights", nargs="+", default=["camera", "none"], help=", ".join(LIGHTS))
    parser.add_argument("--views", type=COUNT, help="fewer views of each protocol")
    parser.add_argument("--size", type=PIXELS, help="side of the pictures")
    parser.add_argument("--resolution", type=COUNT, default=48, help="marching cubes cells per side")
    parser.add_argument("--clip", default=BUILTIN)
    parser.add_argument("--clip-pretrained")


def caption(class_name: str, color: str) -> str:
    """What is asked of CLIP; the pattern goes unsaid."""
    return f"{'an' if color[0] in 'aeiou' else 'a'} {color} {class_name}"


def world_object(index: int, resolution: int) -> tuple[str, Surface]:
    """Caption and ground-truth mesh of object `index`; patterns take turns."""
    class_name, color = COMBINATIONS[index % len(COMBINATIONS)]
    pattern = PATTERNS[(CLASSES.index(class_name) + COLORS.index(color)) % len(PATTERNS)]
    return caption(class_name, color), coloured(
        *instance_mesh(class_name, color, pattern, FIRST_SEED + index, resolution=resolution)
    )


def run(args: argparse.Namespace) -> dict:
    """Shares of objects and of views that are ranked right, per protocol and light, and the objects that are not."""
    clip = ClipScorer(args.clip, args.clip_pretrained)
    captions = [caption(*combination) for combination in COMBINATIONS]
    texts = clip.embed_texts(captions)
    protocols = [get_protocol(name) for name in args.protocols]
    if args.views or args.size:
        protocols = [p.reduced(args.views and min(args.views, p.n_views), args.size) for p in protocols]
    settings = {(protocol.label, light): [] for protocol in protocols for light in args.lights}
    lost: dict[str, list[str]] = {}
    for index in tqdm(range(args.objects), desc="objects", unit="object"):
        told, surface = world_object(index, args.resolution)
        for protocol in protocols:
            for light in args.lights:
                pictures = render_surface(surface, protocol, get_light(light))
                embeddings = clip.embed_pictures(pictures)
                right, rank = first_in_list(embeddings, texts, captions.index(told))
                settings[protocol.label, light].append((rank == 1, right.mean().item()))
                if rank > 1:
                    best = captions[int((embeddings @ texts.T).mean(0).argmax())]
                    lost.setdefault(f"{protocol.label} {light}", []).append(f"{told} < {best}")
    rows = {}
    for (protocol_label, light), found in settings.items():
        objects, views = np.array(found, dtype=float).mean(0)
        rows[f"{protocol_label} {light}"] = {"objects_right": objects, "views_right": views}
    return {"clip": clip.label, "objects": args.objects, "captions": len(captions), "rows": rows, "lost": lost,
            "torch_threads": torch.get_num_threads()}  # fmt: skip
