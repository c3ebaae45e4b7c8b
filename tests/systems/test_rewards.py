"""Rewards are the scorers: the library's own numbers, a gradient that raises them, and no weights in checkpoints."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import open_clip
import pytest
import torch
from prompt_stub import StubPrompts, cameras

import threestudio
import uni_instruct_guidance.guidance
import uni_instruct_guidance.systems  # noqa: F401
from uni_instruct_3d.shapes_world import make_instance, render
from uni_instruct_3d.teacher_factory.clip import build_clip, save_clip
from uni_instruct_3d.teacher_factory.presets import ClipConfig
from uni_instruct_guidance.scoring.rewards import build_reward

PROMPTS = SimpleNamespace(prompt="a red mug", prompts_vd=["a red mug, side view", "a red mug, front view"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    tiny = dataclasses.replace(ClipConfig(), embed_dim=16, vision_width=8, text_width=16, text_layers=1)
    save_clip(build_clip(folder, tiny, ["a red mug, front view", "a red mug, side view"], 32), folder)
    return folder


def make(folder, **options):
    return threestudio.find("uni-instruct-clip-reward")({"model": f"local-dir:{folder}", **options})


@pytest.mark.parametrize("view_dependent", [False, True])
def test_equals_open_clip_called_directly(folder, view_dependent):
    image, index = torch.rand(2, 3, 32, 32), torch.tensor([1, 0])
    reward = make(folder, view_dependent=view_dependent)(image, PROMPTS, index)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    texts = ["a red mug, front view", "a red mug, side view"] if view_dependent else ["a red mug"] * 2
    mean, std = (torch.tensor(model.visual.preprocess_cfg[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        seen = model.eval().encode_image((image - mean) / std, normalize=True)
        told = model.encode_text(tokenizer(texts), normalize=True)
    torch.testing.assert_close(reward, (seen * told).sum(-1), rtol=1e-4, atol=1e-5)  # float32, same size: no resampling


def test_gradient_ascent_raises_it(folder):
    reward = make(folder)
    image = torch.full((1, 3, 48, 48), 0.5, requires_grad=True)
    first = reward(image, PROMPTS)
    optimizer = torch.optim.Adam([image], lr=0.02)
    for _ in range(15):
        optimizer.zero_grad()
        (-reward(image, PROMPTS)).sum().backward()
        optimizer.step()
    # a random model moves little; noise of the same size (float32) would be about 1e-7
    assert reward(image, PROMPTS) > first + 1e-3
    assert not reward.state_dict()


@pytest.mark.parametrize("method", ["di_pp", "di_star"])
def test_methods_with_a_reward_use_it(method, folder, tiny_teacher, tmp_path):
    def gradient(weight):
        torch.manual_seed(0)
        guidance = threestudio.find("uni-instruct-guidance")(
            {
                "pretrained_model_name_or_path": str(tiny_teacher),
                "half_precision_weights": False,
                "method": method,
                "guidance_scale": 7.5,
                "auxiliary": {"reward": weight},
                "reward_type": "clip",
                "reward": {"model": f"local-dir:{folder}"},
            }
        )
        rgb = torch.rand(2, 16, 16, 3, requires_grad=True)
        out = guidance(rgb, StubPrompts(16), **cameras(2))
        total = sum(value for key, value in out.items() if key.startswith("loss_"))
        return torch.autograd.grad(total, rgb)[0], out

    with_reward, out = gradient(10.0)
    assert -1 <= out["reward"] <= 1 and out["loss_reward"].item() == pytest.approx(-10 * out["reward"].item(), rel=1e-5)
    assert not torch.allclose(with_reward, gradient(0.0)[0])


def test_missing_model_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match=r"system.guidance.reward: model='local-dir:.*nothing'.*cannot be loaded"):
        make(tmp_path / "nothing")


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory):
    """A tiny CLIP with embeddings as wide as ViT-L/14's."""
    folder = tmp_path_factory.mktemp("wide")
    tiny = dataclasses.replace(ClipConfig(), embed_dim=768, vision_width=8, text_width=16, text_layers=1)
    save_clip(build_clip(folder, tiny, ["a red mug"], 32), folder)
    return folder


def test_aesthetic_reward_is_the_scorer_and_has_a_gradient(wide_folder, predictor_file):
    options = {"predictor": str(predictor_file("linearMSE")), "model": f"local-dir:{wide_folder}", "pretrained": None}
    reward = build_reward("aesthetic", options)
    image = torch.rand(2, 3, 32, 32, requires_grad=True)
    value = reward(image, PROMPTS)
    expected = reward.scorer.of_embeddings(reward.scorer.clip.embed(image.detach().permute(0, 2, 3, 1)))
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value.sum(), image)
    # along the gradient the slope is its norm; 0.3 over 6,144 numbers is a small step, and large beside float32's noise
    step = 0.3 * gradient / gradient.norm()
    with torch.no_grad():
        rise = (reward(image + step, PROMPTS) - reward(image - step, PROMPTS)).sum() / 0.6
    assert rise.item() == pytest.approx(gradient.norm().item(), rel=0.05)
    assert not reward.state_dict()


FUNCTION = """
def redness(images, prompts):
    assert images.shape[-1] == 3 and len(prompts) == len(images) and prompts[0].startswith("a red mug")
    return images[..., 0].mean((1, 2))

def constant(images, prompts):
    return images.new_zeros(len(images))

def broken(images, prompts):
    return {}["gone"]

def scalar(images, prompts):
    return images.mean()

number = 3
"""


def test_a_function_of_a_file_is_a_reward(tmp_path):
    (tmp_path / "mine.py").write_text(FUNCTION)
    image = torch.rand(2, 3, 4, 4, requires_grad=True)
    reward = build_reward("", f"{tmp_path}/mine.py:redness")
    torch.testing.assert_close(reward(image, PROMPTS), image[:, 0].mean((1, 2)))
    viewed = build_reward(f"{tmp_path}/mine.py:redness", {"view_dependent": True})
    torch.testing.assert_close(viewed(image, PROMPTS, torch.tensor([1, 0])), image[:, 0].mean((1, 2)))
    with pytest.raises(ValueError, match="mine.py:constant' is not differentiable in the pictures"):
        build_reward("", f"{tmp_path}/mine.py:constant")(image, PROMPTS)
    with pytest.raises(ValueError, match=r"mine.py:scalar' returned \[\], expected a tensor \[2\]"):
        build_reward("", f"{tmp_path}/mine.py:scalar")(image, PROMPTS)
    with pytest.raises(ValueError, match="mine.py:broken' failed: KeyError: 'gone'"):
        build_reward("", f"{tmp_path}/mine.py:broken")(image, PROMPTS)
    with pytest.raises(ValueError, match="mine.py has no function 'number'"):
        build_reward("", f"{tmp_path}/mine.py:number")


@pytest.mark.parametrize(
    ("reward_type", "reward", "message"),
    [
        ("clip", "aesthetic", "both name a reward"),
        ("", {"model": "x"}, "has options .model. but system.guidance.reward_type is empty"),
        ("beauty", None, "'beauty' is not known; choose one of clip, aesthetic"),
        ("", "no/such/file.py:f", "cannot be imported: FileNotFoundError: no file no/such/file.py"),
        ("", "os:system", "os:system' must take .images, prompts."),
        ("", "no_such_package.module:f", "cannot be imported: ModuleNotFoundError"),
        ("aesthetic", {}, "predictor is empty"),
        ("clip", {"model": "ViT-B-32"}, "pretrained=None of model='ViT-B-32' is no weights file and no tag"),
    ],
)
def test_mistakes_are_one_clear_line(reward_type, reward, message):
    with pytest.raises(ValueError, match=message):
        build_reward(reward_type, reward)


def test_no_reward_is_none_and_short_names_are_the_registered_ones(folder):
    assert build_reward("", None) is None and build_reward("", {}) is None
    short = build_reward("clip", {"model": f"local-dir:{folder}"})
    assert isinstance(short, threestudio.find("uni-instruct-clip-reward"))


def test_the_shipped_clip_prefers_the_right_prompt():
    """Default model on ground-truth renders of the world: the right prompt beats another colour and another object."""

    reward = threestudio.find("uni-instruct-clip-reward")({})
    image = render(make_instance("mug", "red", "plain", 0), 0.0, 20.0)["image"]
    image = torch.from_numpy(image).permute(2, 0, 1)[None]
    scores = [
        reward(image, SimpleNamespace(prompt=prompt, prompts_vd=[])).item()
        for prompt in ("a red mug", "a blue mug", "a red chair")
    ]
    assert scores[0] > max(scores[1:])
