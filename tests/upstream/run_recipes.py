"""Train, resume, test and export in an unmodified checkout of threestudio: our configurations, then its own.

    python tests/upstream/run_recipes.py CHECKOUT OUT [--only WORD …] [--skip WORD …] [--steps 5]

One process, so that threestudio is imported once; each run calls its launcher's own ``main``. Only sizes are changed,
levels of the density that five steps cannot have reached, and how a first shape is made. Writes OUT/runs.json: name ->
action -> CPU seconds, or what went wrong, and OUT/runs.md, the same as a table.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

ACTIONS = ("train", "resume", "test", "export")
SMALL = [
    "system.prompt_processor.prompt=a red mug", "use_timestamp=false", "data.eval_height=16", "data.eval_width=16",
    "data.n_test_views=2", "data.n_val_views=1", "trainer.precision=32", "trainer.num_sanity_val_steps=0",
]  # fmt: skip
BANK = ["system.guidance.bank.size=1", "system.guidance.bank.steps=2"]
#: no steps of other methods in front: the five are the method's own.
AT_ONCE = ["system.guidance.warmup.steps=0", "system.guidance.discriminator.warmup_steps=0"]
NERF = ["system.renderer.num_samples_per_ray=16"]
HASH = ["system.geometry.pos_encoding_config.log2_hashmap_size=10"]
MESH = ["system.geometry.isosurface_resolution=32"]
TEXTURE = ["system.exporter.texture_size=32"]
#: five steps leave no density at any fixed level.
LEVEL = ["system.geometry.isosurface_threshold=auto"]
#: the first shape at once, not by a thousand steps.
BALL = [f"system.geometry.{change}" for change in ("shape_init=null", "sdf_bias=sphere", "sdf_bias_params=0.5")]
FULL_PRECISION = ["system.guidance.half_precision_weights=false"]


@dataclass(frozen=True)
class Recipe:
    """One configuration and what is changed of it.

    before: recipe whose last checkpoint this one starts from. actions: of :data:`ACTIONS`.
    """

    name: str
    config: Path
    changes: tuple[str, ...]
    before: str | None = None
    actions: tuple[str, ...] = ACTIONS


def recipes(checkout: Path, out: Path, tiny: Path, built_in: Path) -> Iterator[Recipe]:
    """Everything that runs, in order.

    Args:
        tiny: teacher with random weights, in place of Stable Diffusion in our configurations.
        built_in: the teacher of the repository, for threestudio's own recipes.
    """
    name_of = "prompt_processor.pretrained_model_name_or_path"
    # our sets of three stages; the built-in teacher in its own set, a tiny one in those whose weights are elsewhere
    own_teachers = {
        "shapes": [],
        "shapes128": [f"system.{name_of}={built_in}"],
        "uni-instruct": [f"system.{name_of}={tiny}", *HASH],
    }
    for prefix, changes in own_teachers.items():
        before = None
        for stage in ("nerf", "geometry", "texture"):
            more = {"nerf": NERF + BANK + AT_ONCE, "geometry": TEXTURE, "texture": TEXTURE + BANK + AT_ONCE}[stage]
            name = f"{prefix}-{stage}"
            yield Recipe(name, CONFIGS / f"{name}.yaml", (*changes, *more, *MESH), before)
            before = name
    for prefix, changes in (("shapes", []), ("uni-instruct", own_teachers["uni-instruct"])):
        shape, texture = f"{prefix}-fantasia3d", f"{prefix}-fantasia3d-texture"
        start = ["system.latent_steps=3", *BALL] if prefix == "uni-instruct" else []
        yield Recipe(shape, CONFIGS / f"{shape}.yaml", (*changes, *MESH, *start))
        yield Recipe(texture, CONFIGS / f"{texture}.yaml", (*changes, *MESH, *TEXTURE), shape)
    for stage, before in (("", None), ("-refine", "shapes-magic3d")):
        name = f"shapes-magic3d{stage}"
        yield Recipe(name, CONFIGS / f"{name}.yaml", (*(TEXTURE if before else NERF), *MESH), before)
    baseline = [f"system.{name_of}={tiny}", *FULL_PRECISION, *HASH, *NERF, *MESH, *LEVEL, *TEXTURE]
    for name in ("dreamfusion", "prolificdreamer"):
        yield Recipe(name, CONFIGS / f"{name}.yaml", tuple(baseline))
    for overlay in sorted((CONFIGS / "methods").glob("*.yaml")):
        merged = merged_file(out, CONFIGS / "shapes-nerf.yaml", overlay)
        changes = (*BANK, *AT_ONCE, *NERF, *MESH)
        yield Recipe(f"method {overlay.stem}", merged, changes, actions=("train", "resume", "test"))
    yield from its_own(checkout / "configs", [f"system.{name_of}={built_in}"], built_in)


def its_own(folder: Path, prompts: list[str], built_in: Path) -> Iterator[Recipe]:
    """threestudio's recipes, unchanged but for the teacher's path and sizes."""
    model = f"system.guidance.pretrained_model_name_or_path={built_in}"
    lora = f"system.guidance.pretrained_model_name_or_path_lora={built_in}"
    common = [*prompts, model, *FULL_PRECISION, *MESH, *TEXTURE]
    nerf = [*common, *HASH, *NERF, *LEVEL]
    yield Recipe("its dreamfusion-sd", folder / "dreamfusion-sd.yaml", tuple(nerf))
    before = "its prolificdreamer"
    yield Recipe(before, folder / "prolificdreamer.yaml", (*nerf, lora))
    shape = "its prolificdreamer-geometry"
    # a shape without colours has nothing that its exporter could write
    yield Recipe(shape, folder / "prolificdreamer-geometry.yaml", tuple(common), before, ("train", "resume", "test"))
    config = folder / "prolificdreamer-texture.yaml"
    yield Recipe("its prolificdreamer-texture", config, (*common, lora, *HASH), shape)
    yield Recipe("its fantasia3d", folder / "fantasia3d.yaml", (*common, *BALL, "system.latent_steps=3"))
    config = folder / "fantasia3d-texture.yaml"
    yield Recipe("its fantasia3d-texture", config, (*common, *HASH), "its fantasia3d")
    yield Recipe("its magic3d-coarse-sd", folder / "magic3d-coarse-sd.yaml", tuple(nerf))
    config = folder / "magic3d-refine-sd.yaml"
    yield Recipe("its magic3d-refine-sd", config, (*common, *HASH), "its magic3d-coarse-sd")


def merged_file(out: Path, *files: Path) -> Path:
    """One file for threestudio's launcher, which takes one."""
    from omegaconf import OmegaConf

    path = out / f"{'+'.join(file.stem for file in files)}.yaml"
    OmegaConf.save(OmegaConf.merge(*map(OmegaConf.load, files)), path)
    return path


def sizes(config: Path, side: int) -> list[str]:
    """Small pictures, as numbers or as lists where the file has lists."""
    from omegaconf import OmegaConf

    width = OmegaConf.select(OmegaConf.load(config), "data.width", default=64)
    value = f"[{','.join([str(side)] * len(width))}]" if OmegaConf.is_list(width) else str(side)
    return [f"data.width={value}", f"data.height={value}"]


class Checkout:
    """The checkout's launcher, called again and again in this process."""

    def __init__(self, checkout: Path, out: Path, steps: int) -> None:
        from uni_instruct_3d.upstream.launcher import load_extension, prepare

        self.out, self.steps = out, steps
        os.chdir(checkout)
        print(prepare(checkout), flush=True)
        load_extension(checkout)
        spec = importlib.util.spec_from_file_location("upstream_launch", checkout / "launch.py")
        self.launch = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.launch)
        log = out / "runs.json"
        self.found: dict[str, dict[str, float | str]] = json.loads(log.read_text()) if log.exists() else {}

    def last(self, name: str) -> Path:
        """Newest checkpoint of a recipe."""
        found = (self.out / name.replace(" ", "_")).rglob("last.ckpt")
        return max(found, key=lambda path: path.stat().st_mtime, default=self.out / "none.ckpt")

    def run(self, name: str, action: str, config: Path, overrides: list[str]) -> None:
        """One command line."""
        flags = dict.fromkeys(("train", "validate", "test", "export"), False)
        flags["train" if action == "resume" else action] = True
        args = argparse.Namespace(config=str(config), gpu="0", gradio=False, verbose=False, typecheck=False, **flags)
        start, argv = time.process_time(), sys.argv
        sys.argv = ["launch.py", str(config)]
        try:
            self.launch.main(args, overrides)
            self.found[name][action] = round(time.process_time() - start, 1)
        except BaseException as error:
            traceback.print_exc()
            self.found[name][action] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            if isinstance(error, KeyboardInterrupt):
                raise
        finally:
            sys.argv = argv
            gc.collect()
        print("RUN", name, action, self.found[name][action], flush=True)
        self.write()

    def life(self, recipe: Recipe) -> None:
        """Train, go on for as many steps, test, export."""
        folder = self.out / recipe.name.replace(" ", "_")
        overrides = [*SMALL, f"exp_root_dir={folder}", *sizes(recipe.config, 16), *recipe.changes]
        for key in ("trainer.val_check_interval", "checkpoint.every_n_train_steps", "trainer.max_steps"):
            overrides.append(f"{key}={self.steps}")
        if recipe.before:
            overrides.append(f"system.geometry_convert_from={self.last(recipe.before)}")
        self.found[recipe.name] = {}
        self.run(recipe.name, "train", recipe.config, overrides)
        last = self.last(recipe.name)
        more = {"resume": [f"trainer.max_steps={2 * self.steps}"]}
        for action in recipe.actions[1:]:
            parsed = last.parents[1] / "configs" / "parsed.yaml"
            self.run(recipe.name, action, parsed, [f"resume={last}", *more.get(action, [])])

    def write(self) -> None:
        (self.out / "runs.json").write_text(json.dumps(self.found, indent=1) + "\n")
        lines = [f"| recipe | {' | '.join(ACTIONS)} |", "|---|" + "---|" * len(ACTIONS)]
        for name, runs in self.found.items():
            cells = ["✗" if isinstance(runs.get(action), str) else str(runs.get(action, "")) for action in ACTIONS]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        (self.out / "runs.md").write_text("\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", default=[""], help="recipes whose names begin with one of these")
    parser.add_argument("--skip", nargs="*", default=[], help="recipes whose names contain one of these")
    parser.add_argument("--steps", type=int, default=5)
    built_in = ROOT / "load" / "teachers" / "shapes"
    parser.add_argument("--teacher", type=Path, default=built_in, help="of threestudio's own recipes")
    args = parser.parse_args()
    out, checkout = args.out.resolve(), args.checkout.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    tiny = out / "teacher"
    if not tiny.is_dir():
        from tiny_teacher import make_tiny_teacher

        make_tiny_teacher(tiny)
    chosen = [
        recipe
        for recipe in recipes(checkout, out, tiny, args.teacher.resolve())
        if recipe.name.startswith(tuple(args.only)) and not any(word in recipe.name for word in args.skip)
    ]
    host = Checkout(checkout, out, args.steps)
    for recipe in chosen:
        host.life(recipe)
    failed = {name: runs for name, runs in host.found.items() if any(isinstance(run, str) for run in runs.values())}
    print(json.dumps(failed, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
