"""The queue: order, slots, stopping, a server that is killed, a disk that is full."""

from __future__ import annotations

import errno
import os
import signal
import threading

import psutil
import pytest

from uni_instruct_3d.pipeline.folder import held
from uni_instruct_3d.studio.jobs import Queue, slots


def states(queue):
    return {item.name: queue.state(item) for item in queue.library.items()}


def test_as_many_at_a_time_as_there_are_slots_in_the_order_of_asking(queue, work, make_run):
    names = [make_run("a red mug", seed=seed).folder.name for seed in range(4)]
    for name in [*names, names[0]]:  # asked for twice: in there once
        queue.add(name)
    queue.step()
    queue.step()
    assert [name for name, _, _ in work.started] == names[:2]
    assert work.started[0][2] == {"OMP_NUM_THREADS": "1"}
    assert list(states(queue).values()).count("queued") == 2
    work.end(0, queue.library.find(names[0]).folder, "stopped")
    queue.step()
    assert [name for name, _, _ in work.started] == names[:3]
    assert states(queue)[names[0]] == "stopped"


def test_a_job_leaves_the_page_its_turn(queue, work, make_run):
    queue.add(make_run("a red mug").folder.name)
    queue.step()
    ahead = psutil.Process().nice()
    assert psutil.Process(work.processes[0].pid).nice() > ahead or ahead == 19


def test_a_finished_run_is_scored_once(queue, work, make_run):
    run = make_run("a red mug")
    queue.add(run.folder.name)
    queue.step()
    work.end(0, run.folder, "done")
    queue.step()
    assert work.started[1][:2] == (run.folder.name, "score")
    assert states(queue) == {run.folder.name: "scoring"}
    work.end(1)
    queue.step()
    assert queue.jobs() == [] and states(queue) == {run.folder.name: "done"}


def test_a_killed_server_loses_no_job_and_starts_none_twice(queue, work, make_run):
    names = [make_run("a red mug", seed=seed).folder.name for seed in range(3)]
    for name in names:
        queue.add(name)
    queue.step()
    heir = Queue(queue.library, queue.slots, start=work)  # knows nothing but the files
    heir.step()
    assert len(work.started) == 2 and [job.run for job in heir.jobs()] == names
    work.end(1, queue.library.find(names[1]).folder, "stopped")
    work.processes[1].wait()
    heir.step()
    assert [name for name, _, _ in work.started] == names


def test_another_process_of_the_same_number_is_not_ours(queue, work, make_run):
    run = make_run("a red mug")
    queue.add(run.folder.name)
    queue.step()
    ((path, job),) = queue._entries()
    job.born -= 1000
    queue._write(path, job)
    queue.step()
    assert queue.jobs() == []
    assert work.processes[0].poll() is None


def test_stop_takes_out_what_waits_and_ends_what_has_not_begun(queue, work, make_run):
    names = [make_run("a red mug", seed=seed).folder.name for seed in range(3)]
    for name in names:
        queue.add(name)
    queue.step()
    queue.stop(names[2])
    assert [job.run for job in queue.jobs()] == names[:2]
    queue.stop(names[0])  # its process is there, and has not taken the folder yet
    assert work.processes[0].wait(timeout=10) == -signal.SIGTERM
    assert [job.run for job in queue.jobs()] == names[1:2]


def test_stop_asks_a_run_that_goes_on_for_a_checkpoint(queue, work, make_run):
    run = make_run("a red mug", "running")
    with held(run.folder):
        queue.stop(run.folder.name)  # started on a command line
        assert (run.folder / "stop").is_file()
        with pytest.raises(ValueError, match="another run works"):
            queue.delete(run.folder.name)
        queue.add(run.folder.name)
        queue.step()
        assert work.started == []  # not beside the other one


def test_delete(queue, work, make_run, library):
    run = make_run("a red mug", "stopped")
    queue.add(run.folder.name)
    queue.step()
    with pytest.raises(ValueError, match="stop it first"):
        queue.delete(run.folder.name)
    work.end(0)
    queue.step()
    queue.delete(run.folder.name)
    assert not run.folder.exists() and library.items() == []
    with pytest.raises(ValueError, match="no run of that name"):
        queue.add(run.folder.name)


def test_a_full_disk_leaves_the_queue_as_it_is(queue, work, make_run, monkeypatch):
    names = [make_run("a red mug", seed=seed).folder.name for seed in range(2)]
    queue.add(names[0])

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("uni_instruct_3d.pipeline.folder.os.replace", full)
        with pytest.raises(OSError, match="No space left"):
            queue.add(names[1])
        with pytest.raises(OSError, match="No space left"):
            queue.step()
        assert work.processes[0].poll() is not None  # nothing runs that no file names
    assert [(job.run, job.pid) for job in queue.jobs()] == [(names[0], None)]
    queue.step()
    assert [name for name, _, _ in work.started] == [names[0]] * 2


def test_the_loop_survives_a_full_disk(queue, make_run, monkeypatch, capsys):
    stop, calls = threading.Event(), []

    def step():
        calls.append(1)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        stop.set()

    monkeypatch.setattr(queue, "step", step)
    monkeypatch.setattr("uni_instruct_3d.studio.jobs.PACE", 0.01)
    queue.run_forever(stop)
    assert len(calls) == 2 and "No space left" in capsys.readouterr().err


def test_slots():
    assert [slot.name for slot in slots(gpus=[], cores=2)] == ["core 1", "core 2"]
    assert slots(gpus=[], cores=8, jobs=2)[0].environment["OMP_NUM_THREADS"] == "4"
    gpus = slots(gpus=["0", "3"], cores=8)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in gpus] == ["0", "3"]
    with pytest.raises(ValueError, match="--jobs 0 must be at least 1"):
        slots(jobs=0, gpus=[])
