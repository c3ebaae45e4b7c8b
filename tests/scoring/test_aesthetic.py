"""LAION's aesthetic predictor: both published networks against products written out, and files that are something else.

The weights are random ones of the published names and shapes.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from aesthetic_weights import INDICES, predictor_weights
from safetensors.torch import save_file

from uni_instruct_guidance.scoring.aesthetic import AestheticScorer, load_predictor


def stand_in(width=768, name="ViT-L-14/openai"):
    """A CLIP of that width: its embedding is the picture's first pixels, normalised."""

    def embed(images):
        return F.normalize(images.flatten(1)[:, :width], dim=-1)

    def embed_pictures(pictures):
        return embed(torch.from_numpy(np.stack(pictures)) / 255)

    return SimpleNamespace(
        width=width, name=name, device=torch.device("cpu"), embed=embed, embed_pictures=embed_pictures
    )


def written_out(weights, indices, embeddings, relu):
    """The network as products in float64."""
    x = embeddings.double().numpy()
    for index in indices:
        x = x @ weights[f"layers.{index}.weight"].double().numpy().T + weights[f"layers.{index}.bias"].double().numpy()
        if relu and index != indices[-1]:
            x = np.maximum(x, 0)
    return x[:, 0]


@pytest.mark.parametrize(("variant", "relu"), [("linearMSE", False), ("reluMSE", True)])
def test_equals_products_written_out(variant, relu, predictor_file):
    scorer = AestheticScorer(predictor_file(variant), stand_in())
    assert scorer.variant.name == variant and variant in scorer.label and scorer.remark is None
    pictures = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    embeddings = stand_in().embed_pictures(pictures)
    expected = written_out(predictor_weights(variant), INDICES[variant], embeddings, relu)
    # float32 through five layers
    assert scorer.score(pictures).tolist() == pytest.approx(expected, abs=1e-5)
    images = torch.from_numpy(pictures) / 255
    torch.testing.assert_close(scorer.embed_and_score(images), scorer.score(pictures))


def test_the_two_networks_differ_on_the_same_numbers(predictor_file):
    embeddings = F.normalize(torch.randn(3, 768), dim=-1)
    linear, relu = (AestheticScorer(predictor_file(v), stand_in()).of_embeddings(embeddings) for v in INDICES)
    assert (linear - relu).abs().min() > 1e-3


def test_linear_network_is_one_affine_map(predictor_file):
    scorer = AestheticScorer(predictor_file("linearMSE"), stand_in())
    a, b = torch.randn(2, 4, 768)
    middle = (scorer.of_embeddings(a) + scorer.of_embeddings(b)) / 2
    torch.testing.assert_close(scorer.of_embeddings((a + b) / 2), middle, atol=1e-5, rtol=1e-4)


def test_gradient_is_the_slope(predictor_file):
    scorer = AestheticScorer(predictor_file("reluMSE"), stand_in())
    images = torch.rand(2, 16, 16, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(scorer.embed_and_score(images).sum(), images)
    step = 1e-2 * gradient / gradient.norm()
    rise = (scorer.embed_and_score(images + step) - scorer.embed_and_score(images - step)).sum() / 2e-2
    assert rise.item() == pytest.approx(gradient.norm().item(), rel=0.05)


def test_safetensors_are_read_too(tmp_path):
    save_file(predictor_weights("linearMSE"), tmp_path / "a.safetensors")
    variant, network = load_predictor(tmp_path / "a.safetensors")
    assert variant.name == "linearMSE"
    assert all(not parameter.requires_grad for parameter in network.parameters())


def renamed(weights):
    return {key.replace("layers", "mlp"): value for key, value in weights.items()}


def without_last(weights):
    return {key: value for key, value in weights.items() if not key.startswith("layers.7.")}


def narrow(weights):
    return weights | {"layers.0.weight": torch.zeros(1024, 512)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, r"its keys \(mlp.0.bias, .*\) are those of no published network \(linearMSE: layers 0, 2, 4, 6, 7; "),
        (without_last, "are those of no published network"),
        (narrow, r"layers.0.weight has shape \[1024, 512\], the published linearMSE network \[1024, 768\]"),
    ],
)
def test_other_networks_are_refused_with_the_reason(change, message, tmp_path):
    torch.save(change(predictor_weights("linearMSE")), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message):
        load_predictor(tmp_path / "x.pth")


@pytest.mark.parametrize("width", [512, 1024])
def test_embeddings_of_another_clip_are_refused_by_name(width, predictor_file):
    message = rf"made for embeddings of ViT-L-14/openai \(768 numbers\); those of ViT-B-32/openai have {width}"
    with pytest.raises(ValueError, match=message):
        AestheticScorer(predictor_file("linearMSE"), stand_in(width, "ViT-B-32/openai"))


def test_a_clip_that_only_has_the_width_is_remarked(predictor_file):
    scorer = AestheticScorer(predictor_file("linearMSE"), stand_in(name="ViT-L-14/laion2b_s32b_b82k"))
    assert "made for ViT-L-14/openai" in scorer.remark


class Harmful:
    def __reduce__(self):
        return (math.factorial, (3,))


def test_files_that_are_no_weights_are_one_line(tmp_path, predictor_file):
    torch.save({"layers.0.weight": Harmful()}, tmp_path / "harmful.pth")
    with pytest.raises(ValueError, match="harmful.pth: cannot be read, truncated or no weights: it holds more than"):
        load_predictor(tmp_path / "harmful.pth")
    whole = predictor_file("linearMSE")
    (tmp_path / "half.pth").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ValueError, match="half.pth: cannot be read, truncated"):
        load_predictor(tmp_path / "half.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="list.pth: holds no named tensors"):
        load_predictor(tmp_path / "list.pth")
    with pytest.raises(ValueError, match="no such file"):
        load_predictor(tmp_path / "missing.pth")


def test_a_file_of_the_hub_is_fetched_by_its_name(monkeypatch, predictor_file):
    whole = predictor_file("linearMSE")
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *names: asked.append(names) or str(whole))
    assert load_predictor("hf-hub:someone/predictors/v2/linear.pth")[0].name == "linearMSE"
    assert asked == [("someone/predictors", "v2/linear.pth")]
    with pytest.raises(ValueError, match="write hf-hub:OWNER/REPOSITORY/FILE"):
        load_predictor("hf-hub:someone/predictors")


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch):
    def refuse(*names):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(ValueError, match="cannot be fetched: no network"):
        load_predictor("hf-hub:someone/predictors/linear.pth")
