"""Many prompts over a cluster that loses a machine."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from uni_instruct_3d import ROOT
from uni_instruct_3d.pipeline import cli
from uni_instruct_3d.pipeline.folder import read_progress

SIZES = [
    "trainer.max_steps=10", "trainer.val_check_interval=10", "data.width=32", "data.height=32", "data.batch_size=1",
    "data.eval_width=32", "data.eval_height=32", "data.n_test_views=2", "system.guidance.bank.size=1",
    "system.guidance.bank.steps=1",
]  # fmt: skip


def at_work(out: Path) -> int:
    """How many runs are in the middle of their work: one on each machine, if there are two."""
    seen = [read_progress(path.parent) for path in out.glob("*/progress.json")]
    return sum(one.state == "running" for one in seen)


@pytest.mark.slow
def test_ten_prompts_twice_over_two_machines_one_of_which_dies(cluster, tmp_path, capsys):
    """One run at most is lost with it, and named; the other machine does the rest; the same command again completes."""
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    lines = (ROOT / "prompts" / "shapes.txt").read_text().splitlines()
    prompts.write_text("\n".join([line for line in lines if line and not line.startswith("#")][:10]) + "\n")
    argv = ["--prompts-file", str(prompts), "--seeds", "0", "1", "--engine", "ray", "--stages", "nerf", "--gpu", "cpu",
            "--method", "sds", "--out", str(out), *SIZES]  # fmt: skip

    def kill_the_second_machine() -> None:
        while len(list(out.glob("*/scores.json"))) < 5 or at_work(out) < 2:
            time.sleep(0.05)
        cluster.remove_node(cluster.second, allow_graceful=False)

    killer = threading.Thread(target=kill_the_second_machine, daemon=True)
    killer.start()
    status = cli.main(argv)
    killer.join()
    said = capsys.readouterr().err
    failed = [line for line in said.splitlines() if "failed: " in line and "Ray lost the task" in line]
    assert status == 1 and "0 of 20 are finished; 20 to go" in said and len(set(failed)) == 1, said
    assert len(list(out.glob("*/scores.json"))) == 19
    page = (out / "gallery.html").read_text()
    assert "20 runs, 1 failed" in page and page.count("Ray lost the task") == 1
    assert cli.main(argv) == 0
    assert "19 of 20 are finished; 1 to go" in capsys.readouterr().err
    page = (out / "gallery.html").read_text()
    assert "failed" not in page and page.count("data:image/jpeg") == 20 and page.count("the best") == 10
