"""The CLIP reward: the library's own numbers, a gradient that raises it, and no weights in checkpoints."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import open_clip
import pytest
import torch
from prompt_stub import StubPrompts, cameras
from teacher_factory.clip import build_clip, save_clip
from teacher_factory.presets import ClipConfig

import threestudio
import uni_instruct_guidance.guidance
import uni_instruct_guidance.systems  # noqa: F401
from shapes_world import make_instance, render

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
                "reward_type": "uni-instruct-clip-reward",
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
