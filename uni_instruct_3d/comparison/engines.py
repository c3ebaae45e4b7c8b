"""Where cells run: processes of this machine, or a Ray cluster. Both give results back as they come.

An engine takes `work(item) -> result`, which must be picklable, and yields (item, result, error): what work returned,
or why there is no result. One item's failure, even the death of its process, leaves the others alone.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from .. import ROOT

#: Where workers find the project, whatever started them.
PATHS = [str(ROOT), *(str(ROOT / name) for name in ("portable", "custom"))]
#: A worker is replaced after so many items: whatever libraries leave behind in memory stays bounded.
ITEMS_PER_WORKER = 24

Outcome = tuple[Any, Any, str | None]


def visible_gpus() -> list[str]:
    """Ids for CUDA_VISIBLE_DEVICES, in the order in which workers take them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


class _Worker:
    """A process with a line to it."""

    def __init__(self, work: Callable[[Any], Any], gpu: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, work, gpu), daemon=True)
        self.process.start()
        other.close()
        self.gpu, self.left, self.item = gpu, ITEMS_PER_WORKER, None

    def give(self, item: Any) -> None:
        self.item, self.left = item, self.left - 1
        self.line.send(item)

    def take(self) -> Outcome:
        """What came of the item; the line breaks when the process dies."""
        item, self.item = self.item, None
        try:
            return item, *self.line.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            self.left = 0
            return item, None, f"the worker process died with exit code {self.process.exitcode}"

    def stop(self) -> None:
        self.line.close()  # an idle worker leaves by itself
        self.process.join(timeout=2)
        self.process.kill()
        self.process.join()


def _serve(line: Connection, work: Callable[[Any], Any], gpu: str | None) -> None:
    """Life of a worker: results for items until the other end hangs up."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # before torch looks for devices
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    while True:
        try:
            item = line.recv()
        except (EOFError, KeyboardInterrupt):
            return
        line.send(_attempt(work, item))


def _leave_with_parent() -> None:
    """A parent that is killed cannot stop its workers; what they leave unfinished is gone on with later."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _attempt(work: Callable[[Any], Any], item: Any) -> tuple[Any, str | None]:
    try:
        return work(item), None
    except Exception:
        return None, traceback.format_exc()


def run_local(work: Callable[[Any], Any], items: Iterable[Any], jobs: int) -> Iterator[Outcome]:
    """`jobs` processes on this machine, spread over its GPUs where it has some; items start in the order given."""
    gpus = visible_gpus()
    waiting = iter(items)
    workers: list[_Worker] = []
    try:
        for index in range(jobs):
            item = next(waiting, None)
            if item is None:
                break
            workers.append(_Worker(work, gpus[index % len(gpus)] if gpus else None))
            workers[-1].give(item)
        while workers:
            ready = wait([worker.line for worker in workers])
            for worker in [worker for worker in workers if worker.line in ready]:
                yield worker.take()
                item = next(waiting, None)
                if item is None or not worker.left:
                    worker.stop()
                    workers.remove(worker)
                if item is not None:
                    if not worker.left:
                        worker = _Worker(work, worker.gpu)
                        workers.append(worker)
                    worker.give(item)
    finally:
        for worker in workers:
            worker.process.terminate()
            worker.stop()


def run_ray(work: Callable[[Any], Any], items: Iterable[Any], jobs: int) -> Iterator[Outcome]:
    """One Ray task per item, each with a core, and a GPU where the cluster has some.

    Joins the cluster of RAY_ADDRESS, or starts one of `jobs` cores on this machine. The project and the output folder
    must lie under the same paths on all machines (a shared file system).

    Raises:
        ValueError: ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError("--engine ray needs the package ray: pip install 'ray>=2.9'") from error

    paths = os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    address = os.environ.get("RAY_ADDRESS", "local")
    ray.init(
        address=address, num_cpus=jobs if address == "local" else None, include_dashboard=False,
        log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )  # fmt: skip
    try:
        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_attempt)
        running = {task.remote(work, item): item for item in items}
        while running:
            (reference,), _ = ray.wait(list(running), num_returns=1)
            item = running.pop(reference)
            try:
                yield item, *ray.get(reference)
            except ray.exceptions.RayError as error:
                # the first sentence; pages of advice follow it
                reason = " ".join(str(error).split()).partition(". ")[0]
                yield item, None, f"Ray lost the task: {reason}"
    finally:
        ray.shutdown()


ENGINES: dict[str, Callable[[Callable[[Any], Any], Iterable[Any], int], Iterator[Outcome]]] = {
    "local": run_local,
    "ray": run_ray,
}
