"""Everything that wants a GPU, in parts of at most ten minutes each; what is done is kept, whoever calls the next part.

    python scripts/benchmark.py gpu --part 1        # … --part 6, in any order, again and again
    python scripts/benchmark.py gpu --part 2 --quick    # the same commands at the smallest size, on any machine
    python scripts/benchmark.py gpu --part 2 --dry      # only say what would be run

A part is a row of commands of this project; each has its own time limit, writes its log and its figures into
`--folder`, and is left out of a later call when it has ended well. What fails is said and the next command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from uni_instruct_guidance.core.files import atomically

from .. import ROOT

#: Seconds that the commands of one part may take together.
PART_SECONDS = 580


@dataclass(frozen=True)
class Command:
    """One command of a part: what it shows, its arguments (of the interpreter), and for --quick those instead.

    `{out}` is a JSON file and `{folder}` a folder for what it writes. seconds: after which it is stopped.
    """

    name: str
    shows: str
    arguments: tuple[str, ...]
    quick: tuple[str, ...]
    seconds: int


def _benchmark(name: str, *arguments: str) -> tuple[str, ...]:
    return ("scripts/benchmark.py", name, *arguments, "--out", "{out}")


def _to_3d(*arguments: str) -> tuple[str, ...]:
    return ("scripts/text_to_3d.py", "a red mug", "--out", "{folder}", *arguments)


_TINY_3D = ("--quality", "fast", "--stages", "nerf", "trainer.max_steps=2", "data.width=8", "data.height=8",
            "system.guidance.bank.size=1", "system.guidance.bank.steps=1", "data.n_test_views=2")  # fmt: skip
_TESTS = ("-m", "pytest", "-q", "-p", "no:xdist", "-x")
_DIGITS = ("scripts/distill_2d.py", "--config", "configs/distill2d/digits-cond.yaml", "out={folder}")
_TEACHER = ("scripts/train_teacher.py", "--work", "{folder}/work", "--out", "{folder}/teacher", "--preset")

PARTS: dict[int, tuple[str, tuple[Command, ...]]] = {
    1: ("tests on the device, those that skip without one included", (
        Command("backends", "rasteriser, grids, occupancy, volume rendering", (*_TESTS, "tests/backends", "tests/mesh"),
                (*_TESTS, "tests/backends/test_tetrahedra.py"), 200),
        Command("upstream", "stand-ins beside the CUDA libraries, parity with upstream's numbers",
                (*_TESTS, "tests/upstream", "tests/guidance/test_stock_upstream.py"),
                (*_TESTS, "tests/house/test_arrows.py"), 200),
        Command("systems", "guidance, systems, exact resume", (*_TESTS, "tests/guidance", "tests/systems"),
                (*_TESTS, "tests/house/test_arrows.py"), 180),
    )),
    2: ("networks of Stable Diffusion 2.1's size", (
        Command("sd21-fp16", "all methods, batch 1, fp16", _benchmark("sd21", "--steps", "5", "--dtype", "fp16"),
                _benchmark("sd21", "--quick", "--methods", "sds"), 180),
        Command("sd21-bf16-4", "batch 4, bf16",
                _benchmark("sd21", "--steps", "3", "--dtype", "bf16", "--batch", "4", "--methods", "vsd", "rkl none",
                           "rkl full", "rkl full, checkpointing"),
                _benchmark("sd21", "--quick", "--methods", "vsd", "--dtype", "bf16"), 200),
        Command("sd21-compile", "torch.compile of the U-Nets",
                _benchmark("sd21", "--steps", "5", "--untimed", "4", "--compile", "--methods", "vsd", "rkl none"),
                _benchmark("sd21", "--quick", "--methods", "rkl none"), 200),
    )),
    3: ("from a prompt to files with the built-in teacher", (
        Command("mug", "wall time of the whole, teacher's samples too", _to_3d("--gpu", "0"), _to_3d(*_TINY_3D), 400),
        Command("vsd", "the NeRF by VSD, one pass",
                _to_3d("--gpu", "0", "--method", "vsd", "--stages", "nerf"), _to_3d("--method", "vsd", *_TINY_3D), 180),
    )),
    4: ("ratios and growth", (
        Command("nerf", "methods against VSD", _benchmark("nerf", "--rounds", "20"),
                _benchmark("nerf", "--rounds", "1", "--settle", "0", "--methods", "rkl none", "data.width=8",
                           "data.height=8", "system.guidance.bank.size=1", "system.guidance.bank.steps=1"), 200),
        Command("scaling", "every size", _benchmark("scaling", "--memory", "80"),
                _benchmark("scaling", "--quick", "--axes", "batch"), 380),
    )),
    5: ("one-step generators", (
        Command("digits", "a short run of the shipped digits", (*_DIGITS, "steps=2000"),
                (*_DIGITS, "steps=1", "batch=4", "trainer.accelerator=cpu"), 180),
        Command("cifar10", "CIFAR-10's network, random weights, bf16",
                _benchmark("distill2d", "--network", "cifar10-uncond", "--precision", "bf16", "--batch", "128"),
                _benchmark("distill2d", "--methods", "sida", "--batch", "2", "--rounds", "1", "--steps", "1"), 200),
        Command("cifar10-compile", "the same through torch.compile",
                _benchmark("distill2d", "--network", "cifar10-uncond", "--precision", "bf16", "--batch", "128",
                           "--compile", "--methods", "sida", "uni_instruct rkl"),
                _benchmark("distill2d", "--methods", "sida", "--batch", "2", "--rounds", "1", "--steps", "1"), 200),
    )),
    6: ("the teacher's preset for GPUs, its phases cut short", (
        Command("teacher", "renders, VAE and U-Net of the preset gpu go through",
                (*_TEACHER, "gpu", "--phases", "data", "vae", "latents", "text", "unet", "--vae-steps", "300",
                 "--unet-steps", "300"),
                (*_TEACHER, "tiny", "--phases", "data", "vae", "--vae-steps", "2", "--device", "cpu"), 580),
    )),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parts = "; ".join(f"{number}: {title}" for number, (title, _) in PARTS.items())
    parser.add_argument("--part", type=int, choices=list(PARTS), required=True, help=parts)
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "gpu", help="logs and figures")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, for a machine without a GPU")
    parser.add_argument("--dry", action="store_true", help="say what would be run")


def run(args: argparse.Namespace) -> dict:
    title, commands = PARTS[args.part]
    if not (torch.cuda.is_available() or args.quick or args.dry):
        raise ValueError("there is no GPU here; --quick runs the same commands at the smallest size, --dry names them")
    folder = args.folder / f"part-{args.part}{'-quick' if args.quick else ''}"
    rows = {command.name: _carry_out(command, folder, args.quick, args.dry) for command in commands}
    return {"part": args.part, "title": title, "folder": str(folder), "commands": rows}


def _carry_out(command: Command, folder: Path, quick: bool, dry: bool) -> dict:
    """Run it, or take what an earlier call left; its status, seconds and figures."""
    place, out = folder / command.name, folder / f"{command.name}.json"
    words = {"{out}": str(out), "{folder}": str(place)}
    arguments = [_filled(word, words) for word in (command.quick if quick else command.arguments)]
    if dry:
        return {"shows": command.shows, "command": " ".join(["python", *arguments]), "seconds": command.seconds}
    done = folder / f"{command.name}.done.json"
    if done.is_file():
        return json.loads(done.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    if place.is_dir() and quick:
        shutil.rmtree(place)
    start, log = time.monotonic(), folder / f"{command.name}.log"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            status: int | str = process.wait(command.seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with every process that it has started
            process.wait()
            status = f"stopped after {command.seconds} s"
    row = {"shows": command.shows, "status": status, "seconds": round(time.monotonic() - start, 1), "log": str(log)}
    if out.is_file():
        row["figures"] = json.loads(out.read_text(encoding="utf-8"))
    if status == 0:
        text = json.dumps(row, indent=1)
        atomically(done, lambda partial: partial.write_text(text, encoding="utf-8"))
    return row


def _filled(word: str, words: dict[str, str]) -> str:
    for name, value in words.items():
        word = word.replace(name, value)
    return word
