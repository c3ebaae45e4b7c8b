"""MVDream's checkpoints: ours answers as the published network does, and what does not fit is named.

tests/data/mvdream_tiny.safetensors: weights drawn at random for the published class (MultiViewUNetModel, one block a
level, channels 32 and 32) under its own names, an input of two groups of four views, and what that class answered.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from uni_instruct_guidance.teachers.stable_diffusion.mvdream import PREFIX, convert, read_checkpoint, unet_of
from uni_instruct_guidance.teachers.stable_diffusion.teacher import Teacher

DATA = Path(__file__).parents[1] / "data" / "mvdream_tiny.safetensors"
CONFIG = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (32, 32), "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "cross_attention_dim": 16, "attention_head_dim": 4, "use_linear_projection": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def published():
    """(weights by their published names, oracle's tensors)."""
    tensors = load_file(DATA)
    oracle = {key.removeprefix("oracle."): tensors.pop(key) for key in list(tensors) if key.startswith("oracle.")}
    return tensors, oracle


def test_answers_as_the_published_network(published):
    weights, oracle = published
    unet = unet_of(weights, CONFIG)
    found = unet(oracle["x"], oracle["t"], encoder_hidden_states=oracle["context"], class_labels=oracle["camera"])
    # float32, about forty layers
    torch.testing.assert_close(found.sample, oracle["output"], rtol=1e-4, atol=1e-5)


@pytest.fixture
def base(tiny_teacher, tmp_path):
    """A base model whose U-Net has the published tiny one's layout."""
    import shutil

    from diffusers import UNet2DConditionModel

    folder = tmp_path / "base"
    shutil.copytree(tiny_teacher, folder)
    shutil.rmtree(folder / "unet")
    UNet2DConditionModel(**CONFIG).save_pretrained(folder / "unet")
    return folder


def test_a_checkpoint_becomes_a_teacher(published, base, tmp_path):
    weights, oracle = published
    torch.save({"state_dict": {**weights, "first_stage_model.unused": torch.zeros(1)}}, tmp_path / "mv.pt")
    out = convert(tmp_path / "mv.pt", str(base), tmp_path / "out", size=16)
    teacher = Teacher.load(str(out), torch.device("cpu"), half_precision=False)
    assert (teacher.n_views, teacher.view_width) == (4, 16)
    x0 = teacher.predict_x0(oracle["x"], oracle["t"], oracle["context"], class_labels=oracle["camera"])
    expected = teacher.to_x0(oracle["output"], oracle["x"], oracle["t"])
    torch.testing.assert_close(x0, expected, rtol=1e-3, atol=1e-4)
    assert not list(out.glob(".partial*"))


def test_what_does_not_fit_is_named(published, base, tmp_path):
    weights, _ = published
    with pytest.raises(ValueError, match="lacks model.diffusion_model.camera_embed.0"):
        unet_of({key: value for key, value in weights.items() if "camera" not in key}, CONFIG)
    with pytest.raises(ValueError, match=r"does not fit the base model's U-Net: \d+ layers"):
        unet_of(weights, {**CONFIG, "block_out_channels": (64, 64)})
    name = PREFIX + "out.2.weight"
    with pytest.raises(ValueError, match=r"1 layers, conv_out.weight \(missing\)"):
        unet_of({key: value for key, value in weights.items() if key != name}, CONFIG)
    with pytest.raises(ValueError, match="told 12 numbers of a camera"):
        key = PREFIX + "camera_embed.0.weight"
        unet_of({**weights, key: weights[key][:, :12]}, CONFIG)
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match="cut.pt.*cannot be read"):
        convert(tmp_path / "cut.pt", str(base), tmp_path / "out")
    assert not (tmp_path / "out" / "model_index.json").exists()
    with pytest.raises(ValueError, match="no such file"):
        read_checkpoint(tmp_path / "none.pt")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no checkpoint of MVDream"):
        unet_of(read_checkpoint(tmp_path / "other.safetensors"), CONFIG)


SD21 = {
    "sample_size": 32, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}  # fmt: skip


def test_every_published_name_has_its_place():
    """All 690 layers of the published checkpoint, by name and shape, without memory for them."""
    layout = json.loads((DATA.parent / "mvdream_layout.json").read_text())
    with torch.device("meta"):
        state = {name: torch.empty(shape, dtype=torch.float16) for name, shape in layout.items()}
        unet = unet_of(state, SD21)
    assert sum(p.numel() for p in unet.parameters()) == sum(math.prod(shape) for shape in layout.values())
