"""Rows of a table that cost minutes each: measured in processes of their own, kept as they come, gone on with."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from uni_instruct_guidance.core.files import atomically


class Rows:
    """name ↦ figures; those that `out` holds from an earlier call with the same settings are not measured again.

    Args:
        out: JSON file with "settings" and "rows", or None.
        settings: what decides the figures.
    """

    def __init__(self, out: Path | None, settings: dict) -> None:
        self.out, self.settings, self.rows = out, json.loads(json.dumps(settings)), {}
        if out is not None and out.is_file():
            before = json.loads(out.read_text(encoding="utf-8"))
            if before.get("settings") != self.settings:
                raise ValueError(f"--out {out} holds figures of other settings; choose another file or remove it")
            self.rows = {name: row for name, row in before["rows"].items() if "error" not in row}

    def get(self, name: str, measure: Callable[[], dict]) -> dict:
        """The row, measured now if it is not there yet."""
        if name not in self.rows:
            print(f"{name} …", flush=True)
            self.rows[name] = measure()
            print(f"{name}: {json.dumps(self.rows[name])}", flush=True)
            if self.out is not None:
                text = json.dumps({"settings": self.settings, "rows": self.rows}, indent=1)
                atomically(self.out, lambda partial: partial.write_text(text + "\n", encoding="utf-8"))
        return self.rows[name]


def in_process(call: Callable[..., dict], *arguments: Any, most_seconds: float | None = None) -> dict:
    """What a module's function returns in a process of its own; {"error": …} where it dies, raises or takes too long.

    On a CPU the process is forked from this one, so that imports are paid once; a GPU wants a fresh one.
    """
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, call, arguments))
    start = time.perf_counter()
    process.start()
    sender.close()
    answer: dict = {"error": "it ended without a word (out of memory?)"}
    try:
        if receiver.poll(most_seconds):
            answer = receiver.recv()
        else:
            answer = {"error": f"stopped after {most_seconds:.0f} s"}
            process.kill()
    except EOFError:
        pass
    process.join()
    return {**answer, "seconds_in_all": round(time.perf_counter() - start, 1)}


def _answer(sender, call: Callable[..., dict], arguments: tuple) -> None:
    _be_the_first_to_go()
    try:
        sender.send(call(*arguments))
    except (Exception, SystemExit) as error:  # a row that fails is a figure too
        sender.send({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})


def _be_the_first_to_go() -> None:
    """Where memory runs out, this process is to end and not another one of the machine."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    score = Path("/proc/self/oom_score_adj")
    if score.exists() and os.access(score, os.W_OK):
        score.write_text("1000")
