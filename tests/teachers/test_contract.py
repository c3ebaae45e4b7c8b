"""Both families of teachers keep one contract; fingerprints and the shared head."""

from __future__ import annotations

import shutil

import pytest
import torch
from tiny_teacher import make_tiny_teacher

from uni_instruct_guidance.teachers.contract import DiffusionTeacher, frozen_twin, guided
from uni_instruct_guidance.teachers.discriminator import DiscriminatorHead
from uni_instruct_guidance.teachers.edm import build_network
from uni_instruct_guidance.teachers.edm.teacher import ClassConditions, EDMTeacher
from uni_instruct_guidance.teachers.stable_diffusion.teacher import Teacher
from uni_instruct_guidance.teachers.stable_diffusion.text import PromptConditions

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_teacher(tmp_path_factory.mktemp("contract"), seed=4)


def edm(folder):
    torch.manual_seed(0)
    network = build_network("tiny", label_dim=3)
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return EDMTeacher(network), ClassConditions(3), torch.tensor([0.5, 2.0])


def stable_diffusion(folder):
    teacher = Teacher.load(str(folder), CPU, half_precision=False)
    return teacher, PromptConditions(teacher.name, ["a red mug", "a blue chair"]), torch.tensor([100, 900])


FAMILIES = pytest.mark.parametrize("family", [edm, stable_diffusion])


@FAMILIES
def test_a_learner_starts_as_its_teacher_and_its_twin_stays_behind(family, folder):
    teacher, conditions, t = family(folder)
    assert isinstance(teacher, DiffusionTeacher)
    x_t = torch.randn(2, *teacher.shape)
    told = conditions.of(torch.tensor([0, 1]), CPU)
    learner = teacher.learner("full")
    names = list(learner.feature_widths())
    x0, features = learner.denoise(x_t, t, told, names)
    torch.testing.assert_close(x0, teacher.predict_x0(x_t, t, told), rtol=1e-4, atol=1e-4)
    alone = learner.read_features(x_t, t, told, names)
    for name in names:
        assert features[name].shape[1] == learner.feature_widths()[name]
        torch.testing.assert_close(features[name], alone[name])
    twin = frozen_twin(learner)
    assert not any(p.requires_grad for p in twin.parameters())
    assert {p.data_ptr() for p in twin.parameters()}.isdisjoint(p.data_ptr() for p in learner.parameters())
    with torch.no_grad():
        next(iter(learner.parameters())).add_(1.0)
    torch.testing.assert_close(twin.denoise(x_t, t, told)[0], x0)


@FAMILIES
def test_samples_come_from_the_ode_and_images_go_both_ways(family, folder):
    teacher, conditions, _ = family(folder)
    told = conditions.of(torch.tensor([0, 1]), CPU)
    noise = torch.randn(2, *teacher.shape)
    first, again = (teacher.solve(noise, told, None, 1.0, 3) for _ in range(2))
    assert first.shape == noise.shape and torch.equal(first, again)
    images = teacher.decode(first)
    assert images.min() >= 0 and images.max() <= 1
    assert teacher.encode(images).shape[1:] == teacher.shape


def test_edm_networks_have_no_unconditional_branch(folder):
    teacher, conditions, _ = edm(folder)
    assert not teacher.guidable
    with pytest.raises(ValueError, match="guidance must be 1"):
        conditions.null(torch.tensor([0]), CPU)


def test_guidance_keeps_the_conditional_features():
    def denoise(x_t, t, condition, names):
        return x_t * condition, {"mid": condition}

    x_t, condition, null = torch.ones(2, 1), torch.full((2, 1), 3.0), torch.full((2, 1), 1.0)
    x0, features = guided(denoise, x_t, torch.zeros(2), condition, null, 4.0, ["mid"])
    assert torch.equal(x0, torch.full((2, 1), 1 + 4.0 * 2)) and torch.equal(features["mid"], condition)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_fingerprint_knows_every_part(folder, tmp_path, part):
    copy = shutil.copytree(folder, tmp_path / "copy")
    teacher = Teacher.load(str(copy), CPU)
    before = teacher.fingerprint()
    assert before == Teacher.load(str(folder), CPU).fingerprint()  # content, not place
    file = sorted((copy / part).iterdir())[0]
    file.write_bytes(file.read_bytes() + b" ")
    assert teacher.fingerprint() != before


@pytest.mark.parametrize("branch", ["spatial", "pointwise"])
def test_heads_start_undecided_and_see_every_feature(branch):
    head = DiscriminatorHead({"down.0": 8, "mid": 16}, 4, branch)
    features = {"down.0": torch.randn(3, 8, 4, 4), "mid": torch.randn(3, 16, 2, 2)}
    assert torch.equal(head(features), torch.zeros(3))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    first = head(features)
    for name in features:
        assert not torch.allclose(head({**features, name: torch.randn_like(features[name])}), first)
