"""Every shipped configuration is read and built: digits trained for a step, the large networks on the meta device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_data, tiny_network, weights

import uni_instruct_3d.world_data  # noqa: F401  its row of the data sets
from uni_instruct_guidance.distill2d.config import DistillConfig, EDMConfig, read_config
from uni_instruct_guidance.distill2d.data import DATASETS, to_unit_range
from uni_instruct_guidance.distill2d.methods import one_step_method
from uni_instruct_guidance.distill2d.trainer import build_distill_module, build_edm_module, distill
from uni_instruct_guidance.teachers.edm import EDM_PRESETS, build_network
from uni_instruct_guidance.teachers.edm.checkpoint import load_edm

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "distill2d"
TEACHERS = sorted(FOLDER.glob("teacher-*.yaml"))
OVERLAYS = [*sorted((FOLDER / "methods").glob("*.yaml")), FOLDER / "start-from-sid.yaml"]
TEXT = sorted(FOLDER.glob("*-text*.yaml"))  # test_text_students.py
RUNS = [path for path in sorted(FOLDER.glob("*.yaml")) if path not in TEACHERS + OVERLAYS + TEXT]
LARGE = [path for path in RUNS if path.stem in EDM_PRESETS and "digits" not in path.stem]
SMALL = ["out=null", "steps=1", "batch=4", "warmup.student=0", "warmup.ratio=0", "warmup.ramp=0", "start=null",
         "bank={count: 4, batch: 4, steps: 2}", "trainer={accelerator: cpu}"]  # fmt: skip


def name(path: Path) -> str:
    return path.stem


def test_nothing_is_left_out():
    assert {path.stem for path in LARGE} == {"cifar10-uncond", "cifar10-cond", "imagenet64"}
    assert {"digits-cond", "digits-uncond"} <= {path.stem for path in RUNS}
    assert len(OVERLAYS) >= 12


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_runs_are_complete(path):
    config = read_config(DistillConfig, [path])
    assert config.data.name in DATASETS and config.teacher and config.init_sigma == 2.5
    assert config.student_noise.max_fraction == 0.8 and config.fake_noise.sampler == "log_normal"
    assert config.batch % (config.micro_batch or 1) == 0
    for overlay in OVERLAYS:
        assert one_step_method(read_config(DistillConfig, [path, overlay]).method)


@pytest.mark.parametrize("path", [p for p in RUNS if "digits" in p.stem], ids=name)
def test_digits_start_with_the_shipped_teacher(path):
    config = read_config(DistillConfig, [path])
    module = build_distill_module(config, teacher=load_edm(ROOT / config.teacher))
    assert module.teacher.network.sigma_data == 0.75 and module.data.name == "digits"


@pytest.mark.parametrize("overlay", OVERLAYS, ids=name)
def test_overlays_train(overlay, tmp_path):
    config = read_config(DistillConfig, [FOLDER / "digits-cond.yaml", overlay], [*SMALL, f"bank.path={tmp_path}"])
    result = distill(config, teacher=tiny_network(), data=tiny_data(), quiet=True)
    assert (weights(result.module.student) - weights(tiny_network())).abs().max() > 0


@pytest.mark.parametrize("path", LARGE, ids=name)
def test_large_networks_with_the_papers_numbers(path):
    config = read_config(DistillConfig, [path])
    with torch.device("meta"):
        teacher = build_network(path.stem)
    classes, resolution = teacher.label_dim, teacher.img_resolution
    data = tiny_data(classes, count=max(classes, 2), resolution=resolution, channels=3)
    with torch.device("meta"):
        module = build_distill_module(config, teacher=teacher, data=data)
    sizes = [sum(p.numel() for p in net.parameters()) for net in (module.teacher.network, module.student, module.fake)]
    assert len(set(sizes)) == 1 and sizes[0] > 5e7
    assert (config.batch, config.lr) == ((8192, 4e-6) if path.stem == "imagenet64" else (256, 1e-5))
    assert config.ema.halflife_kimg == (2000 if path.stem == "imagenet64" else 500)
    assert (config.loss_scale.fake_score, config.loss_scale.student) == (1, 100)
    assert module.method.auxiliary["gan"] == 0.01
    assert sum(p.requires_grad for p in module.parameters()) == 2 * len(list(module.fake.parameters())) + len(
        list(module.head.parameters())
    )


@pytest.mark.parametrize("path", TEACHERS, ids=name)
def test_teacher_runs_are_complete(path):
    module = build_edm_module(read_config(EDMConfig, [path]))
    if module.cfg.data.name == "shapes":
        assert module.network.label_dim == module.data.num_classes == 28
        assert sum(p.numel() for p in module.network.parameters()) <= 6e6
        spread = float(to_unit_range(module.data.images(range(64))).std())
        assert module.network.sigma_data == pytest.approx(spread, abs=0.1)
        return
    assert module.network.label_dim == (10 if path.stem.endswith("-cond") else 0)
    # sigma_data is the spread of the pixels, which is 0.752.
    assert module.network.sigma_data == pytest.approx(float(module.data.images(range(1797)).std()), abs=0.01)


def test_shipped_files_and_teachers_are_found_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = read_config(DistillConfig, ["configs/distill2d/digits-cond.yaml"], [])
    assert Path(config.teacher).is_file()
