"""Both engines: results, exceptions, dying workers."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from uni_instruct_3d.comparison.engines import run_local, run_ray

ITEMS = [4.0, -1.0, 9.0, 16.0]


def check(outcomes: list) -> None:
    """Square roots, and the reason where there is none."""
    found = {item: (result, error) for item, result, error in outcomes}
    assert len(outcomes) == len(ITEMS) and set(found) == set(ITEMS)
    assert [found[item] for item in (4.0, 9.0, 16.0)] == [(2.0, None), (3.0, None), (4.0, None)]
    result, error = found[-1.0]
    assert result is None and "ValueError" in error


def die_at_two(item: int) -> int:
    if item == 2:
        os._exit(7)
    return os.getpid()


@pytest.mark.parametrize("jobs", [1, 3])
def test_local(jobs):
    check(list(run_local(math.sqrt, ITEMS, jobs)))


def test_more_jobs_than_items():
    assert [result for _, result, _ in run_local(math.sqrt, [4.0], 8)] == [2.0]


def test_a_dead_worker_is_named_and_replaced():
    outcomes = {item: (pid, error) for item, pid, error in run_local(die_at_two, [1, 2, 3, 4], 1)}
    assert outcomes[2] == (None, "the worker process died with exit code 7")
    pids = [outcomes[item][0] for item in (1, 3, 4)]
    assert pids[0] != pids[1] and pids[1] == pids[2] and os.getpid() not in pids


def test_workers_do_not_outlive_an_interrupted_run():
    outcomes = run_local(die_at_two, [1, 3, 4, 5], 1)
    _, pid, _ = next(outcomes)
    outcomes.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_workers_do_not_outlive_a_killed_run(tmp_path):
    """SIGKILL leaves no time to tidy up: the workers have to notice."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time, os\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from uni_instruct_3d.comparison.engines import run_local\n"
        "def work(seconds):\n    print(os.getpid(), flush=True)\n    time.sleep(seconds)\n"
        "if __name__ == '__main__':\n    list(run_local(work, [60], 1))\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").is_dir() and time.monotonic() < deadline:
        time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_gpus_are_shared_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    seen = {result for _, result, _ in run_local(os.getenv, ["CUDA_VISIBLE_DEVICES"] * 4, 2)}
    assert seen == {"5", "7"}


def test_ray():
    pytest.importorskip("ray")
    check(list(run_ray(math.sqrt, ITEMS, 1)))


def node_of(seconds: float) -> str:
    """Where the task ran. Long enough that one machine cannot take them all."""
    time.sleep(seconds)
    return pytest.importorskip("ray").get_runtime_context().get_node_id()


@pytest.mark.slow
def test_ray_over_two_machines(cluster):
    """Both take items; when one goes down its item is named, and the other machine does what is left."""
    outcomes = list(run_ray(node_of, [1.0, 1.01, 1.02, 1.03], 1))
    nodes = {node for _, node, error in outcomes if error is None}
    assert len(outcomes) == 4 and len(nodes) == 2

    dying = threading.Timer(6, cluster.remove_node, (cluster.second,), {"allow_graceful": False})
    dying.start()
    outcomes = list(run_ray(node_of, [14.0, 14.01, 1.0], 1))
    dying.join()
    (lost,) = [error for _, _, error in outcomes if error]
    assert len(outcomes) == 3 and lost.startswith("Ray lost the task: ")
    assert len({node for _, node, error in outcomes if error is None}) == 1
