"""threestudio itself as the host: its stand-ins and repairs, and (slow, with THREESTUDIO=/path) whole runs in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import launch
from backends import libraries
from uni_instruct_3d.upstream import launcher, packages
from uni_instruct_3d.upstream.lora import LoRAAttnProcessor

ROOT = Path(__file__).parents[2]
CHECKOUT = os.environ.get("THREESTUDIO")
needs_checkout = pytest.mark.skipif(CHECKOUT is None, reason="set THREESTUDIO to a checkout of threestudio")


# --- stand-ins ------------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(monkeypatch):
    """The stand-ins under the libraries' names, taken away afterwards."""
    before = dict(sys.modules)
    names = [name for name in sys.modules if name.split(".")[0] in libraries.LIBRARIES]
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    replaced = libraries.install()
    yield replaced
    for name in set(sys.modules) - set(before):
        if name.split(".")[0] in libraries.LIBRARIES:
            del sys.modules[name]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a library that works wins")
def test_stand_ins_answer_for_all_four_libraries(installed):
    import envlight
    import nerfacc
    import nvdiffrast.torch as dr
    import tinycudann as tcnn
    from nerfacc.estimators.base import AbstractEstimator
    from nerfacc.pdf import importance_sampling

    assert installed == dict.fromkeys(("tinycudann", "nvdiffrast", "nerfacc", "envlight"), "no CUDA device")
    both = tcnn.NetworkWithInputEncoding(
        3, 2,
        {"otype": "HashGrid", "n_levels": 2, "n_features_per_level": 2, "log2_hashmap_size": 8, "base_resolution": 4,
         "per_level_scale": 2.0},
        {"otype": "FullyFusedMLP", "activation": "ReLU", "output_activation": "None", "n_neurons": 16,
         "n_hidden_layers": 1},
    )  # fmt: skip
    assert both(torch.rand(5, 3)).shape == (5, 2)
    clip = torch.tensor([[[-1.0, -1, 0, 1], [1, -1, 0, 1], [0, 1, 0, 1]]])
    rast, _ = dr.rasterize(dr.RasterizeGLContext(), clip, torch.tensor([[0, 1, 2]], dtype=torch.int32), (8, 8))
    assert rast.shape == (1, 8, 8, 4) and (rast[..., 3] > 0).any()
    assert AbstractEstimator().device.type == "cpu"
    edges, _ = importance_sampling(nerfacc.RayIntervals(torch.tensor([[0.0, 1.0]])), torch.tensor([[0.0, 1.0]]), 4)
    torch.testing.assert_close(edges.vals[0].diff(), torch.full((4,), 0.2))
    assert envlight.EnvLight(str(ROOT / "load/lights/even.hdr"))(torch.eye(3)).shape == (3, 3)
    with pytest.raises(ValueError, match="estimator=proposal needs nerfacc"):
        nerfacc.PropNetEstimator()


def test_a_library_that_works_wins(monkeypatch):
    real = object()
    monkeypatch.setitem(sys.modules, "tinycudann", real)
    table = {"tinycudann": (lambda: None, {"tinycudann": "tinycudann"})}
    monkeypatch.setattr(libraries, "LIBRARIES", table)
    assert libraries.install() == {} and sys.modules["tinycudann"] is real


def test_batched_and_packed_samples_are_composited_alike():
    from backends.libraries import nerfacc

    torch.manual_seed(0)
    starts = torch.rand(4, 6).cumsum(-1)
    ends, sigma = starts + 0.1, torch.rand(4, 6) * 3
    rays = torch.arange(4).repeat_interleave(6)
    flat = [x.reshape(-1) for x in (starts, ends, sigma)]
    for function in (nerfacc.render_weight_from_density, nerfacc.render_transmittance_from_density):
        packed = function(*flat, ray_indices=rays, n_rays=4)
        for one, other in zip(function(starts, ends, sigma), packed):
            torch.testing.assert_close(one, other.view(4, 6))
    weights, transmittance, alphas = nerfacc.render_weight_from_density(starts, ends, sigma)
    from_alpha = nerfacc.render_weight_from_alpha(alphas)
    torch.testing.assert_close(from_alpha[0], weights, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(from_alpha[1], transmittance, atol=1e-5, rtol=1e-4)
    values = torch.rand(4, 6, 3)
    summed = nerfacc.accumulate_along_rays(weights, values)
    packed = nerfacc.accumulate_along_rays(weights.reshape(-1), values.reshape(-1, 3), rays, 4)
    torch.testing.assert_close(summed, packed)


# --- repairs --------------------------------------------------------------------------------------------------------


def test_lora_attention_is_attention_until_it_has_learned():
    from diffusers.models.attention_processor import Attention, AttnProcessor

    attention = Attention(query_dim=16, cross_attention_dim=8, heads=2, dim_head=8)
    x, context = torch.randn(2, 5, 16), torch.randn(2, 3, 8)
    attention.set_processor(AttnProcessor())
    plain = attention(x, context)
    processor = LoRAAttnProcessor(hidden_size=16, cross_attention_dim=8)
    attention.set_processor(processor)
    torch.testing.assert_close(attention(x, context), plain)
    for layer in (processor.to_q_lora, processor.to_out_lora):
        torch.nn.init.normal_(layer.up.weight)
    assert (attention(x, context) - plain).abs().max() > 1e-3
    processor.scale = 0.0
    torch.testing.assert_close(attention(x, context), plain)


def test_absent_packages_complain_when_used_and_leave_no_trace(monkeypatch):
    monkeypatch.setitem(packages.OPTIONAL, "no_such_package", ("flying", "pip install wings"))
    with packages.optional_packages_excused() as absent:
        assert "no_such_package" in absent
        from no_such_package import Wing
    with pytest.raises(ValueError, match="no_such_package.Wing: flying needs .* pip install wings"):
        Wing(2)
    assert "no_such_package" not in sys.modules


def test_all_missing_packages_are_named_at_once(monkeypatch):
    monkeypatch.setattr(packages, "NEEDED", {"no_such_a": "a-pip", "torch": "torch", "no_such_b": "b-pip"})
    assert packages.missing_packages() == ["a-pip", "b-pip"]


# --- the command ----------------------------------------------------------------------------------------------------


def test_a_checkout_is_found_in_beside_and_by_name(tmp_path, monkeypatch):
    monkeypatch.delenv("THREESTUDIO", raising=False)
    checkout = tmp_path / "threestudio"
    (checkout / "threestudio").mkdir(parents=True)
    (checkout / "threestudio" / "__init__.py").touch()
    (tmp_path / "project").mkdir()
    for folder in (checkout, tmp_path, tmp_path / "project"):
        monkeypatch.chdir(folder)
        assert launch.find_checkout() == checkout
    monkeypatch.chdir(ROOT)
    assert launch.find_checkout() is None
    monkeypatch.setenv("THREESTUDIO", str(checkout))
    assert launch.find_checkout() == checkout
    monkeypatch.setenv("THREESTUDIO", str(tmp_path / "elsewhere"))
    assert launch.find_checkout() is None


def test_no_checkout_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THREESTUDIO", str(tmp_path))
    assert launch.main(["--host", "threestudio", "--config", "x.yaml", "--train"]) == 2
    assert "say where it is with THREESTUDIO=/path" in capsys.readouterr().err


def test_files_of_the_folder_one_is_in_stay_what_they_are(tmp_path):
    (tmp_path / "last.ckpt").touch()
    given = ["resume=last.ckpt", "system.weights=no.ckpt", "trainer.max_steps=5"]
    assert launcher.from_here(given, tmp_path) == [
        f"resume={tmp_path / 'last.ckpt'}", "system.weights=no.ckpt", "trainer.max_steps=5",
        f"exp_root_dir={tmp_path / 'outputs'}",
    ]  # fmt: skip
    assert launcher.from_here(["exp_root_dir=x"], tmp_path) == ["exp_root_dir=x"]


# --- whole runs -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_checkout
def test_configurations_train_resume_test_and_export_in_an_unmodified_checkout(tmp_path):
    """Ours (three stages at both sizes, baselines, every method) and its own dreamfusion and prolificdreamer."""
    script = ROOT / "tests" / "upstream" / "run_recipes.py"
    run = subprocess.run([sys.executable, script, CHECKOUT, tmp_path], capture_output=True, text=True, check=False)
    runs = json.loads((tmp_path / "runs.json").read_text())
    assert run.returncode == 0, {name: text for name, text in runs.items() if not text.endswith(" s")}
    assert len(runs) > 50
    for stage in ("nerf", "geometry", "texture"):
        assert list((tmp_path / f"shapes-{stage}").rglob("model.glb")), stage


@pytest.mark.slow
@needs_checkout
def test_oracles_are_what_the_checkout_computes(tmp_path):
    script = ROOT / "tests" / "upstream" / "guidance_oracles.py"
    subprocess.run([sys.executable, script, CHECKOUT, tmp_path / "new.json"], check=True)
    new = json.loads((tmp_path / "new.json").read_text())["cases"]
    kept = json.loads((ROOT / "tests" / "data" / "upstream_guidance.json").read_text())["cases"]
    assert new.keys() == kept.keys()
    for name, case in kept.items():
        one, other = (torch.tensor(x["every_257th"]) for x in (case, new[name]))
        assert (one - other).norm() <= 1e-5 * one.norm(), name
