"""Multi-view teachers: rows of a group see each other and nobody else, are told their cameras, and are saved whole."""

from __future__ import annotations

import json
import math

import pytest
import torch
from diffusers import UNet2DConditionModel

from uni_instruct_guidance.teachers.stable_diffusion.fake_score import FakeScore, FakeScoreConfig
from uni_instruct_guidance.teachers.stable_diffusion.multi_view import (
    CAMERAS,
    MARK,
    Mark,
    attend,
    camera_matrix,
    make_multi_view,
    read_mark,
    save_multi_view,
)
from uni_instruct_guidance.teachers.stable_diffusion.networks import Condition, Networks
from uni_instruct_guidance.teachers.stable_diffusion.teacher import Teacher

N = 4


@pytest.fixture
def plain(tiny_teacher):
    """U-Net of the tests' tiny teacher."""
    unet = UNet2DConditionModel.from_pretrained(tiny_teacher, subfolder="unet").eval().requires_grad_(False)
    attend(unet)
    return unet


@pytest.fixture
def folder(tiny_teacher, tmp_path, plain):
    """A teacher folder whose U-Net draws groups; its cameras count."""
    import shutil

    target = tmp_path / "teacher"
    shutil.copytree(tiny_teacher, target)
    shutil.rmtree(target / "unet")
    unet = make_multi_view(plain, N)
    torch.nn.init.normal_(unet.class_embedding.linear_2.weight, generator=torch.Generator().manual_seed(1))
    save_multi_view(unet, Mark(N), target / "unet")
    return target


def inputs(teacher: Teacher, rows: int, seed: int = 0):
    random = torch.Generator().manual_seed(seed)
    x_t = torch.randn((rows, *teacher.shape), generator=random)
    text = torch.randn((rows, 7, teacher.text_width), generator=random)
    view = torch.randn((rows, 16), generator=random)
    return x_t, torch.full((rows,), 500), text, view


def load(folder) -> Teacher:
    return Teacher.load(str(folder), torch.device("cpu"), half_precision=False)


def test_starts_as_the_ordinary_network(plain):
    """One view a group and the camera's last layer at zero: the same answer, whatever the camera says."""
    grown = make_multi_view(plain, 1)
    size, random = plain.config.sample_size, torch.Generator().manual_seed(0)
    x = torch.randn(3, plain.config.in_channels, size, size, generator=random)
    text = torch.randn(3, 5, plain.config.cross_attention_dim, generator=random)
    told = torch.randn(3, 16, generator=random)
    before = plain(x, 400, encoder_hidden_states=text).sample
    after = grown(x, 400, encoder_hidden_states=text, class_labels=told).sample
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_views_see_their_group_alone(folder):
    teacher = load(folder)
    x_t, t, text, view = inputs(teacher, 2 * N)
    before = teacher.predict_x0(x_t, t, text, class_labels=view)
    changed = x_t.clone()
    changed[1] += 1.0  # a view of the first group
    after = teacher.predict_x0(changed, t, text, class_labels=view)
    moved = (after - before).abs().flatten(1).amax(1)
    assert (moved[:N] > 1e-4).all()
    # the other group is another object: only rounding may differ
    assert (moved[N:] < 1e-5).all()


def test_group_attention_is_attention_over_joined_tokens(folder):
    """Against a naive loop: one long sequence of all tokens of a group."""
    teacher = load(folder)
    attn = next(m for name, m in teacher.unet.named_modules() if name.endswith("attn1"))
    rows = torch.randn(2 * N, 9, attn.to_q.in_features, generator=torch.Generator().manual_seed(3))
    found = attn(rows)
    for group in range(2):
        tokens = torch.cat(list(rows[group * N : (group + 1) * N]))
        heads = []
        q, k, v = (layer(tokens).chunk(attn.heads, -1) for layer in (attn.to_q, attn.to_k, attn.to_v))
        for i in range(attn.heads):
            heads.append((q[i] @ k[i].T * attn.scale).softmax(-1) @ v[i])
        expected = attn.to_out[0](torch.cat(heads, -1)).unflatten(0, (N, -1))
        torch.testing.assert_close(found[group * N : (group + 1) * N], expected, rtol=1e-4, atol=1e-5)


def test_cameras_count(folder):
    teacher = load(folder)
    x_t, t, text, view = inputs(teacher, N)
    here, there = (teacher.predict_x0(x_t, t, text, class_labels=v) for v in (view, view.roll(1, 0)))
    assert (here - there).abs().max() > 1e-4
    bound = teacher.seen_from(view)
    torch.testing.assert_close(bound.predict_x0(x_t, t, text), here)
    guided = bound.guided(x_t, t, text, torch.zeros_like(text), 3.0)
    alone = bound.predict_x0(x_t, t, torch.zeros_like(text))
    torch.testing.assert_close(guided, alone + 3.0 * (here - alone), rtol=1e-4, atol=1e-4)


def test_camera_matrix_has_positions_at_unit_length():
    c2w = torch.eye(4).repeat(2, 1, 1)
    c2w[:, :3, 3] = torch.tensor([[3.0, 0.0, 4.0], [0.0, 2.0, 0.0]])
    told = camera_matrix(c2w).unflatten(1, (4, 4))
    torch.testing.assert_close(told[:, :3, 3], torch.tensor([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]]))
    torch.testing.assert_close(told[:, :3, :3], c2w[:, :3, :3])
    assert c2w[0, 0, 3] == 3.0  # the batch's own matrices stay


def test_how_large_objects_are_drawn_is_told_as_a_magnification():
    """The last number turns the matrix into that of a camera as far off as the picture is half high."""
    c2w = torch.eye(4).repeat(2, 1, 1)
    c2w[:, :3, 3] = torch.tensor([[1.2, 0.0, 1.6], [0.0, 1.5, 0.0]])
    fovy = torch.tensor([math.radians(50.0), math.radians(60.0)])
    told = CAMERAS["c2w_zoom"]({"c2w": c2w, "fovy": fovy}).unflatten(1, (4, 4))
    torch.testing.assert_close(told[:, :, :3], c2w[:, :, :3])
    point = told[:, :3, 3] / told[:, 3:, 3]
    half_height = torch.tensor([2.0 * math.tan(math.radians(25.0)), 1.5 * math.tan(math.radians(30.0))])
    torch.testing.assert_close(point, c2w[:, :3, 3] * (half_height / torch.tensor([2.0, 1.5]))[:, None])
    torch.testing.assert_close(CAMERAS["c2w"]({"c2w": c2w, "fovy": fovy}), camera_matrix(c2w))
    with pytest.raises(ValueError, match="has no fovy"):
        CAMERAS["c2w_zoom"]({"c2w": c2w})


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_fake_score_starts_as_the_teacher_and_learns(folder, kind):
    teacher = load(folder)
    x_t, t, text, view = inputs(teacher, 2 * N)
    fake = FakeScore(teacher, kind, FakeScoreConfig(rank=2, targets=["attention", "time"], camera_condition="teacher"))
    x0, features = fake(x_t, t, text, view, ["mid"])
    torch.testing.assert_close(x0, teacher.predict_x0(x_t, t, text, class_labels=view), rtol=1e-4, atol=1e-4)
    assert features["mid"].shape[0] == 2 * N
    x0.square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in fake.parameters())


def test_networks_tell_everyone_the_camera(folder):
    from uni_instruct_guidance.teachers.discriminator import DiscriminatorConfig

    teacher = load(folder)
    x_t, t, text, view = inputs(teacher, N)
    fake, head = FakeScoreConfig(rank=2, camera_condition="teacher"), DiscriminatorConfig(features=["mid"])
    networks = Networks(teacher, "lora", fake, True, head)
    options = {
        "guidance_scale": 4.0, "fake_guidance_scale": 1.0, "with_logit": True, "with_jacobian": False,
        "with_logit_gradient": False,
    }  # fmt: skip
    condition = Condition(text, torch.zeros_like(text), text, text, view=view)
    answer = networks.answer(x_t, t, condition, **options)
    null = teacher.predict_x0(x_t, t, torch.zeros_like(text), class_labels=view)
    cond = teacher.predict_x0(x_t, t, text, class_labels=view)
    torch.testing.assert_close(answer.x0_teacher, null + 4.0 * (cond - null), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(answer.x0_fake, cond, rtol=1e-3, atol=1e-3)
    assert answer.logit.shape == (N,)


def test_refusals(folder, tiny_teacher):
    teacher = load(folder)
    x_t, t, text, view = inputs(teacher, N)
    with pytest.raises(ValueError, match=r"3 views for a teacher that draws 4.*data.batch_size"):
        teacher.predict_x0(x_t[:3], t[:3], text[:3], class_labels=view[:3])
    with pytest.raises(ValueError, match="needs their cameras"):
        teacher.predict_x0(x_t, t, text)
    with pytest.raises(ValueError, match=r"camera_condition 'spherical'.*4 views; choices: \['none', 'teacher'\]"):
        FakeScore(teacher, "lora", FakeScoreConfig(camera_condition="spherical"))
    with pytest.raises(ValueError, match=r"camera_condition 'teacher'.*of 1 views; choices: \['none', 'extrinsics'"):
        FakeScore(load(tiny_teacher), "lora", FakeScoreConfig(camera_condition="teacher"))
    for said, message in (
        ("{", "corrupt .*multi_view.json"),
        (json.dumps({"n_views": 4}), "must say n_views and camera"),
        (json.dumps({"n_views": 1, "camera": "c2w"}), "at least 2 views"),
        (json.dumps({"n_views": 4, "camera": "words"}), "words"),
    ):
        (folder / "unet" / MARK).write_text(said)
        with pytest.raises(ValueError, match=message):
            load(folder)


def test_fingerprint_knows_the_mark(folder):
    before = load(folder).fingerprint()
    (folder / "unet" / MARK).write_text(json.dumps({"n_views": 2, "camera": "c2w"}))
    assert load(folder).fingerprint() != before
    assert read_mark(folder / "unet") == Mark(2, "c2w")
    (folder / "unet" / MARK).write_text(json.dumps({"n_views": 2, "camera": "c2w_zoom"}))
    assert load(folder).camera == "c2w_zoom"


def test_grown_twice_is_refused(plain):
    with pytest.raises(ValueError, match="class embeddings already"):
        make_multi_view(make_multi_view(plain, 2), 2)
