"""Whole runs by command line: in this process, in one of its own, in two, killed on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from uni_instruct_guidance.distill2d.cli import main
from uni_instruct_guidance.distill2d.trainer import DistillConfig, distill

ROOT = Path(__file__).parents[2]


def command(*arguments) -> int:
    return main(DistillConfig, distill, "test", [str(argument) for argument in arguments])


def script(*arguments, code: str = "", torchrun: bool = False):
    """scripts/distill_2d.py in a process of its own, after `code`; or in two, started by torchrun."""
    program = f"""
import runpy, sys
sys.path[:0] = ['custom', 'scripts']  # as python scripts/distill_2d.py has it
{code}
sys.argv = {["scripts/distill_2d.py", *map(str, arguments)]!r}
runpy.run_path("scripts/distill_2d.py", run_name="__main__")
"""
    command = ["-c", program]
    if torchrun:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        command = [*launcher, "scripts/distill_2d.py", *map(str, arguments)]
    # as many threads as here: sums over another number of them differ in the last bit on some processors
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)


def same_tensors(first: Path, second: Path, **tolerance):
    first, second = load_file(first), load_file(second)
    assert set(first) == set(second)
    for name in first:
        torch.testing.assert_close(first[name], second[name], **tolerance)


KILL = """
import os, signal
from uni_instruct_guidance.distill2d.base_module import StepModule
original = StepModule.training_step
def training_step(self, *arguments):
    if self.done_steps == 3: os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *arguments)
StepModule.training_step = training_step
"""
