"""A step by torch's operators: where time goes below the networks, what multiplies in fp32 where bf16 is meant.

Every operator of a few training steps is timed, forwards and backwards, by name, precision and the network it belongs
to (`backward`: of the losses; the way back into the latents is in `everything else`). `products` are matrix products
and convolutions, which bf16 or fp16 units speed up; `fp32_share` is the part of their time that runs in fp32;
`conversions` is what changing precision costs. Clocks around every operator lengthen small ones: read shares, not
seconds.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..command import COUNT
from ._harness import CLOCK, Scene, project_config, seconds_now, step

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward", "linear")
CONVERSIONS = ("_to_copy",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default=str(project_config("shapes-nerf.yaml")))
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--steps", type=COUNT, default=3)
    parser.add_argument("--top", type=COUNT, default=25, help="operators to name")
    parser.add_argument("overrides", nargs="*", metavar="key=value")


class Operators(TorchDispatchMode):
    """Seconds and calls of every operator by (network, name, precision)."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[tuple[str, str, str], float] = defaultdict(float)
        self.calls: dict[tuple[str, str, str], int] = defaultdict(int)
        self.network = ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        start = seconds_now()
        result = func(*args, **(kwargs or {}))
        key = (self.network, func.overloadpacket.__name__, _precision(args))
        self.seconds[key] += seconds_now() - start
        self.calls[key] += 1
        return result

    @contextmanager
    def within(self, network: str):
        """Operators of this block belong to `network`."""
        before, self.network = self.network, network
        try:
            yield
        finally:
            self.network = before

    def name(self, module: nn.Module, network: str) -> None:
        """Whatever a module's forward calls belongs to `network`."""
        call = module.forward

        def named(*args: Any, **kwargs: Any) -> Any:
            with self.within(network):
                return call(*args, **kwargs)

        object.__setattr__(module, "forward", named)


def _precision(args: Any) -> str:
    """Of the first floating tensor among the arguments."""
    for argument in args:
        if isinstance(argument, (list, tuple)):
            argument = argument[0] if argument else None
        if isinstance(argument, torch.Tensor) and argument.is_floating_point():
            return str(argument.dtype).removeprefix("torch.")
    return "none"


def run(args: argparse.Namespace) -> dict:
    scene = Scene.build(args.config, args.prompt, args.overrides)
    guidance = scene.guidance(bank={"size": 1, "steps": 1, "spread": 0})
    optimizer = scene.optimizer(guidance)
    operators = Operators()
    named = {"renderer": scene.system, "encoder": guidance.teacher.vae.encoder, "teacher": guidance.teacher.unet}
    if guidance.networks.fake is not None:
        named["fake score"] = guidance.networks.fake.unet
    if guidance.networks.head is not None:
        named["discriminator head"] = guidance.networks.head
    for network, module in named.items():
        operators.name(module, network)
    step(scene, guidance, scene.next_batch(), optimizer)
    for _ in range(args.steps):
        batch = scene.next_batch()
        with operators, operators.within("everything else"):
            optimizer.zero_grad(set_to_none=True)
            out = scene.system(batch)
            losses = guidance(out["comp_rgb" if "comp_rgb" in out else "comp_normal"], scene.prompts, **batch)
            total = sum(value for key, value in losses.items() if key.startswith("loss_"))
            with operators.within("backward"):
                total.backward()
            with operators.within("optimiser"):
                optimizer.step()
    return {
        "clock": CLOCK,
        "weights": str(guidance.teacher.dtype).removeprefix("torch."),
        **_table(operators, args.top),
    }


def _table(operators: Operators, top: int) -> dict:
    total = sum(operators.seconds.values())

    def percent(wanted) -> float:
        return round(100 * sum(spent for key, spent in operators.seconds.items() if wanted(*key)) / total, 1)

    networks = sorted({network for network, _, _ in operators.seconds})
    largest = sorted(operators.seconds.items(), key=lambda item: -item[1])[:top]
    products = percent(_multiplies)
    slow = percent(lambda *key: _multiplies(*key) and key[2] == "float32")

    def by_network(wanted) -> dict[str, float]:
        return {n: percent(lambda *key, n=n: key[0] == n and wanted(*key)) for n in networks}

    return {
        "percent_by_network": by_network(lambda *_: True),
        "products_percent": products,
        "fp32_share_of_products": round(slow / products, 3) if products else 0.0,
        "fp32_products_percent": by_network(lambda *key: _multiplies(*key) and key[2] == "float32"),
        "conversions_percent": by_network(lambda network, name, precision: name in CONVERSIONS),
        "largest": [
            {"what": " ".join(key), "calls": operators.calls[key], "percent": round(100 * spent / total, 1)}
            for key, spent in largest
        ],
    }


def _multiplies(network: str, name: str, precision: str) -> bool:
    return name in PRODUCTS
