"""What both trainers share: manual optimisation with accumulation, guarded steps, moving average, exact resume."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..core import Schedule
from ..core.errors import UserError
from ..teachers.contract import frozen_twin
from ..teachers.randomness import Share, StepRandom
from .config import RunConfig, schedule
from .data import ImageData, StepSampler, image_loader
from .ema import decay_of, update_average

# After so many updates in a row without a finite gradient, or without one finite sample, going on is hopeless.
MAX_SKIPPED_IN_A_ROW = 100
MAX_REJECTED_IN_A_ROW = 20
# Under this name steps without a finite sample are counted beside the optimisers' skipped updates.
REJECTED = "rejected"


class StepModule(pl.LightningModule, ABC):
    """One training step is one batch of the loader; every random number of it is a function of (seed, step).

    Attributes:
        title: of the progress bar.
        done_steps: finished training steps.
        skipped: name of an optimiser ↦ its updates that were skipped for a gradient that was not finite; `rejected` ↦
            steps without one finite sample.
    """

    title = "training"

    def __init__(self, cfg: RunConfig, data: ImageData | None, shipped: nn.Module):
        super().__init__()
        self.automatic_optimization = False
        self.cfg, self.data = cfg, data
        self.ema = frozen_twin(shipped)
        self.done_steps = 0
        self.skipped: dict[str, int] = {}
        self._skipped_in_a_row: dict[str, int] = {}
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}

    # --- for subclasses ---------------------------------------------------------------------------------------------

    @abstractmethod
    def shipped(self) -> nn.Module:
        """The network that is averaged and shipped."""

    @abstractmethod
    def train_step(self, images: Tensor, labels: Tensor) -> None:
        """One step on this process's real images, on the device."""

    def networks(self) -> list[nn.Module]:
        """Every network that a step evaluates."""
        return [self.shipped()]

    def updates_with_data(self) -> int:
        """Updates of a step that want a batch of real images."""
        return 1

    def random(self, purpose: str) -> StepRandom:
        """Random numbers of this step."""
        return StepRandom(self.cfg.seed, self.done_steps, purpose, self.device)

    def share(self) -> Share:
        """This process's part of the global batch."""
        count = self.cfg.batch // self.trainer.world_size
        return Share(self.trainer.global_rank * count, count, self.cfg.batch)

    def add_scalars(self, scalars: dict[str, Tensor | float], weight: float = 1.0) -> None:
        """Collect scalars for the log without waiting for the device; micro-batches count by their weight."""
        for name, value in scalars.items():
            value = torch.as_tensor(value, device=self.device).detach().float() * weight
            self._sums[name] = self._sums.get(name, torch.zeros((), device=self.device)) + value
            self._counts[name] = self._counts.get(name, 0.0) + weight

    def accumulate(self, losses: Iterable[Tensor], micro: list[Share]) -> None:
        """Back-propagate the mean over the process's share; processes exchange gradients with the last micro-batch."""
        count = sum(share.count for share in micro)
        for index, (share, loss) in enumerate(zip(micro, losses)):
            loss = loss * (share.count / count)
            if index + 1 < len(micro) and hasattr(self.trainer.strategy, "block_backward_sync"):
                with self.trainer.strategy.block_backward_sync():
                    self.manual_backward(loss)
            else:
                self.manual_backward(loss)
        # Lightning below 2.6 caches half-precision weights for the whole step, but the next update changes them.
        torch.clear_autocast_cache()

    def guarded_step(self, name: str, optimizer, lr: Schedule) -> bool:
        """One optimiser step with this step's learning rate, unless a gradient is not finite; whether it was taken."""
        for group in optimizer.param_groups:
            group["lr"] = lr(self.done_steps)
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm(grads, foreach=True)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        true_norm = norm if scaler is None else norm / scaler.get_scale()
        finite = bool(torch.isfinite(norm))
        if finite and self.cfg.clip_grad is not None:
            torch._foreach_mul_(grads, (self.cfg.clip_grad / true_norm.clamp_min(1e-12)).clamp(max=1.0))
        if finite or scaler is not None:  # the scaler must see the overflow: it skips and lowers its scale
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if finite:
            self._skipped_in_a_row[name] = 0
            self.add_scalars({f"grad_norm/{name}": true_norm})
        else:
            self._count_skipped(name)
        return finite

    def count_rejected(self, judged: int, rejected: int | Tensor) -> None:
        """Notice a step all of whose `judged` samples, of every process, were `rejected` for not being finite.

        Their gradient is zero, which `guarded_step` takes for a good one.
        """
        if not judged:
            return
        left = torch.as_tensor(judged - rejected, device=self.device).float()
        if self.trainer.strategy.reduce(left, reduce_op="sum") > 0:
            self._skipped_in_a_row[REJECTED] = 0
            return
        why = "teacher, fake score or student are not finite (NaN or Inf) for any sample of the batch"
        if not self.skipped.get(REJECTED):
            rank_zero_warn(f"step {self.done_steps}: {why}; such steps teach the student nothing", stacklevel=1)
        in_a_row = self._count(REJECTED)
        if in_a_row >= MAX_REJECTED_IN_A_ROW:
            raise UserError(
                f"training cannot go on: {why}, {in_a_row} steps in a row (step {self.done_steps}); "
                "check the teacher's weights, or use precision=fp32"
            )

    def _count(self, name: str) -> int:
        self.skipped[name] = self.skipped.get(name, 0) + 1
        self._skipped_in_a_row[name] = self._skipped_in_a_row.get(name, 0) + 1
        return self._skipped_in_a_row[name]

    def _count_skipped(self, name: str) -> None:
        in_a_row = self._count(name)
        if in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise UserError(
                f"training cannot go on: {in_a_row} updates of {name} in a row had gradients that are not finite "
                f"(step {self.done_steps}); lower the learning rate or use precision=fp32"
            )

    def flush_scalars(self) -> dict[str, float]:
        """Means since the last call, over all processes; every process must call it."""
        names = sorted(self._sums)
        if not names:
            return {}
        means = torch.stack([self._sums[name] / self._counts[name] for name in names])
        means = self.trainer.strategy.reduce(means, reduce_op="mean")
        self._sums, self._counts = {}, {}
        return dict(zip(names, means.tolist()))

    # --- Lightning's hooks ------------------------------------------------------------------------------------------

    def training_step(self, batch, batch_idx: int) -> None:
        images, labels = batch
        if self.cfg.dropout:
            torch.manual_seed(self.cfg.seed * 1_000_003 + self.done_steps * 1009 + self.trainer.global_rank)
        self.train_step(images, labels)
        seen = (self.done_steps + 1) * self.cfg.batch
        update_average(
            self.ema, self.shipped(), decay_of(self.cfg.batch, seen, self.cfg.ema.halflife_kimg, self.cfg.ema.rampup)
        )
        self.done_steps += 1

    def on_fit_start(self) -> None:
        world = self.trainer.world_size
        if self.cfg.batch % world:
            raise UserError(f"batch={self.cfg.batch} must divide by the number of processes, {world}")

    def train_dataloader(self) -> DataLoader:
        data = self.data if self.updates_with_data() else _NoImages()
        sampler = StepSampler(
            len(data), self.cfg.batch, self.cfg.steps, start=self.done_steps, updates=max(1, self.updates_with_data()),
            rank=self.trainer.global_rank, world=self.trainer.world_size, seed=self.cfg.seed,
        )  # fmt: skip
        return image_loader(data, sampler, self.cfg.data.workers)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        # A step is all that a run is a function of. Lightning's own counts of batches and epochs would end a longer
        # run where the shorter one ended.
        checkpoint.pop("loops", None)
        checkpoint["config"] = dataclasses.asdict(self.cfg)
        checkpoint["progress"] = {
            "done_steps": self.done_steps, "skipped": self.skipped, "skipped_in_a_row": self._skipped_in_a_row,
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        progress = checkpoint["progress"]
        self.done_steps, self.skipped = progress["done_steps"], dict(progress["skipped"])
        self._skipped_in_a_row = dict(progress["skipped_in_a_row"])

    def adam(self, parameters: Iterator[nn.Parameter], lr) -> torch.optim.Adam:
        """Adam with the run's settings; the learning rate is set before each step."""
        start = schedule("lr", lr)(0)
        return torch.optim.Adam(parameters, lr=start, betas=tuple(self.cfg.betas), eps=self.cfg.eps)


class _NoImages:
    """Stands for a data set in a run that looks at no image: one empty batch per step."""

    def __len__(self) -> int:
        return 1

    def __getitems__(self, indices) -> tuple[Tensor, Tensor]:
        return torch.empty(0), torch.empty(0, dtype=torch.long)
