"""What benchmarks of training steps share: a scene from a configuration, one step of it, clocks, peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import ROOT


def synchronise() -> None:
    """Wait for the device's queue."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_now() -> float:
    """A clock: of the GPU's work, else of the processor's own seconds over all threads, which other work on the machine
    does not lengthen."""
    synchronise()
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


#: What `seconds_now` counts, for tables.
CLOCK = "wall clock, queue drained" if torch.cuda.is_available() else "processor seconds, all threads"


def reset_peak() -> None:
    """Peak memory counts from here (on a CPU: from the process's start, where the system cannot forget it)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:  # a container may forbid it
            return


def peak_gib() -> float:
    """Most memory held since `reset_peak`, in GiB: of the GPU's allocator, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status")
    if status.exists():
        kilobytes = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(kilobytes) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


class Shares:
    """Seconds by label: whatever runs between two switches belongs to the label of the first."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock, self._label, self._since = clock, "other", clock()

    def switch(self, label: str) -> str:
        """From now on `label`; returns what it was."""
        synchronise()
        now = self._clock()
        self.seconds[self._label] += now - self._since
        before, self._label, self._since = self._label, label, now
        return before

    def around(self, owner: Any, method: str, label: str, back: str | None = None) -> None:
        """Count every call of a method under `label`, and the backward pass that starts at its results under `back`
        (None: `label`)."""
        call = getattr(owner, method)

        def counted(*args, **kwargs):
            before = self.switch(label)
            result = call(*args, **kwargs)
            self.switch(before)
            return self._marked(result, back or label)

        object.__setattr__(owner, method, counted)

    def _marked(self, result: Any, label: str) -> Any:
        if isinstance(result, torch.Tensor):
            return _Mark.apply(result, self, label)
        if isinstance(result, tuple):
            return tuple(self._marked(part, label) for part in result)
        if isinstance(result, dict):
            return {key: self._marked(part, label) for key, part in result.items()}
        return result

    def percent(self) -> dict[str, float]:
        """Shares of the whole."""
        total = sum(self.seconds.values())
        return {label: round(100 * seconds / total, 1) for label, seconds in sorted(self.seconds.items())}


class _Mark(torch.autograd.Function):
    """The identity; its backward says that the gradient has reached a network. The engine finishes the part of a graph
    that was built last before it turns to an earlier one, so networks do not interleave."""

    @staticmethod
    def forward(ctx, x, shares: Shares, label: str):
        ctx.shares, ctx.label = shares, label
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        ctx.shares.switch(ctx.label)
        return grad, None, None


@dataclass
class Scene:
    """A 3D model, its cameras and its prompt."""

    cfg: Any
    system: Any
    batches: Iterator[dict]
    prompts: Any
    device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        self.device = next(self.system.geometry.parameters()).device

    @classmethod
    def build(cls, config: str | Path, prompt: str, overrides: list[str]) -> Scene:
        """From a configuration's YAML file with ``key=value`` on top."""
        import threestudio
        import uni_instruct_guidance.guidance
        import uni_instruct_guidance.models
        import uni_instruct_guidance.systems  # noqa: F401
        from threestudio.utils.config import load_config

        given = [f"system.prompt_processor.prompt={prompt}", "exp_root_dir=outputs/benchmark", *overrides]
        cfg = load_config(config, cli_args=given, n_gpus=1)
        system = threestudio.find(cfg.system_type)(cfg.system)
        data = threestudio.find(cfg.data_type)(cfg.data)
        data.setup("fit")
        prompts = threestudio.find(cfg.system.prompt_processor_type)(cfg.system.prompt_processor)()
        return cls(cfg, system.train(), iter(data.train_dataloader()), prompts)

    def next_batch(self) -> dict:
        batch = next(self.batches)
        return {key: value.to(self.device) if torch.is_tensor(value) else value for key, value in batch.items()}

    def guidance(self, **changes) -> Any:
        """The configuration's, without its warm-up and with changes. One thing after the other: clocks look at one."""
        from omegaconf import OmegaConf

        import threestudio

        block = OmegaConf.merge(self.cfg.system.guidance, {"warmup": {"steps": 0}, "side_by_side": False}, changes)
        guidance = threestudio.find(self.cfg.system.guidance_type)(block)
        guidance.update_step(0, 1)  # at 0, as at every hundredth, the critic's calibration is measured too
        return guidance

    def optimizer(self, guidance) -> torch.optim.Optimizer:
        parameters = [*self.system.geometry.parameters(), *guidance.parameters()]
        return torch.optim.AdamW(parameters, lr=0.01, betas=(0.9, 0.99), eps=1e-15, fused=True)


def step(scene: Scene, guidance, batch: dict, optimizer, shares: Shares | None = None) -> None:
    """One step of training, its losses unweighted."""
    optimizer.zero_grad(set_to_none=True)
    out = scene.system(batch)
    losses = guidance(out["comp_rgb" if "comp_rgb" in out else "comp_normal"], scene.prompts, **batch)
    total = sum(value for key, value in losses.items() if key.startswith("loss_"))
    total.backward()
    if shares is not None:
        shares.switch("optimiser")
    optimizer.step()
    if shares is not None:
        shares.switch("other")


def watch(shares: Shares, scene: Scene, guidance) -> None:
    """Clocks around everything that a step of this guidance calls; the way back under names of its own."""
    networks = guidance.networks
    shares.around(scene.system, "forward", "render", "render, back")
    shares.around(guidance.teacher, "encode", "encoder", "encoder, back")
    shares.around(networks, "_ask_teacher", "teacher", "teacher, back")
    if networks.fake is not None:
        shares.around(networks.fake, "forward", "fake score", "fake score, back")
        shares.around(networks.fake, "encode", "discriminator's passes", "fake score, back")
    if networks.head is not None:
        shares.around(networks.head, "forward", "discriminator head", "discriminator head")


def project_config(name: str) -> Path:
    return ROOT / "configs" / name
