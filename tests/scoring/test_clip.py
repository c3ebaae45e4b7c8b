"""The CLIP scorer against open-clip called directly, its differentiable path, and the numbers made from cosines."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from uni_instruct_guidance.scoring.clip import ClipScorer, clip_numbers, diversity, first_in_list
from uni_instruct_guidance.scoring.rendering import render_surface

PROMPTS = ["a red mug", "a blue mug", "a red chair"]


@pytest.fixture(scope="module")
def pictures(mug_surface, four_views):
    return render_surface(mug_surface, four_views.reduced(size=96))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_equals_open_clip_called_directly_on_saved_pictures(clip, pictures, prompt, tmp_path):
    cosine = clip.cosine(pictures, prompt)
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:load/clip/shapes")
    tokenizer = open_clip.get_tokenizer("local-dir:load/clip/shapes")
    files = [Image.open(tmp_path / f"{index}.png") for index in range(len(pictures))]
    with torch.no_grad():
        seen = model.eval().encode_image(torch.stack([preprocess(file) for file in files]))
        told = model.encode_text(tokenizer([prompt]))[0]
    expected = [float(row @ told / row.norm() / told.norm()) for row in seen]
    assert cosine.tolist() == pytest.approx(expected, abs=1e-5)


def test_tensor_path_equals_the_one_for_files(clip, pictures):
    """The only difference is PIL's rounding to 8 bits after resizing: half of 1/255 a pixel, of either sign, which over
    12,288 inputs moves a cosine by some 1e-4."""
    images = torch.from_numpy(pictures) / 255
    through_files = clip.embed_pictures(pictures)
    torch.testing.assert_close(clip.embed(images), through_files, atol=2e-3, rtol=0)
    text = clip.embed_texts(PROMPTS)
    torch.testing.assert_close(clip.embed(images) @ text.T, through_files @ text.T, atol=1e-3, rtol=0)
    # nothing to resize, nothing to round: equal up to float32
    small = np.stack([np.asarray(Image.fromarray(p).resize((64, 64))) for p in pictures])
    torch.testing.assert_close(
        clip.embed(torch.from_numpy(small) / 255), clip.embed_pictures(small), atol=1e-5, rtol=1e-4
    )


def test_gradient_of_the_tensor_path_is_the_slope(clip, pictures):
    image = (torch.from_numpy(pictures[:1]) / 255).requires_grad_()
    text = clip.embed_texts(PROMPTS[:1])[0]
    (gradient,) = torch.autograd.grad((clip.embed(image) @ text).sum(), image)
    direction = gradient / gradient.norm()
    step = 1e-2  # large beside float32's 1e-7, small beside the curvature
    with torch.no_grad():
        slope = ((clip.embed(image + step * direction) - clip.embed(image - step * direction)) @ text) / (2 * step)
    assert slope.item() == pytest.approx(gradient.norm().item(), rel=0.05)


def test_texts_are_unit_and_computed_once(clip):
    text = clip.embed_texts([*PROMPTS, PROMPTS[0]])
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(4))
    assert (text[0] == text[3]).all() and text.shape == (4, clip.width)
    assert clip.embed_texts(PROMPTS[:1])[0] is not None and PROMPTS[0] in clip._texts


def test_the_label_says_who_scores(clip):
    assert clip.is_builtin and "built-in small CLIP" in clip.label


def test_numbers_of_every_convention():
    numbers = clip_numbers(torch.tensor([0.5, -0.1, 0.2]))
    assert numbers == pytest.approx({"cosine": 0.2, "clip_x100": 20.0, "clipscore": 2.5 * 0.7 / 3})


def test_first_in_list_is_strict_and_ranks_by_the_mean():
    texts = torch.eye(3)
    images = F.normalize(torch.tensor([[3.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 4.0, 0.0]]), dim=-1)
    right, rank = first_in_list(images, texts, 0)
    assert right.tolist() == [1.0, 0.0, 0.0]  # better, a tie, worse
    assert rank == 1 + int(images.mean(0)[1] >= images.mean(0)[0]) == 2
    assert first_in_list(images, texts, 1)[1] == 1


def test_diversity_against_a_loop():
    embeddings = F.normalize(torch.randn(4, 3, 5, dtype=torch.float64), dim=-1)
    pairs = [
        sum(1 - float(embeddings[i, v] @ embeddings[j, v]) for v in range(3)) / 3 for i in range(4) for j in range(i)
    ]
    assert diversity(embeddings) == pytest.approx(sum(pairs) / len(pairs))
    assert diversity(torch.eye(2)[:, None]) == pytest.approx(1.0)
    assert diversity(torch.ones(3, 1, 1)) == pytest.approx(0.0)
    with pytest.raises(ValueError, match="diversity compares seeds, got 1"):
        diversity(torch.ones(1, 1, 1))


# --- weights --------------------------------------------------------------------------------------------------------

TINY = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny ViT architecture known to open-clip, and its folder."""
    folder = tmp_path_factory.mktemp("architectures")
    (folder / "ViT-tiny-for-tests.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)
    torch.manual_seed(3)
    return open_clip.create_model("ViT-tiny-for-tests"), folder


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_any_architecture_with_a_local_file(tiny, suffix, pictures):
    model, folder = tiny
    path = folder / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(model.state_dict(), path)
    else:
        from safetensors.torch import save_file

        save_file(model.state_dict(), path)
    scorer = ClipScorer("ViT-tiny-for-tests", str(path))
    assert not scorer.is_builtin and scorer.label == f"CLIP ViT-tiny-for-tests/{path}"
    mean, std = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)
    small = np.stack([np.asarray(Image.fromarray(p).resize((32, 32))) for p in pictures])
    images = ((torch.from_numpy(small) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = F.normalize(model.eval().encode_image(images), dim=-1)
    torch.testing.assert_close(scorer.embed_pictures(small), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scorer.embed(torch.from_numpy(small) / 255), expected, atol=1e-5, rtol=1e-4)


class Harmful:
    def __reduce__(self):
        return (math.factorial, (3,))


def test_weights_that_would_run_code_are_refused(tiny):
    path = tiny[1] / "harmful.pt"
    torch.save({"x": Harmful()}, path)
    with pytest.raises(ValueError, match=r"harmful.pt' cannot be loaded: .*[Ww]eights"):
        ClipScorer("ViT-tiny-for-tests", str(path))


def test_a_folder_without_weights_is_no_random_scorer(tmp_path):
    for name in ("open_clip_config.json", "vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / name).symlink_to((Path("load/clip/shapes") / name).resolve())
    with pytest.raises(ValueError, match="cannot be loaded: Required pretrained weights"):
        ClipScorer(f"local-dir:{tmp_path}")


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B-32", None, "pretrained=None of model='ViT-B-32' is no weights file and no tag; choose one of openai"),
        ("ViT-B-32", "laion", "pretrained='laion' of model='ViT-B-32'"),
        ("ViT-Z-99", "openai", "'ViT-Z-99' is no open-clip architecture"),
        ("local-dir:/no/such/folder", None, "cannot be loaded"),
        ("local-dir:load/clip/shapes", "openai", "cannot go with model='local-dir:load/clip/shapes'"),
    ],
)
def test_mistakes_are_one_clear_line(model, pretrained, message):
    with pytest.raises(ValueError, match=message) as caught:
        ClipScorer(model, pretrained)
    assert "\n" not in str(caught.value)
