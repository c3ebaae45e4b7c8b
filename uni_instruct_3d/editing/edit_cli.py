"""Edit a picture by a pair of prompts: what it shows, and what it is to show.

    python scripts/edit.py mug.png --from "a red mug" --to "a blue mug"
    python scripts/edit.py mug.png --from "a red mug" --to "a blue mug" --mask handle.png --seeds 0 1 2 --compare

Delta denoising score (arXiv 2304.07090) with any Stable-Diffusion-format teacher; the built-in one knows the words of
text_to_3d.py --list-words. Results: the edited picture, before and after side by side, the size of the gradient along
the way, page.html. docs/editing.md says what each option does.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from ..command import COUNT, POSITIVE, SCALE, SEED, device, run_command
from ..help import Help
from . import BUILTIN

NAME = "edit"


def make_parser() -> argparse.ArgumentParser:
    from uni_instruct_guidance.core.weighting import WEIGHTINGS
    from uni_instruct_guidance.editing.delta import EDITORS, SPACES, EditConfig

    default = EditConfig()
    parser = argparse.ArgumentParser(prog="edit.py", description=__doc__, formatter_class=Help)
    parser.add_argument("picture", type=Path, help="a picture file; resized to what the teacher draws")
    parser.add_argument("--from", dest="source", required=True, metavar="PROMPT", help="what the picture shows")
    parser.add_argument("--to", dest="target", required=True, metavar="PROMPT", help="what it is to show")
    parser.add_argument("--mask", type=Path, metavar="FILE", help="white where the picture may change")
    parser.add_argument("--seeds", type=SEED, nargs="+", default=[0], metavar="N", help="one result each")
    parser.add_argument("--compare", action="store_true", help="SDS with the same settings beside it")
    how = parser.add_argument_group("how")
    how.add_argument("--method", default=default.method, choices=EDITORS, help="row of the methods table")
    how.add_argument("--steps", type=COUNT, default=default.steps, metavar="N", help="of gradient descent")
    how.add_argument("--lr", type=POSITIVE, default=default.lr, metavar="RATE", help="of the first step")
    how.add_argument("--guidance", type=SCALE, default=GUIDANCE, metavar="SCALE", help="classifier-free, in both terms")
    how.add_argument("--noise", type=SCALE, nargs=2, default=list(default.noise), metavar=("LEAST", "MOST"),
                     help="noise levels, as fractions of the teacher's process")  # fmt: skip
    how.add_argument("--weighting", choices=list(WEIGHTINGS), help="of the noise levels; else the row's")
    how.add_argument("--space", default=default.space, choices=SPACES, help="what is edited")
    how.add_argument("--teacher", default=BUILTIN, help="a diffusers Stable-Diffusion folder or hub id")
    how.add_argument("--device", type=device, default="cpu", help="as torch calls it")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="else outputs/edit/, named after picture and prompt")
    return parser


#: The built-in teacher's, found on eight renders (docs/editing.md); the paper takes 7.5 for Stable Diffusion.
GUIDANCE = 2.5


def main(argv: list[str] | None = None) -> int:
    """0; 1 after Ctrl-C; 2 after one line about what the user can mend."""
    args = make_parser().parse_args(argv)
    return run_command(NAME, partial(_edit, args), args.out, stopped="nothing was written")


def _edit(args: argparse.Namespace) -> None:
    import torch
    from tqdm import tqdm

    from uni_instruct_guidance.core.errors import UserError, require_writable
    from uni_instruct_guidance.editing.delta import EDITORS, EditConfig, Prompts, edit
    from uni_instruct_guidance.teachers.opening import open_teacher
    from uni_instruct_guidance.teachers.stable_diffusion.text import PromptConditions

    from ..pipeline.stages import slug
    from ..teacher_factory.judge import built_in_judge
    from .pictures import read_mask, read_picture
    from .results import Entry, print_results, write_results

    config = EditConfig(
        args.method, args.steps, args.lr, args.guidance, tuple(args.noise), args.weighting, args.space
    )  # fmt: skip
    for option, text in {"--from": args.source, "--to": args.target}.items():
        if not text.strip():
            raise UserError(f"{option} is empty; say what the picture shows and what it is to show")
    read_picture(args.picture, 8)  # a wrong file is named before the teacher is loaded
    if args.teacher.endswith(".safetensors"):
        raise UserError(
            f"--teacher {args.teacher}: EDM networks read no prompts; give a Stable-Diffusion-format folder"
        )
    teacher = open_teacher(args.teacher, torch.device(args.device))
    before = read_picture(args.picture, teacher.image_size)
    mask = None if args.mask is None else read_mask(args.mask, before, teacher.image_size)
    folder = args.out or Path("outputs") / "edit" / f"{slug(args.picture.stem)}-{slug(args.target)}"
    require_writable("--out", folder)
    judge = built_in_judge() if args.teacher == BUILTIN else None
    view = "" if judge is None else _view_of(judge, before.pixels, args)
    told = [args.source + view, args.target + view]
    notes = [f"{args.picture.name}: {note}" for note in before.notes] + _unknown(args)
    if view:
        notes.append(f"the teacher is told “{told[0]}” and “{told[1]}”: say a view yourself if it is another one")
    for note in notes:
        print(f"{NAME}: {note}")

    conditions, seeds = PromptConditions(teacher.name, told), args.seeds
    texts = conditions.embed([*told, ""], torch.device(args.device))
    prompts = Prompts(*(text.expand(len(seeds), -1, -1) for text in texts[:, None]))
    pictures = before.pixels.to(args.device).expand(len(seeds), -1, -1, -1)
    masks = None if mask is None else mask.to(args.device).expand(len(seeds), -1, -1, -1)
    entries, facts = [Entry("before", args.source, before.pixels)], {}
    others = [name for name in EDITORS if name != config.method] if args.compare else []
    for method in [config.method, *others]:
        chosen, start = replace(config, method=method), time.monotonic()
        with tqdm(total=config.steps, desc=method, leave=False) as bar:
            done = edit(teacher, pictures, prompts, chosen, seeds, masks, lambda *_: bar.update())
        seconds = time.monotonic() - start
        label = f", {method.upper()}" if args.compare else ""
        for seed, picture in zip(seeds, done.pictures):
            name = "edited" if method == config.method else method
            suffix = f"-seed{seed}" if len(seeds) > 1 else ""
            curve = done.curve if seed == seeds[0] else []
            entries.append(Entry(f"{name}{suffix}", f"{args.target}{label}{suffix}", picture.cpu(), curve))
        facts[f"{method}: seconds, teacher's calls per picture"] = f"{seconds:.1f}, {done.calls}"
    facts |= {} if judge is None else _judged(judge, entries)
    settings = {**asdict(config), "from": told[0], "to": told[1], "seeds": seeds, "teacher": args.teacher}
    title = f"{args.source} → {args.target}"
    written = write_results(folder, title, entries, settings, facts, notes, "size of the gradient per latent value")
    print_results(NAME, facts, written)


def _unknown(args: argparse.Namespace) -> list[str]:
    """Words that the built-in teacher has never seen."""
    if args.teacher != BUILTIN:
        return []
    from ..shapes_world.words import unknown_words

    unknown = {**unknown_words(args.source), **unknown_words(args.target)}
    return [f"the teacher does not know: {', '.join(unknown)}; text_to_3d.py --list-words"] if unknown else []


def _read(judge, picture, head: str) -> str:
    logits = judge(picture.permute(1, 2, 0)[None])[head]
    return judge.names[head][int(logits.argmax())]


def _view_of(judge, picture, args: argparse.Namespace) -> str:
    """The view phrase of the picture, where neither prompt has one: the teacher's captions did, and without it DDS
    turns what is seen towards all views at once."""
    from ..shapes_world.vocabulary import with_view

    named = any("view" in prompt.lower().split() for prompt in (args.source, args.target))
    return "" if named else with_view("", _read(judge, picture, "view"))


def _judged(judge, entries) -> dict[str, str]:
    """What the world's judge reads in each picture."""
    read = {}
    for entry in entries:
        words = [_read(judge, entry.picture, head) for head in ("pattern", "color", "class")]
        read[f"the judge reads in {entry.name}"] = " ".join(word for word in words if word != "plain")
    return read
