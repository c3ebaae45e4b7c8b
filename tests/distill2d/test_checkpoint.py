"""Weight files: what is written is what is read, and everything else is refused by name."""

from __future__ import annotations

import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from uni_instruct_guidance.teachers.edm import CheckpointError, build_network, load_edm, read_header, save_edm


@pytest.fixture
def saved(tmp_path):
    network = build_network("tiny", label_dim=2, sigma_data=0.6)
    save_edm(tmp_path / "net.safetensors", network, data="digits")
    return network, tmp_path / "net.safetensors"


def test_header_makes_the_network(saved):
    network, path = saved
    loaded = load_edm(path)
    assert loaded.config == network.config and loaded.sigma_data == 0.6
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert read_header(path)["data"] == "digits"
    assert load_edm(path, dropout=0.3).config["dropout"] == 0.3
    assert load_edm(path, {"preset": "tiny", "label_dim": 2}).sigma_data == 0.5  # a given network wins


def test_half_precision_weights_load_as_float32(saved, tmp_path):
    network, _ = saved
    save_edm(tmp_path / "half.safetensors", {k: v.half() for k, v in network.state_dict().items()}, network.config)
    loaded = load_edm(tmp_path / "half.safetensors")
    weight = "model.map_layer0.weight"
    assert torch.equal(loaded.state_dict()[weight], network.state_dict()[weight].half().float())


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    network, path = saved
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        save_edm(path, network)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def rewrite(path, change, header=None):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=read_header(path) if header is None else header)


DAMAGES = {
    "missing": (lambda t: t.pop("model.map_layer0.bias"), "missing: model.map_layer0.bias"),
    "unexpected": (lambda t: t.update(extra=torch.zeros(1)), "unexpected: extra"),
    "shape": (
        lambda t: t.update({"model.map_layer0.bias": torch.zeros(5)}),
        "shape: model.map_layer0.bias [5] instead of [32]",
    ),
    "many": (lambda t: [t.pop(name) for name in list(t)[:9]], "and 6 more"),
    "filter": (
        lambda t: t.update({"model.enc.4x4_down.skip.resample_filter": torch.ones(1, 1, 2, 2)}),
        "model.enc.4x4_down.skip.resample_filter is not the filter",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_other_tensors_are_named(saved, case):
    _, path = saved
    change, message = DAMAGES[case]
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_edm(path)


def test_files_that_are_none(saved, tmp_path):
    _, path = saved
    with pytest.raises(CheckpointError, match="absent.safetensors: no such file"):
        load_edm(tmp_path / "absent.safetensors")
    rewrite(path, lambda t: None, header={"format": "pt"})
    with pytest.raises(CheckpointError, match="names no network; choose a preset: cifar10-uncond"):
        load_edm(path)
    assert load_edm(path, {"preset": "tiny", "label_dim": 2}).label_dim == 2
    rewrite(path, lambda t: None, header={"network": "{broken"})
    with pytest.raises(CheckpointError, match="is not JSON"):
        load_edm(path)
    rewrite(path, lambda t: None, header={"network": json.dumps({"model_type": "DiT"})})
    with pytest.raises(ValueError, match="DiT"):
        load_edm(path)
    for content in (b"", b"\x08\x00\x00", path.read_bytes()[:200], path.read_bytes()[:-7]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not a safetensors file, or damaged"):
            load_edm(path)
