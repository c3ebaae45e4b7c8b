"""Pairs of noise and the teacher's ODE solution, made once, kept on disk in shards, shared by all processes."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import one_hot
from tqdm import tqdm

from ..core.errors import UserError
from ..core.files import atomically
from ..teachers.edm import EDMPrecond
from ..teachers.sampling import HeunSampler
from .config import BankConfig
from .data import ArrayData
from .randomness import Share, StepRandom


class TeacherBank:
    """Pairs (z, x_0, label) with x_0 the end of the probability-flow ODE from σ_max z.

    Args:
        cfg: count, accuracy and place.
        folder: of the shards; a sub-folder per (teacher, settings) keeps different banks apart.
        teacher: network; `frequencies` [K] of the classes, None for an unconditional one.
        seed: of noise and labels.
    """

    def __init__(self, cfg: BankConfig, folder: Path, teacher: EDMPrecond, frequencies: Tensor | None, seed: int):
        self.cfg, self.teacher, self.seed, self.frequencies = cfg, teacher, seed, frequencies
        self.sampler = HeunSampler(cfg.steps)
        self.folder = Path(folder) / self._fingerprint()
        self.noise = self.x0 = self.labels = None

    def _fingerprint(self) -> str:
        """Of everything that decides the pairs."""
        digest = hashlib.sha256()
        frequencies = None if self.frequencies is None else self.frequencies.tolist()
        settings = [self.cfg.count, self.cfg.steps, self.cfg.batch, self.seed, frequencies, self.teacher.config]
        digest.update(json.dumps(settings, sort_keys=True, default=list).encode())
        for name, tensor in sorted(self.teacher.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def shards(self) -> list[Share]:
        """Consecutive parts of the bank, one file each."""
        return Share(0, self.cfg.count, self.cfg.count).micro(self.cfg.batch)

    def make(self, rank: int = 0, world: int = 1, device: torch.device | str = "cpu", quiet: bool = False) -> None:
        """Compute this process's shards that are not on disk yet."""
        missing = [(i, s) for i, s in enumerate(self.shards()) if i % world == rank and not self._path(i).is_file()]
        hidden = quiet or rank > 0 or not missing
        for index, shard in tqdm(missing, desc="teacher samples", unit="shard", disable=hidden):
            samples = self._solve(shard, device)
            atomically(self._path(index), partial(save_file, samples))

    def load(self) -> TeacherBank:
        """Read all shards into memory."""
        try:
            parts = [load_file(self._path(i)) for i in range(len(self.shards()))]
        except (OSError, SafetensorError) as error:
            raise UserError(f"bank.path: samples in {self.folder} cannot be read ({error}); remove them") from error
        self.noise, self.x0, self.labels = (torch.cat([p[key] for p in parts]) for key in ("noise", "x0", "labels"))
        return self

    def as_data(self) -> ArrayData:
        """The images as a data set."""
        labels = None if self.frequencies is None else self.labels
        return ArrayData("teacher samples", self.x0, labels)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.safetensors"

    def _solve(self, shard: Share, device) -> dict[str, Tensor]:
        net = self.teacher
        random = StepRandom(self.seed, 0, "bank", device)
        noise = random.normal("z", shard, (net.img_channels, net.img_resolution, net.img_resolution))
        labels = torch.zeros(shard.count, dtype=torch.long)
        if self.frequencies is not None:
            labels = random.labels("labels", shard, self.frequencies)
        classes = one_hot_or_none(labels.to(device), net.label_dim)
        x0 = self.sampler(net, noise, classes)
        return {"noise": noise.cpu(), "x0": x0.float().cpu().contiguous(), "labels": labels}


def one_hot_or_none(labels: Tensor | None, classes: int) -> Tensor | None:
    """[B] class indices → [B, K] floats, None for a network without classes."""
    return one_hot(labels, classes).float() if classes else None


def frozen(network: nn.Module) -> nn.Module:
    """Without gradients, in evaluation mode."""
    return network.eval().requires_grad_(False)
