"""Which methods the laboratory compares, and how the work is shared out over processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from queue import Empty
from statistics import median

import torch

from uni_instruct_guidance.core import DIVERGENCES, Method, get_method

from .metrics import Quality, assess
from .targets import TARGETS
from .training import LabConfig, Trainer

# In the plane there is no teacher network to adapt, so a LoRA fake score is a full one. Left out: dds (needs a
# reference), red_diff (a measurement), di_pp and di_star (a reward), sid_lsg (a condition), swiftbrush (is vsd here).
BASELINES = ("sds", "vsd", "diff_instruct", "dmd", "dmd2", "sim", "sid", "sida", "f_distill")
# Beside a gradient of order one per sample (weighting epsilon).
GAN_WEIGHT = 0.3
# Share of the samples that the boundary terms of the gradient by parts get, where they are on.
BOUNDARY = 0.25
KAPPAS = (-0.4, 0.0, 0.5, 1.0)
SWEEP_WEIGHTINGS = ("uniform", "epsilon", "x0_normalised")
SWEEP_DIVERGENCES = ("fkl", "rkl", "jkl", "chi2", "js")


@dataclass(frozen=True)
class Experiment:
    """One row of the table: a label and the method behind it."""

    label: str
    method: Method


def uni_instruct(divergence: str, gradient: str, kappa: float = 0.0, gan: float = 0.0, **options) -> Experiment:
    """Uni-Instruct, by default without adversarial term."""
    options |= {"divergence": divergence, "gradient": gradient, "kappa": kappa, "auxiliary": {"gan": gan}}
    extra = ("_boundary" if options.get("boundary") else "") + ("_gan" if gan else "")
    return Experiment(f"uni_{divergence}_{gradient}{extra}", get_method("uni_instruct", **options))


def default_experiments(steps: int, weighting: str) -> list[Experiment]:
    """Every method that applies in the plane, and Uni-Instruct for every divergence: by parts, as printed, exact."""
    rows = [Experiment(name, get_method(name)) for name in BASELINES]
    for divergence in DIVERGENCES:
        rows += [
            uni_instruct(divergence, "by_parts", weighting=weighting),
            uni_instruct(divergence, "by_parts", boundary=BOUNDARY, weighting=weighting),
            uni_instruct(divergence, "paper", weighting=weighting),
            uni_instruct(divergence, "exact", 1.0, weighting=weighting),
        ]
    rows += [
        uni_instruct(divergence, "paper", gan=GAN_WEIGHT, weighting=weighting) for divergence in ("fkl", "rkl", "jkl")
    ]
    scheduled = uni_instruct("rkl", "paper", weighting=weighting, schedule={steps // 2: {"divergence": "fkl"}})
    return [*rows, Experiment("uni_rkl_then_fkl", scheduled.method)]


def kappa_sweep() -> list[Experiment]:
    """Path weight against weighting for every divergence; labels are `divergence/weighting/kappa`."""
    return [
        Experiment(f"{d}/{w}/{kappa}", uni_instruct(d, "exact", kappa, weighting=w).method)
        for d in SWEEP_DIVERGENCES
        for w in SWEEP_WEIGHTINGS
        for kappa in KAPPAS
    ]


@dataclass(frozen=True)
class Result:
    """One assessed run.

    Attributes:
        seconds: its share of its group's time.
        samples: [N, 2] for the picture.
        critic_slope: median over the run of the discriminator's calibration slope; None where no ratio is read.
    """

    target: str
    label: str
    seed: int
    quality: Quality
    seconds: float
    samples: torch.Tensor
    critic_slope: float | None = None

    def row(self) -> dict[str, float | str | int]:
        """Flat, for JSON and tables."""
        figures = {"target": self.target, "method": self.label, "seed": self.seed}
        figures |= {**asdict(self.quality), "critic_slope": self.critic_slope}
        return {**figures, "seconds": round(self.seconds, 1)}


@dataclass(frozen=True)
class Job:
    """One stack of experiments on one target."""

    target: str
    experiments: tuple[Experiment, ...]
    config: LabConfig
    seed: int


def plan(
    experiments: Sequence[Experiment], targets: Sequence[str], config: LabConfig, seeds: Sequence[int], size: int = 8
) -> list[Job]:
    """Stacks of at most `size` replicas that need the same critics, number of updates and levels, the longest first."""
    alike: dict[tuple, list[Experiment]] = {}
    for experiment in experiments:
        method = experiment.method
        needs = (method.fake_updates, method.needs_discriminator, method.objective.boundary)
        alike.setdefault(needs, []).append(experiment)
    stacks = [tuple(group[start : start + size]) for group in alike.values() for start in range(0, len(group), size)]
    jobs = [Job(target, stack, config, seed) for seed in seeds for target in targets for stack in stacks]
    return sorted(jobs, key=lambda job: -len(job.experiments) * job.experiments[0].method.fake_updates)


def run_job(job: Job, report: Callable[[int, dict[str, float]], None] | None = None) -> list[Result]:
    """Train and assess one stack on one thread; `report(steps_done, losses)` every 20 steps."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    target = TARGETS[job.target]()

    def on_step(step: int, losses: dict[str, float]) -> None:
        if report is not None and (step + 1) % 20 == 0:
            report(20 * len(job.experiments), losses)

    trainer = Trainer([experiment.method for experiment in job.experiments], target, job.config, job.seed)
    samples = trainer.run(on_step).sample(10_000)
    seconds = (time.perf_counter() - start) / len(job.experiments)
    results = []
    for i, (experiment, drawn) in enumerate(zip(job.experiments, samples)):
        reads = experiment.method.objective.needs_ratio
        slope = median(slopes[i] for slopes in trainer.slopes) if reads and trainer.slopes else None
        quality = assess(drawn, target)
        results.append(Result(job.target, experiment.label, job.seed, quality, seconds, drawn[:3000].clone(), slope))
    return results


def _run_in_worker(job: Job, queue) -> list[Result]:
    return run_job(job, lambda steps, losses: queue.put((steps, losses)))


def run_all(jobs: Sequence[Job], workers: int, progress) -> Iterator[list[Result]]:
    """All jobs on `workers` processes of one thread, each job's results when it is finished.

    A signal ends the processes at once; what was given until then is whole.

    Args:
        progress: tqdm bar counting steps of single methods.
    """
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as started:
        with _deaf_to_ctrl_c():
            queue = started.enter_context(context.Manager()).Queue()
            pool = started.enter_context(ProcessPoolExecutor(workers, mp_context=context))
            pending = {pool.submit(_run_in_worker, job, queue) for job in jobs}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                for finished in done:
                    yield finished.result()
                _drain(queue, progress)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started in this block do not hear Ctrl-C, which a terminal sends to all: the parent ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _drain(queue, progress) -> None:
    while True:
        try:
            steps, losses = queue.get_nowait()
        except Empty:
            return
        progress.update(steps)
        progress.set_postfix({name: f"{value:.3g}" for name, value in losses.items()}, refresh=False)
