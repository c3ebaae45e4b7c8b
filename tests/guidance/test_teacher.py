"""The teacher adapter, the fake scores on its weights, and the discriminator head on their features."""

from __future__ import annotations

import shutil

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from uni_instruct_guidance.teachers.discriminator import DiscriminatorHead
from uni_instruct_guidance.teachers.stable_diffusion.checks import check_safetensors, check_teacher
from uni_instruct_guidance.teachers.stable_diffusion.fake_score import FakeScore, FakeScoreConfig
from uni_instruct_guidance.teachers.stable_diffusion.teacher import Teacher
from uni_instruct_guidance.teachers.stable_diffusion.unet_features import feature_channels

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def teacher(tiny_teacher):
    return Teacher.load(str(tiny_teacher), CPU, half_precision=False)


def inputs(teacher, batch=2):
    x_t = torch.randn(batch, 4, teacher.latent_size, teacher.latent_size)
    return x_t, torch.tensor([20, 700][:batch]), torch.randn(batch, 16, teacher.text_width)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_x0_agrees_with_the_scheduler(kind, tiny_teacher, tiny_teacher_v):
    folder = {"epsilon": tiny_teacher, "v_prediction": tiny_teacher_v}[kind]
    teacher = Teacher.load(str(folder), CPU, half_precision=False)
    x_t, t, text = inputs(teacher)
    x0 = teacher.predict_x0(x_t, t, text)
    unet = UNet2DConditionModel.from_pretrained(str(folder), subfolder="unet").eval()
    scheduler = DDIMScheduler.from_pretrained(str(folder), subfolder="scheduler")
    for i in range(2):
        with torch.no_grad():
            output = unet(x_t[i : i + 1], t[i : i + 1], encoder_hidden_states=text[i : i + 1]).sample
        scheduler.set_timesteps(1000)
        expected = scheduler.step(output, int(t[i]), x_t[i : i + 1]).pred_original_sample
        # float32, values of a few tens at high noise
        torch.testing.assert_close(x0[i : i + 1], expected, rtol=2e-4, atol=2e-4)


def test_guidance_is_linear_in_x0(teacher):
    x_t, t, text = inputs(teacher)
    uncond = torch.randn_like(text)
    cond_x0, uncond_x0 = teacher.predict_x0(x_t, t, text), teacher.predict_x0(x_t, t, uncond)
    guided = teacher.guided(x_t, t, text, uncond, 7.5)
    torch.testing.assert_close(guided, uncond_x0 + 7.5 * (cond_x0 - uncond_x0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(teacher.guided(x_t, t, text, None, 1.0), cond_x0)


def test_encode_resizes_and_keeps_gradients(teacher):
    rgb = torch.rand(1, 3, 20, 20, requires_grad=True)
    latents = teacher.encode(rgb)
    assert latents.shape == (1, 4, teacher.latent_size, teacher.latent_size)
    latents.sum().backward()
    assert rgb.grad.abs().sum() > 0
    assert teacher.decode(latents.detach()).shape == (1, 3, teacher.image_size, teacher.image_size)


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("camera", ["none", "extrinsics", "spherical"])
def test_fake_score_starts_as_the_teacher_and_learns(teacher, kind, camera):
    fake = FakeScore(
        teacher, kind, FakeScoreConfig(rank=2, targets=["attention", "conv", "time"], camera_condition=camera)
    )
    x_t, t, text = inputs(teacher)
    width = {"none": None, "extrinsics": 16, "spherical": 6}[camera]
    labels = None if width is None else torch.randn(2, width)
    before = teacher.predict_x0(x_t, t, text)
    x0, features = fake(x_t, t, text, labels, features=["down.0", "mid"])
    torch.testing.assert_close(x0, before, rtol=1e-4, atol=1e-4)
    channels = feature_channels(teacher.unet)
    assert {name: f.shape[1] for name, f in features.items()} == {name: channels[name] for name in ("down.0", "mid")}
    only = fake.encode(x_t, t, text, labels, features=["down.0", "mid"])
    for name in features:
        torch.testing.assert_close(only[name], features[name])
    optimizer = torch.optim.Adam(fake.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        (fake(x_t, t, text, labels)[0] - 1).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert (fake(x_t, t, text, labels)[0] - before).abs().max() > 1e-3
    # the teacher itself has not moved
    torch.testing.assert_close(teacher.predict_x0(x_t, t, text), before)


def test_lora_state_holds_only_what_is_learned_and_restores(teacher):
    cfg = FakeScoreConfig(rank=2, camera_condition="extrinsics")
    fake = FakeScore(teacher, "lora", cfg)
    for parameter in fake.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    state = fake.state_dict()
    learned = sum(value.numel() for value in state.values())
    assert learned < 0.2 * sum(p.numel() for p in teacher.unet.parameters())
    assert all("lora_" in key or key.startswith("camera.") for key in state)
    other = FakeScore(teacher, "lora", cfg)
    other.load_state_dict(state)
    x_t, t, text = inputs(teacher)
    labels = torch.randn(2, 16)
    torch.testing.assert_close(other(x_t, t, text, labels)[0], fake(x_t, t, text, labels)[0])


def test_lora_in_half_precision_changes_no_input_to_float32_and_back(tiny_teacher):
    """The very same numbers as peft's own way, which copies every input of a LoRA layer twice."""
    teacher = Teacher.load(str(tiny_teacher), CPU, dtype=torch.bfloat16)
    fake = FakeScore(teacher, "lora", FakeScoreConfig(targets=["attention", "conv"], camera_condition="none"))
    layers = [layer for layer in fake.unet.modules() if hasattr(layer, "lora_A")]
    torch.manual_seed(0)
    for parameter in fake.parameters():
        parameter.data.normal_(std=0.1)
    x_t, t, text = inputs(teacher)
    found = []
    assert layers and not any(layer.cast_input_dtype_enabled for layer in layers)
    for cast in (False, True):
        for layer in layers:
            layer.cast_input_dtype_enabled = cast
        fake.zero_grad()
        x0, _ = fake(x_t, t, text)
        x0.square().mean().backward()
        found.append([x0.detach(), *(parameter.grad.clone() for parameter in fake.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found))
    assert all(parameter.dtype == torch.float32 for parameter in fake.parameters())


def test_fake_score_refuses_unknown_words(teacher):
    with pytest.raises(ValueError, match="kind 'adapter'.*lora"):
        FakeScore(teacher, "adapter", FakeScoreConfig())
    with pytest.raises(ValueError, match=r"camera_condition='euler'.*spherical"):
        FakeScore(teacher, "lora", FakeScoreConfig(camera_condition="euler"))
    with pytest.raises(ValueError, match=r"targets \['mlp'\].*attention"):
        FakeScore(teacher, "lora", FakeScoreConfig(targets=["mlp"]))
    with pytest.raises(ValueError, match="needs cameras"):
        FakeScore(teacher, "lora", FakeScoreConfig())(*inputs(teacher))


def test_discriminator_head_starts_undecided_and_separates():
    head = DiscriminatorHead({"mid": 8, "down.0": 4}, width=8)
    direction = torch.randn(1, 8, 1, 1)

    def features(shift):
        """Real and fake differ in the mean of one feature direction: what pooling keeps and a group norm erases."""
        return {"mid": torch.randn(64, 8, 4, 4) + shift * direction, "down.0": torch.randn(64, 4, 8, 8)}

    assert head(features(0.0)).abs().max() == 0  # zero-initialised last layer: r = 1
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.softplus(-head(features(1.0))) + torch.nn.functional.softplus(head(features(0.0)))
        loss.mean().backward()
        optimizer.step()
    assert head(features(1.0)).mean() > 1 > -1 > head(features(0.0)).mean()


# --- refusals ---------------------------------------------------------------------------------------------------


def test_teacher_must_exist():
    with pytest.raises(FileNotFoundError, match=r"teacher 'no/such/folder'.*load/teachers/shapes"):
        check_teacher("no/such/folder")
    with pytest.raises(FileNotFoundError, match="'owner/nobody-has-this'.*local folder"):
        check_teacher("owner/nobody-has-this")


@pytest.mark.parametrize("part", ["unet", "vae", "scheduler"])
def test_missing_part_is_named(part, tiny_teacher, tmp_path):
    folder = tmp_path / "t"
    shutil.copytree(tiny_teacher, folder)
    shutil.rmtree(folder / part)
    with pytest.raises(FileNotFoundError, match=f"lacks.*{part}"):
        check_teacher(str(folder))


@pytest.mark.parametrize("keep", [3, 1000, -10])
def test_truncated_weights_are_named(keep, tiny_teacher, tmp_path):
    folder = tmp_path / "t"
    shutil.copytree(tiny_teacher, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    check_safetensors(weights)
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"corrupt weights .*unet.*safetensors"):
        check_teacher(str(folder))


def test_damaged_configuration_is_named(tiny_teacher, tmp_path):
    folder = tmp_path / "t"
    shutil.copytree(tiny_teacher, folder)
    (folder / "unet" / "config.json").write_text('{"sample_size": 8,')
    with pytest.raises(ValueError, match=r"corrupt configuration .*unet.*config.json"):
        check_teacher(str(folder))
