"""Train the classifier in whose features digits are compared, and ship it.

    python scripts/train_digit_classifier.py            20 s on one thread -> load/judge/digits.safetensors
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import _environment  # noqa: F401
from tqdm import tqdm

from uni_instruct_3d import ROOT
from uni_instruct_3d.command import COUNT, SEED, require_file_place, run_command
from uni_instruct_3d.help import Help
from uni_instruct_guidance.distill2d.data import DataConfig, load_data
from uni_instruct_guidance.distill2d.digit_classifier import ClassifierConfig, save_classifier, train_classifier


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 after one line about what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("--out", type=Path, default=ROOT / "load" / "judge" / "digits.safetensors")
    parser.add_argument("--steps", type=COUNT, default=ClassifierConfig.steps)
    parser.add_argument("--seed", type=SEED, default=ClassifierConfig.seed)
    args = parser.parse_args(arguments)
    return run_command("error", lambda: train(args), args.out)


def train(args: argparse.Namespace) -> None:
    """Train, report the accuracy on the held-out fifth, write the weights."""
    require_file_place("--out", args.out)
    config = dataclasses.replace(ClassifierConfig(), steps=args.steps, seed=args.seed)
    data = load_data(DataConfig("digits"))
    with tqdm(total=config.steps, unit="step", mininterval=1.0) as bar:

        def on_step(step: int, loss: float) -> None:
            bar.update(1)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

        model, accuracy = train_classifier(data.images(range(len(data))), data.labels, config, on_step)
    save_classifier(model, args.out, {"held_out_accuracy": round(accuracy, 4), **dataclasses.asdict(config)})
    held_out = round(config.held_out * len(data))
    print(f"right on {accuracy:.1%} of {held_out} held-out digits; {args.out} ({args.out.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    sys.exit(main())
