"""Train, resume, test and export in an unmodified checkout of threestudio: our configurations, then its own.

    python tests/upstream/run_recipes.py CHECKOUT OUT [--only WORD …] [--steps 5]

One process, so that threestudio is imported once; each run calls its launcher's own ``main``. Only sizes are changed.
Writes OUT/runs.json: name -> seconds, or what went wrong.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

SMALL = [
    "system.prompt_processor.prompt=a red mug", "use_timestamp=false", "data.eval_height=16", "data.eval_width=16",
    "data.n_test_views=2", "data.n_val_views=1", "trainer.precision=32", "trainer.num_sanity_val_steps=0",
]  # fmt: skip
BANK = ["system.guidance.bank.size=1", "system.guidance.bank.steps=2"]
NERF = ["system.renderer.num_samples_per_ray=16"]
HASH = ["system.geometry.pos_encoding_config.log2_hashmap_size=10"]
MESH = ["system.geometry.isosurface_resolution=32"]
#: our sets of three stages -> overrides beside the common ones.
SETS = {"shapes": [], "uni-instruct": [*HASH]}


def sizes(config: Path, side: int) -> list[str]:
    """Small pictures, as numbers or as lists where the file has lists."""
    from omegaconf import OmegaConf

    width = OmegaConf.select(OmegaConf.load(config), "data.width", default=64)
    value = f"[{side},{side}]" if OmegaConf.is_list(width) else str(side)
    return [f"data.width={value}", f"data.height={value}"]


class Checkout:
    """The checkout's launcher, called again and again in this process."""

    def __init__(self, checkout: Path, out: Path, steps: int, only: list[str]) -> None:
        from uni_instruct_3d.upstream.launcher import load_extension, prepare

        self.out, self.steps, self.only = out, steps, only
        os.chdir(checkout)
        print(prepare(checkout), flush=True)
        load_extension(checkout)
        spec = importlib.util.spec_from_file_location("upstream_launch", checkout / "launch.py")
        self.launch = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.launch)
        self.found: dict[str, str] = {}

    def run(self, name: str, action: str, config: Path, *overrides: str) -> bool:
        """One command line; returns whether it went through."""
        if self.only and not any(word in name for word in self.only):
            return True
        flags = dict.fromkeys(("train", "validate", "test", "export"), False) | {action: True}
        args = argparse.Namespace(config=str(config), gpu="0", gradio=False, verbose=False, typecheck=False, **flags)
        start, argv = time.perf_counter(), sys.argv
        sys.argv = ["launch.py", str(config)]
        try:
            self.launch.main(args, [*overrides])
            self.found[name] = f"{time.perf_counter() - start:.1f} s"
        except BaseException as error:
            traceback.print_exc()
            self.found[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        sys.argv = argv
        print("RUN", name, self.found[name], flush=True)
        (self.out / "runs.json").write_text(json.dumps(self.found, indent=1) + "\n")
        return self.found[name].endswith(" s")

    def life(self, name: str, config: Path, *overrides: str, export: bool = True) -> Path:
        """Train, go on for as many steps, test, export; returns the last checkpoint."""
        common = [*SMALL, f"exp_root_dir={self.out / name}", *sizes(config, 16), *overrides]
        steps = ["trainer.val_check_interval={0}", "checkpoint.every_n_train_steps={0}", "trainer.max_steps={0}"]
        common = [*common, *[step.format(self.steps) for step in steps]]
        self.run(f"{name}: train", "train", config, *common)
        last = max((self.out / name).rglob("last.ckpt"), key=lambda path: path.stat().st_mtime, default=None)
        if last is None:
            return self.out / "none.ckpt"
        parsed, resume = last.parents[1] / "configs" / "parsed.yaml", f"resume={last}"
        self.run(f"{name}: resume", "train", parsed, resume, f"trainer.max_steps={2 * self.steps}")
        self.run(f"{name}: test", "test", parsed, resume)
        if export:
            self.run(f"{name}: export", "export", parsed, resume)
        return last


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--teacher", type=Path, help="of threestudio's own recipes; a tiny random one if not given")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    tiny = args.teacher.resolve() if args.teacher else out / "teacher"
    if not tiny.is_dir():
        from tiny_teacher import make_tiny_teacher

        make_tiny_teacher(tiny)
    checkout = args.checkout.resolve()
    host = Checkout(checkout, out, args.steps, args.only)
    teacher = [f"system.prompt_processor.pretrained_model_name_or_path={tiny}"]

    for prefix, changes in SETS.items():
        # the built-in teacher in its own configurations, the tiny one in those of Stable Diffusion
        by = teacher if prefix == "uni-instruct" else []
        before = ROOT / "configs" / f"{prefix}-nerf.yaml"
        last = host.life(f"{prefix}-nerf", before, *changes, *by, *NERF, *BANK, *MESH)
        for stage in ("geometry", "texture"):
            config = ROOT / "configs" / f"{prefix}-{stage}.yaml"
            more = [f"system.geometry_convert_from={last}", *changes, *by, *MESH, "system.exporter.texture_size=32"]
            last = host.life(f"{prefix}-{stage}", config, *more, *(BANK if stage == "texture" else []))

    own = [*teacher, "system.guidance.half_precision_weights=false"]
    model = f"system.guidance.pretrained_model_name_or_path={tiny}"
    lora = f"system.guidance.pretrained_model_name_or_path_lora={tiny}"
    folder = checkout / "configs"
    host.life("dreamfusion-sd", folder / "dreamfusion-sd.yaml", *own, model, *HASH, *NERF, *MESH)
    last = host.life("prolificdreamer", folder / "prolificdreamer.yaml", *own, model, lora, *HASH, *NERF, *MESH)
    for stage, more in (("geometry", [model]), ("texture", [model, lora, *HASH])):
        changes = [*own, *more, *MESH, f"system.geometry_convert_from={last}", "+system.exporter.texture_size=32"]
        changes[-1] = changes[-1].removeprefix("+")
        name = f"prolificdreamer-{stage}"
        last = host.life(name, folder / f"{name}.yaml", *changes, export=stage == "texture")
    for ours in ("dreamfusion", "prolificdreamer"):
        config = ROOT / "configs" / f"{ours}.yaml"
        host.life(f"our {ours}", config, *own, *HASH, *NERF, *MESH, export=False)

    from omegaconf import OmegaConf

    for overlay in sorted((ROOT / "configs" / "methods").glob("*.yaml")):
        if overlay.stem in ("di_pp", "di_star"):  # rewards ask a CLIP model
            continue
        merged = out / f"shapes-nerf-{overlay.stem}.yaml"
        files = (ROOT / "configs" / "shapes-nerf.yaml", overlay)
        OmegaConf.save(OmegaConf.merge(*map(OmegaConf.load, files)), merged)
        changes = [*SMALL, *sizes(merged, 16), *BANK, *NERF, *MESH, f"exp_root_dir={out / overlay.stem}"]
        changes += ["system.guidance.warmup.steps=0", "system.guidance.discriminator.warmup_steps=0"]
        changes += [f"trainer.max_steps={args.steps}", f"trainer.val_check_interval={args.steps}"]
        host.run(f"method {overlay.stem}: train", "train", merged, *changes)
    return 0 if all(text.endswith(" s") for text in host.found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
