"""Runs of two or three steps on networks of 12,000 parameters."""

from __future__ import annotations

import torch

from uni_instruct_guidance.distill2d.data import ArrayData
from uni_instruct_guidance.distill2d.trainer import DistillConfig, read_config
from uni_instruct_guidance.teachers.edm import build_network

SMALL = {"model_channels": 4, "channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": ()}


def tiny_network(seed: int = 0, classes: int = 3, resolution: int = 4):
    """An EDM network whose output is not zero, unlike a fresh one's."""
    torch.manual_seed(seed)
    network = build_network("tiny", img_resolution=resolution, label_dim=classes, sigma_data=0.5, **SMALL)
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def tiny_data(classes: int = 3, count: int = 24, resolution: int = 4, channels: int = 1) -> ArrayData:
    """Random images with labels in turn."""
    torch.manual_seed(1)
    images = torch.rand(count, channels, resolution, resolution) * 2 - 1
    return ArrayData("toy", images, torch.arange(count) % classes if classes else None)


def tiny_config(*overrides: str, **fields) -> DistillConfig:
    """Three steps of six images, nothing written."""
    config = read_config(
        DistillConfig, [], ["steps=3", "batch=6", "lr=1e-3", "log_every=1", "grid=4", "bank.count=12", "bank.batch=6",
                            "bank.steps=3", "loss_scale.student=1", "trainer.accelerator=cpu", *overrides],
    )  # fmt: skip
    for name, value in fields.items():
        setattr(config, name, value)
    return config


def weights(network) -> torch.Tensor:
    """All parameters in one vector."""
    return torch.cat([p.detach().flatten() for p in network.parameters()])
