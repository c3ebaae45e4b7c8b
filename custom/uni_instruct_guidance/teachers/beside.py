"""A second thread for what does not wait for the first: another network's pass, the way back of other losses.

A pass over small latents is a row of small operators. A second core finds little to do inside one, and its threads wait
for each other after every one; two passes at once keep two cores busy. So torch's threads are shared out: with two,
each operator has one. Nothing random may be drawn beside: it would depend on who comes first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# This process's second thread, by process number: a forked one has no threads of its parent's.
_POOLS: dict[int, ThreadPoolExecutor] = {}
# Torch's threads before they were shared out, and the share.
_shared_out: tuple[int, int] = (0, 0)


def _pool() -> ThreadPoolExecutor:
    if os.getpid() not in _POOLS:
        _POOLS.clear()
        _POOLS[os.getpid()] = ThreadPoolExecutor(1, thread_name_prefix="beside")
    return _POOLS[os.getpid()]


def share_out() -> int:
    """Give each operator half of torch's threads from now on, once; returns how many that is, 0 where there is one."""
    global _shared_out
    threads = torch.get_num_threads()
    whole = _shared_out[0] if threads == _shared_out[1] else threads
    if whole < 2:
        return 0
    _shared_out = whole, whole // 2
    torch.set_num_threads(whole // 2)
    return whole // 2


class Beside:
    """Runs things in a second thread: on a CPU for which torch has several, where it is wanted.

    Everywhere else they run here, in the order in which they are started, and torch's threads stay as they are. With as
    many threads in each operator the numbers are the same.
    """

    def __init__(self, wanted: bool, device: torch.device) -> None:
        self.threads = share_out() if wanted and torch.device(device).type == "cpu" else 0

    @property
    def active(self) -> bool:
        """Whether there is a second thread."""
        return self.threads > 0

    def start(self, call: Callable[[], T]) -> Callable[[], T]:
        """Let the second thread do it, after what it was given before; returns what waits for the result."""
        if not self.active:
            result = call()
            return lambda: result
        grad = torch.is_grad_enabled()

        def run() -> T:
            torch.set_num_threads(self.threads)  # this setting and that of gradients are each thread's own
            with torch.set_grad_enabled(grad):
                return call()

        return _pool().submit(run).result

    def losses(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same scalars, whose way back runs in the second thread while this one goes on with that of others.

        They must share no part of their graphs with what else is differentiated at once.
        """
        if not self.active or not losses:
            return losses
        values = [loss.detach().requires_grad_() for loss in losses.values()]
        return dict(zip(losses, _WayBack.apply(self, list(losses.values()), *values)))


class _WayBack(torch.autograd.Function):
    """Scalars that stand for others; their gradients are taken beside and awaited when the whole way back is done."""

    @staticmethod
    def forward(ctx, beside: Beside, losses: list[Tensor], *values: Tensor) -> tuple[Tensor, ...]:
        ctx.beside, ctx.losses = beside, losses
        return tuple(value.clone() for value in values)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        losses = ctx.losses
        done = ctx.beside.start(lambda: torch.autograd.backward(losses, grads))
        torch.autograd.Variable._execution_engine.queue_callback(done)
        return None, None, *(None for _ in grads)
