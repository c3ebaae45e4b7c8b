"""Score assets against a prompt: CLIP, R-precision, aesthetics, diversity, from a named camera protocol.

    python scripts/score.py outputs/a-red-mug/texture --prompt "a red mug"
    python scripts/score.py a.glb b.obj nerf/ckpts/last.ckpt turntable.mp4 --prompt "a red mug" --prompts-file list.txt
    python scripts/score.py vase.glb --prompt "a vase" --clip ViT-L-14 --clip-pretrained openai \
        --aesthetic sac+logos+ava1-l14-linearMSE.pth --protocol threestudio-120

A path is a mesh (.glb .gltf .obj .ply), a checkpoint or trial folder, a folder of pictures, or a video. Without weights
the built-in small CLIP scores, which knows the built-in world's words only; every line says what scored. Several paths
are taken as seeds of one prompt, and get their diversity. Written to --out: scores.json, table.txt, sheet.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import _environment  # noqa: F401
import numpy as np
from tqdm import tqdm

from threestudio.utils.files import atomic_path
from threestudio.utils.images import captioned, image_grid, resized, write_image
from threestudio.utils.misc import get_device, set_device
from uni_instruct_3d.command import COUNT, PIXELS, device, run_command
from uni_instruct_3d.help import Help
from uni_instruct_guidance.core.errors import naming, one_line, require_writable
from uni_instruct_guidance.scoring import BUILTIN, PROTOCOLS, ClipScorer, Protocol, diversity, get_protocol
from uni_instruct_guidance.scoring.aesthetic import AestheticScorer
from uni_instruct_guidance.scoring.preferences import PREFERENCES, require_preference
from uni_instruct_guidance.scoring.rendering import LIGHTS, get_light
from uni_instruct_guidance.scoring.sources import Views, load_views
from uni_instruct_guidance.scoring.summary import Scorers, Summary, common_views, read_prompts, summarise

# What a protocol is taken without --protocol: the built-in CLIP knows the built-in world's cameras.
DEFAULT_PROTOCOLS = {True: "shapes-8", False: "threestudio-120"}
# The darkest grey behind the objects that the built-in CLIP was trained on (docs/scoring.md has what lies beyond it).
DARKEST_KNOWN = 0.75
# Columns of the table: number → how it is written.
COLUMNS = {
    "cosine": "cos {:.4f}",
    "clip_x100": "x100 {:.2f}",
    "clipscore": "2.5max(cos,0) {:.4f}",
    "r_precision": "R-precision {:.1%}",
    "rank": "rank {:d}",
    "aesthetic": "aesthetic {:.3f}",
    "imagereward": "ImageReward {:.3f}",
    "t3bench_quality": "T3Bench quality {:.2f}",
    "hpsv2": "HPSv2 {:.4f}",
}
SHEET_VIEWS, SHEET_SIZE = 8, 160


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    protocols = "\n".join(f"  {row.label}: {row.summary}" for row in PROTOCOLS.values())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"protocols:\n{protocols}", formatter_class=Help
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="what to score")
    parser.add_argument("--prompt", required=True, help="what it should show")
    parser.add_argument("--prompts-file", type=Path, help="list for R-precision, one a line; the prompt is added to it")
    parser.add_argument("--protocol", help="cameras, by name or name@version; see below")
    parser.add_argument("--views", type=COUNT, help="fewer views, evenly picked; becomes part of the protocol's label")
    parser.add_argument("--size", type=PIXELS, help="other picture size; becomes part of the protocol's label")
    parser.add_argument("--light", default="none", help=f"of mesh files: {' | '.join(LIGHTS)}; none shows albedo")
    parser.add_argument("--up", help="up axis of mesh files, y | z; by default glTF's y, and z for .obj and .ply")
    parser.add_argument("--clip", default=BUILTIN, help="open-clip architecture, local-dir:FOLDER or hf-hub:ID")
    parser.add_argument("--clip-pretrained", metavar="TAG|FILE", help="weights of an architecture")
    parser.add_argument(
        "--aesthetic", metavar="FILE", help="LAION's predictor, or hf-hub:OWNER/REPO/FILE; needs ViT-L-14"
    )
    parser.add_argument("--preference", nargs="+", default=[], metavar="NAME", help=" | ".join(PREFERENCES))
    parser.add_argument("--device", type=device, help="cpu, cuda, …; by default the best there is")
    parser.add_argument("--out", type=Path, default=Path("outputs/score"), help="folder for the results")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, or 2 after one line per mistake; what could be scored is scored."""
    args = parse_arguments(argv)
    return run_command("score", lambda: score(args), args.out)


def score(args: argparse.Namespace) -> int:
    """Everything; 0, or 2 where a path could not be scored."""
    scorers, protocol, light, notes = prepare(args)
    for note in notes:
        print(f"[{scorers.clip.label}] {note}")
    scored: list[tuple[Views, Summary]] = []
    for path in tqdm(args.paths, desc="objects", unit="object", disable=len(args.paths) < 2):
        try:
            views = load_views(path, protocol, light, args.up, progress=True)
            scored.append((views, summarise(views, args.prompt, scorers)))
        except (ValueError, OSError) as error:
            tqdm.write(f"score: {one_line(error, path)}", file=sys.stderr)  # on a line of its own beside the bar
    if scored:
        write(args, scorers, protocol, scored)
    return 0 if len(scored) == len(args.paths) else 2


def prepare(args: argparse.Namespace) -> tuple[Scorers, Protocol, object, list[str]]:
    """Everything that can be wrong before anything is rendered; and what the user should know."""
    if args.device:
        set_device(args.device)
    require_writable("--out", args.out)
    if not args.prompt.strip():
        raise ValueError('--prompt is empty; say what the asset should show, e.g. "a red mug"')
    light, notes, prompts = get_light(args.light), [], []
    for name in args.preference:
        require_preference(name)
    name = args.protocol or DEFAULT_PROTOCOLS[args.clip == BUILTIN]
    protocol = get_protocol(name).reduced(args.views, args.size)
    if args.prompts_file:
        prompts, blank = read_prompts(args.prompts_file)
        if blank:
            notes.append(f"{args.prompts_file}: {blank} blank lines passed over, {len(prompts)} prompts")
        prompts += [args.prompt] * (args.prompt not in prompts)
    clip = ClipScorer(args.clip, args.clip_pretrained, get_device())
    aesthetic = AestheticScorer(args.aesthetic, clip) if args.aesthetic else None
    notes.append(f"prompt {args.prompt!r}; cameras {protocol.label}: {protocol.summary}; light {args.light}")
    if clip.is_builtin and min(protocol.background) < DARKEST_KNOWN:
        notes.append(f"it has only seen light backgrounds: from {protocol.name} it ranks few objects right")
    if aesthetic is not None:
        notes += [aesthetic.label] + ([aesthetic.remark] if aesthetic.remark else [])
    return Scorers(clip, aesthetic, tuple(prompts), tuple(args.preference)), protocol, light, notes


def write(args: argparse.Namespace, scorers: Scorers, protocol: Protocol, scored: list[tuple[Views, Summary]]) -> None:
    """Print the table; write it, the numbers and the contact sheet."""
    lines = [row(scorers, views, summary) for views, summary in scored]
    result = {
        "prompt": args.prompt,
        "clip": scorers.clip.name,
        "clip_label": scorers.clip.label,
        "aesthetic": scorers.aesthetic.label if scorers.aesthetic else None,
        "protocol": protocol.label,
        "light": args.light,
        "prompt_list": list(scorers.prompts),
        "assets": [summary.as_json(views) for views, summary in scored],
    }
    embeddings = common_views([summary for _, summary in scored])
    if embeddings is not None:
        result["diversity"] = diversity(embeddings)
        value = f"(mean pairwise 1 - cos): {result['diversity']:.4f}"
        lines.append(f"[{scorers.clip.label}] diversity of {len(scored)} seeds {value}")
    with atomic_path(args.out / "scores.json") as path:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    with atomic_path(args.out / "table.txt") as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with naming(args.out / "sheet.png"):
        write_image(args.out / "sheet.png", contact_sheet(scored))
    print("\n".join([*lines, f"[{scorers.clip.label}] written: {args.out}/scores.json, table.txt, sheet.png"]))


def row(scorers: Scorers, views: Views, summary: Summary) -> str:
    """One line of the table."""
    found = [text.format(summary.numbers[key]) for key, text in COLUMNS.items() if key in summary.numbers]
    if "prompts" in summary.numbers:
        found.append(f"of {summary.numbers['prompts']}")
    cameras = f"{views.cameras}, {len(views.pictures)} views"
    return f"[{scorers.clip.label}] {views.path} ({cameras}): {'  '.join([*found, *views.notes])}"


def contact_sheet(scored: list[tuple[Views, Summary]]) -> np.ndarray:
    """A row of evenly picked views per object, each with its cosine; uint8 [H, W, 3]."""
    rows = []
    for views, summary in scored:
        n = len(views.pictures)
        picked = [i * n // min(n, SHEET_VIEWS) for i in range(min(n, SHEET_VIEWS))]
        cosine = summary.per_view["cosine"]
        rows.append(
            [captioned(resized(views.pictures[i], SHEET_SIZE, SHEET_SIZE), [f"{cosine[i]:.3f}"]) for i in picked]
        )
    return image_grid(rows)


if __name__ == "__main__":
    sys.exit(main())
