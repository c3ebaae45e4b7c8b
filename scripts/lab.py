"""The laboratory in the plane: one-step generators against analytic mixtures, fake score and density ratio learned.

    python scripts/lab.py                                     every method, 8-ring and 25-grid: one table, two pictures
    python scripts/lab.py --methods uni_fkl_paper sid --targets grid25 --steps 4000
    python scripts/lab.py --sweep kappa --steps 1200          path weight against weighting, for every divergence
    python scripts/lab.py --causes                            why forms diverge: the ratio, one fault at a time

Writes `table.md`, `results.json` and pictures into `--out`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import _environment  # noqa: F401
from tqdm import tqdm

from threestudio.utils.guard import stopping_at_once
from uni_instruct_3d.command import COUNT, SEED, run_command
from uni_instruct_3d.help import Help
from uni_instruct_3d.lab2d.causes import causes_tables
from uni_instruct_3d.lab2d.experiments import Result, default_experiments, kappa_sweep, plan, run_all
from uni_instruct_3d.lab2d.report import kappa_plot, ordered, picture_grid, save_results, table, write_text
from uni_instruct_3d.lab2d.targets import TARGETS
from uni_instruct_3d.lab2d.training import LabConfig
from uni_instruct_guidance.core import WEIGHTINGS
from uni_instruct_guidance.core.errors import require_writable


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line; an unknown method lists the choices."""
    defaults = LabConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("--methods", nargs="+", help="rows of the table (default: all)")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), help="default: all (kappa sweep: grid25)")
    parser.add_argument("--sweep", choices=["kappa"], help="compare path weights and weightings instead of methods")
    parser.add_argument("--causes", action="store_true", help="measure the ratio's faults one at a time, nothing else")
    parser.add_argument("--steps", type=COUNT, default=defaults.steps, help="generator updates")
    parser.add_argument("--seed", type=SEED, default=0, help="seeds initial weights, noise and samples")
    parser.add_argument("--seeds", type=COUNT, default=1, help="number of runs, seeds counting up from --seed")
    parser.add_argument("--weighting", choices=list(WEIGHTINGS), default="epsilon", help="of Uni-Instruct's rows")
    parser.add_argument("--batch", type=COUNT, default=defaults.batch)
    parser.add_argument("--workers", type=COUNT, default=2, help="processes, one thread each")
    parser.add_argument("--out", type=Path, default=Path("outputs/lab"))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 after one line about what the user can mend."""
    args = parse(arguments)
    return run_command("error", lambda: run(args), args.out)


def run(args: argparse.Namespace) -> None:
    """Train, compare, write."""
    if args.causes:
        write_text(args.out / "causes.md", causes_tables(lambda line: print(line, flush=True)))
        return
    experiments = kappa_sweep() if args.sweep else default_experiments(args.steps, args.weighting)
    labels = [experiment.label for experiment in experiments]
    unknown = sorted(set(args.methods or ()) - set(labels))
    if unknown:
        raise ValueError(f"--methods: {unknown[0]!r} is not known; choose from {', '.join(labels)}")
    require_writable("--out", args.out)
    experiments = [e for e in experiments if not args.methods or e.label in args.methods]
    targets = args.targets or (["grid25"] if args.sweep else list(TARGETS))

    config = LabConfig(steps=args.steps, batch=args.batch)
    jobs = plan(experiments, targets, config, seeds=range(args.seed, args.seed + args.seeds))
    total = sum(len(job.experiments) * (args.steps // 20 * 20) for job in jobs)
    results, stopped = [], ""
    try:
        with stopping_at_once(), tqdm(total=total, unit="step", smoothing=0.02) as progress:
            for finished in run_all(jobs, args.workers, progress):
                results += finished
    except (KeyboardInterrupt, SystemExit):
        missing = sum(len(job.experiments) for job in jobs) - len(results)
        what = f"what is finished is in {args.out}" if results else "nothing was finished"
        stopped = f"stopped by a signal with {missing} runs missing; {what}"
    if results:
        write(args, ordered(results, labels), targets, whole=not stopped)
    if stopped:
        raise ValueError(stopped)


def write(args: argparse.Namespace, results: list[Result], targets: list[str], whole: bool) -> None:
    """Table, figures and pictures of what there is; the sweep's picture needs the whole of it."""
    text = table(results)
    write_text(args.out / "table.md", text)
    save_results(args.out / "results.json", results)
    if args.sweep and not args.methods and whole:
        kappa_plot(args.out / "kappa.png", results)
    for target in targets if not args.sweep else ():
        shown = [r for r in results if r.target == target and r.seed == args.seed]
        if shown:
            picture_grid(args.out / f"{target}.png", shown)
    print(text)
    print(f"written to {args.out}")


if __name__ == "__main__":
    sys.exit(main())
