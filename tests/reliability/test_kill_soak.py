"""Every stage, killed at random moments and gone on with, ends as if nothing had happened: bit for bit.

    pytest -m slow tests/reliability/test_kill_soak.py -s        -k texture: one stage; SOAK_SEED=… repeats a run of it

Each kill is a SIGKILL to a process of its own, which trains the stage the way the pipeline does (run_stage), with a
tiny teacher. Where the system cannot be asked to kill at an exact place, the process kills itself there.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import Callback

from threestudio.utils import files, sealed
from threestudio.utils.sealed import damage
from uni_instruct_3d import ROOT
from uni_instruct_3d.pipeline.stage_runner import StageJob, run_stage
from uni_instruct_3d.pipeline.stages import STAGES

#: Nine steps, validated after 3, 6 and 9, saved after 2, 4, 6, 8 and at the end.
STEPS, VALIDATIONS, SAVES = 9, 3, 5
SMALL = (
    f"trainer.max_steps={STEPS}", "trainer.val_check_interval=3", "checkpoint.every_n_train_steps=2", "data.width=8",
    "data.height=8", "data.eval_width=8", "data.eval_height=8", "data.n_val_views=1", "data.n_test_views=1",
    "system.guidance.bank.size=1", "system.guidance.bank.steps=1", "system.guidance.warmup.steps=2",
    "system.guidance.discriminator.warmup_steps=3",
)  # fmt: skip

#: Where a process kills itself, and how often that place comes by in a run. The last one is killed from outside.
PLACES = {
    "before a step": STEPS,
    "before a validation": VALIDATIONS,
    "after a validation": VALIDATIONS,
    "within the bytes of a checkpoint": SAVES,
    "before a checkpoint is flushed": SAVES,
    "between a checkpoint's second name and its new content": SAVES,
    "after a checkpoint has its name": SAVES,
    "at any time": None,
}
#: Kills per stage and place: 13 in all.
KILLS = {**dict.fromkeys(PLACES, 1), "before a step": 2, "before a validation": 2, "after a validation": 2}
KILLS["at any time"] = 3


@dataclass(eq=False)
class Kill(Callback):
    """Ends this process without warning when ``place`` comes by for the ``turn``-th time (from 0)."""

    place: str
    turn: int
    passed: int = 0

    def here(self, place: str) -> None:
        if place == self.place:
            if self.passed == self.turn:
                os.kill(os.getpid(), signal.SIGKILL)
            self.passed += 1

    def on_train_batch_start(self, *_) -> None:
        self.here("before a step")

    def on_validation_start(self, *_) -> None:
        self.here("before a validation")

    def on_validation_end(self, *_) -> None:
        self.here("after a validation")

    def watch_writing(self) -> None:
        """The places inside the writing of a checkpoint."""
        seal, flush, rename, second = sealed._seal, os.fsync, os.replace, sealed._second_name

        def before_seal(file, digest):
            self.here("within the bytes of a checkpoint")
            seal(file, digest)

        def before_flush(descriptor):
            self.here("before a checkpoint is flushed")
            flush(descriptor)

        def after_second_name(path, other):
            second(path, other)
            self.here("between a checkpoint's second name and its new content")

        def after_rename(source, target):
            rename(source, target)
            if Path(target).name == "last.ckpt":
                self.here("after a checkpoint has its name")

        sealed._seal, sealed._second_name = before_seal, after_second_name
        sealed.os.fsync, files.os.replace = before_flush, after_rename


def train(job: StageJob, kill: Kill | None) -> None:
    """What a process does: the stage, from where it stands."""
    os.environ.pop("PL_GLOBAL_SEED", None)
    torch.set_num_threads(1)
    if kill is not None:
        kill.watch_writing()
    run_stage(job, [] if kill is None else [kill])


def context():
    """Processes that begin with everything imported and nothing run."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["threestudio.runner", "uni_instruct_guidance.systems", __name__])
    return forks


def in_a_process(job: StageJob, kill: Kill | None = None, seconds: float | None = None) -> int:
    """Exit status; ``seconds``: after which it is killed from outside, if it still runs."""
    process = context().Process(target=train, args=(job, kill))
    process.start()
    process.join(seconds)
    if process.is_alive() and seconds is not None:
        process.kill()
    process.join()
    return process.exitcode


def final(job: StageJob) -> dict:
    """What a run is: everything that goes on from here depends on it."""
    checkpoint = torch.load(job.checkpoint, weights_only=True)
    return {key: checkpoint[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")}


def same(a, b) -> bool:
    """Bitwise equality of nested states; NaN would be equal to itself."""
    if torch.is_tensor(a):
        return a.dtype == b.dtype and torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


class Soak:
    """Folders of the runs: one whole, and one for every kill."""

    def __init__(self, folder: Path, teacher: Path, seed: int) -> None:
        self.folder, self.teacher, self.seed = folder, teacher, seed
        self.seconds: dict[str, float] = {}
        context().Process(target=time.sleep, args=(0,)).start()  # everything is imported once, before time is taken

    def job(self, stage: str, name: str) -> StageJob:
        """The stage in the folder ``name``; the stages before it are those of the whole run."""
        row = next(row for row in STAGES if row.name == stage)
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        if name != "whole" and row.after:
            (folder / row.after).symlink_to(self.folder / "whole" / row.after)
        model = f"system.prompt_processor.pretrained_model_name_or_path={self.teacher}"
        bank = f"system.guidance.bank_dir={self.folder / name / 'bank'}"
        config = ROOT / "configs" / row.config.format(set="shapes")
        return StageJob(row, folder, (config,), "a red mug", 3, folder / "log.txt", (*SMALL, model, bank), "cpu")

    def whole(self, stage: str) -> dict:
        """The uninterrupted run, after those of the stages before it."""
        job = self.job(stage, "whole")
        if stage not in self.seconds:
            if job.stage.after:
                self.whole(job.stage.after)
            start = time.monotonic()
            assert in_a_process(job) == 0, job.log.read_text()[-2000:]
            self.seconds[stage] = time.monotonic() - start
        return final(job)

    def killed(self, stage: str, place: str, index: int) -> StageJob:
        """A run that was killed there; it is started again where it was done before the kill."""
        draw = random.Random(f"{self.seed} {stage} {place} {index}")
        for tries in range(10):
            job = self.job(stage, f"{stage}-{list(PLACES).index(place)}-{index}-{tries}")
            if PLACES[place] is None:
                # the machine may be faster now than when the run was timed: each try that came too late is shortened
                status = in_a_process(job, seconds=draw.uniform(0.2, 0.95) * 0.7**tries * self.seconds[stage])
            else:
                status = in_a_process(job, Kill(place, draw.randrange(PLACES[place] - 1)))
            if status == -signal.SIGKILL:
                return job
            assert status == 0 and PLACES[place] is None, job.log.read_text()[-2000:]  # was done before the kill
        raise AssertionError(f"{stage} was always done before the kill")


@pytest.fixture(scope="module")
def soak(tiny_teacher, tmp_path_factory) -> Soak:
    """The same whole runs for every stage."""
    return Soak(
        tmp_path_factory.mktemp("soak"), tiny_teacher, int(os.environ.get("SOAK_SEED", random.randrange(2**32)))
    )


@pytest.mark.slow
@pytest.mark.parametrize("stage", [row.name for row in STAGES])
def test_killed_runs_end_as_if_nothing_had_happened(soak, stage):
    expected, stood, begun = soak.whole(stage), [], time.monotonic()
    for place, count in KILLS.items():
        for index in range(count):
            job = soak.killed(stage, place, index)
            what = f"{stage} killed {place}, seed {soak.seed}"
            for path in (job.trial / "ckpts").glob("[!.]*"):
                assert damage(path) is None, f"{what}: {path.name} is damaged"
            stood.append(final(job)["global_step"] if job.checkpoint.is_file() else 0)
            assert in_a_process(job) == 0, f"{what}: {job.log.read_text()[-2000:]}"
            for part, value in final(job).items():
                assert same(value, expected[part]), f"{what}, gone on from step {stood[-1]}: {part} differs"
            assert not list((job.trial / "ckpts").glob(".*")), f"{what}: half-written files are left"
    assert len(stood) == sum(KILLS.values()) >= 10
    minutes, steps = (time.monotonic() - begun) / 60, ", ".join(map(str, sorted(stood)))
    kills = f"{len(stood)} kills in {minutes:.1f} minutes"
    print(f"\n{stage}, seed {soak.seed}: {kills}, gone on from steps {steps}: the same end, bit for bit")
