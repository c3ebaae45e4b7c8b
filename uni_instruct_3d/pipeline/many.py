"""Many prompts and seeds: over the cores of this machine or a Ray cluster, resumable, with one page at the end."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .events import StageError
from .run import Run
from .settings import Settings

#: Which of several seeds is the best.
BEST_BY = "clip_x100"


@dataclass(frozen=True)
class Worker:
    """What a process does with a run's folder; imports are made once per process.

    threads: of each run; 0: as many as torch takes.
    """

    threads: int = 0

    def __call__(self, folder: str) -> dict[str, Any]:
        """``error``: why it failed, else empty; ``scores``."""
        if self.threads:
            import torch

            torch.set_num_threads(self.threads)
        run = Run.open(folder)
        try:
            run.start()
            return {"error": "", "scores": run.scores()}
        except (StageError, ValueError, OSError) as error:
            return {"error": str(error), "scores": {}}


def run_many(settings: list[Settings], out: Path, engine: str = "local", jobs: int | None = None) -> int:
    """Do what is left of all runs, say which failed, write ``gallery.html`` into `out`.

    Returns:
        exit status: 0, or 1 where a run failed.

    Raises:
        ValueError: settings that are twice the same; an engine that is not installed; see Run.create.
    """
    from ..comparison.engines import ENGINES, visible_gpus

    if len({str(s.identity) for s in settings}) < len(settings):
        raise ValueError("the same prompt with the same seed is there twice")
    runs = {str(run.folder): run for run in (Run.create(one, out) for one in settings)}
    outcome: dict[str, dict[str, Any]] = {}
    for folder, run in runs.items():
        if run.finished and run.scored:
            outcome[folder] = {"error": "", "scores": run.scores()}
    todo = [folder for folder in runs if folder not in outcome]
    cpu = settings[0].device == "cpu"
    jobs = jobs or (len(visible_gpus()) if not cpu else 0) or os.cpu_count() or 1
    jobs = max(1, min(jobs, len(todo)))
    _say(f"{len(outcome)} of {len(runs)} are finished; {len(todo)} to go, {jobs} at once")
    worker = Worker(threads=max(1, (os.cpu_count() or 1) // jobs) if engine == "local" else 1)
    with tqdm(total=len(todo), desc="text-to-3d", unit="run", disable=not todo) as bar:
        for folder, result, error in ENGINES[engine](worker, todo, jobs) if todo else ():
            outcome[folder] = result or {"error": error.strip().splitlines()[-1], "scores": {}}
            if outcome[folder]["error"]:
                bar.write(f"text-to-3d: failed: {Path(folder).name}: {outcome[folder]['error']}", file=sys.stderr)
            bar.update()
    return _tell(runs, outcome, out)


def _tell(runs: dict[str, Run], outcome: dict[str, dict[str, Any]], out: Path) -> int:
    from ..report.gallery import Card, write_gallery

    best = best_of(runs, outcome)
    cards = []
    for folder, run in runs.items():
        told = outcome.get(folder, {"error": "never started", "scores": {}})
        cards.append(Card(run.settings.prompt, run.settings.seed, Path(folder), told["scores"], told["error"],
                          best.get(run.settings.prompt) == folder, tuple(run.progress.notes)))  # fmt: skip
    page = write_gallery(cards, out / "gallery.html")
    failed = [card for card in cards if card.error]
    for prompt, folder in best.items():
        if sum(run.settings.prompt == prompt for run in runs.values()) > 1:
            _say(f"best of {prompt!r}: {folder}")
    for card in failed:
        _say(f"failed: {card.folder.name}: {card.error}")
    _say(f"results: {page}")
    return 1 if failed else 0


def best_of(runs: dict[str, Run], outcome: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Prompt -> folder of its best run, of those that have a score."""
    best: dict[str, str] = {}
    for folder, run in runs.items():
        score, prompt = outcome.get(folder, {}).get("scores", {}).get(BEST_BY), run.settings.prompt
        if score is not None and (prompt not in best or score > outcome[best[prompt]]["scores"][BEST_BY]):
            best[prompt] = folder
    return best


def _say(text: str) -> None:
    print(f"text-to-3d: {text}", file=sys.stderr)
