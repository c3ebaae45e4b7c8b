"""Editing: the papers' formulas out of the one objective, masks, seeds, what is refused."""

import pytest
import torch
from gaussian_teacher import GaussianTeacher

from uni_instruct_guidance.core import get_method
from uni_instruct_guidance.editing.delta import LAST_RATE, EditConfig, Prompts, delta_gradient, edit

SHAPE = (3, 8, 8)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def told(batch: int) -> Prompts:
    source, target = (0.5 * drawn(1, *SHAPE, seed=seed).expand(batch, -1, -1, -1) for seed in (1, 2))
    return Prompts(source, target, torch.zeros_like(source))


def pictures(batch: int) -> torch.Tensor:
    return torch.rand(batch, *SHAPE, generator=torch.Generator().manual_seed(3))


def noise_prediction(teacher, x_t, t, condition, null, scale):
    """ε̂ = (x_t − α x̂0)/σ, guided as the papers write it: ε̂_∅ + scale (ε̂ − ε̂_∅)."""
    alpha, sigma = (part.reshape(-1, 1, 1, 1) for part in teacher.process.alpha_sigma(t))
    with_it, without = ((x_t - alpha * teacher.predict_x0(x_t, t, told)) / sigma for told in (condition, null))
    return without + scale * (with_it - without)


@pytest.mark.parametrize("weighting", ["epsilon", None])
@pytest.mark.parametrize("scale", [7.5, 1.0])
def test_dds_is_the_papers(scale, weighting):
    """Eq. 3 of arXiv 2304.07090: ε̂(z_t, y, t) − ε̂(ẑ_t, ŷ, t), the same ε and t, guidance in both.

    `epsilon` is the formula as printed, without the w(t) that the paper leaves out; the row has DreamFusion's σ².
    """
    teacher, prompts, t = GaussianTeacher(), told(2), torch.tensor([0.3, 0.7])
    z, reference, eps = drawn(2, *SHAPE, seed=4), drawn(2, *SHAPE, seed=5), drawn(2, *SHAPE)
    row = EditConfig(weighting=weighting, guidance_scale=scale).row
    grad = delta_gradient(teacher, row, z, reference, eps, t, prompts)
    z_t, reference_t = teacher.process.diffuse(z, eps, t), teacher.process.diffuse(reference, eps, t)
    expected = noise_prediction(teacher, z_t, t, prompts.target, prompts.null, scale)
    expected = expected - noise_prediction(teacher, reference_t, t, prompts.source, prompts.null, scale)
    if weighting is None:
        expected = teacher.process.sigma(t).reshape(-1, 1, 1, 1) ** 2 * expected
    torch.testing.assert_close(grad, expected, atol=2e-5, rtol=1e-4)


def test_sds_is_the_papers():
    """ε̂(z_t, y, t) − ε with DreamFusion's weight σ²."""
    teacher, prompts = GaussianTeacher(), told(2)
    z, eps, t = drawn(2, *SHAPE, seed=4), drawn(2, *SHAPE), torch.tensor([0.3, 0.7])
    row = get_method("sds", guidance_teacher=7.5)
    grad = delta_gradient(teacher, row, z, z, eps, t, prompts)
    sigma = teacher.process.sigma(t).reshape(-1, 1, 1, 1)
    z_t = teacher.process.diffuse(z, eps, t)
    expected = sigma**2 * (noise_prediction(teacher, z_t, t, prompts.target, prompts.null, 7.5) - eps)
    torch.testing.assert_close(grad, expected, atol=2e-5, rtol=1e-4)


def test_the_same_prompt_twice_changes_nothing():
    """What the teacher would change anyway drops out of DDS; SDS keeps it."""
    teacher, before, prompts = GaussianTeacher(), pictures(1), told(1)
    same = Prompts(prompts.target, prompts.target, prompts.null)
    after = edit(teacher, before, same, EditConfig(steps=5), [0]).pictures
    torch.testing.assert_close(after, before, atol=1e-6, rtol=0)
    assert (edit(teacher, before, same, EditConfig("sds", steps=5), [0]).pictures - before).abs().max() > 0.01


def test_one_step_by_hand():
    """z − lr (ε̂ − ε̂_ref); a step of one takes the whole rate. Pixels and latents are the same thing here."""
    teacher, before, prompts = GaussianTeacher(), 0.5 + 0.1 * (pictures(1) - 0.5), told(1)
    done = edit(teacher, before, prompts, EditConfig(steps=1, lr=0.01, weighting="epsilon"), [7])
    in_pixels = edit(teacher, before, prompts, EditConfig(steps=1, lr=0.0025, weighting="epsilon", space="pixels"), [7])
    # x = z/2 + 1/2: the gradient in x is twice that in z, and a step in x twice as long in z
    torch.testing.assert_close(done.pictures, in_pixels.pictures)
    moved = (2 * (done.pictures - before)).square().mean().sqrt() / 0.01
    assert float(moved) == pytest.approx(done.curve[0], rel=1e-4)
    assert done.calls == 4 and LAST_RATE == 0.1


def test_a_mask_is_kept():
    teacher, before = GaussianTeacher(), pictures(2)
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, :4] = 1
    for space in ("latents", "pixels"):
        after = edit(teacher, before, told(2), EditConfig(steps=3, space=space), [0, 1], mask).pictures
        assert torch.equal(after[:, :, 4:], before[:, :, 4:])
        assert (after[:, :, :4] - before[:, :, :4]).abs().max() > 0.01


def test_a_pictures_result_does_not_depend_on_its_neighbours():
    teacher, before = GaussianTeacher(), pictures(3)
    together = edit(teacher, before, told(3), EditConfig(steps=3), [5, 6, 7]).pictures
    alone = edit(teacher, before[1:2], told(1), EditConfig(steps=3), [6]).pictures
    torch.testing.assert_close(together[1:2], alone)
    other = edit(teacher, before[1:2], told(1), EditConfig(steps=3), [8]).pictures
    assert (other - alone).abs().max() > 1e-4


def test_calls_are_counted():
    for method, scale, calls in (("dds", 6.0, 4), ("dds", 1.0, 2), ("sds", 6.0, 2)):
        done = edit(GaussianTeacher(), pictures(1), told(1), EditConfig(method, 3, guidance_scale=scale), [0])
        assert done.calls == 3 * calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "vsd"}, "method='vsd' is not known; choose one of dds, sds"),
        ({"space": "voxels"}, "space='voxels' is not known; choose one of latents, pixels"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"lr": -1.0}, "lr=-1.0 must be above 0"),
        ({"noise": (0.9, 0.1)}, "two numbers"),
        ({"noise": (0.5, 0.5)}, "must be a range"),
        ({"weighting": "snr"}, "weighting='snr'.*theory"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        EditConfig(**options)


def test_a_teacher_without_prompts():
    with pytest.raises(ValueError, match="reads no prompts"):
        edit(GaussianTeacher(guidable=False), pictures(1), told(1), EditConfig(), [0])


def test_a_teacher_of_several_views():
    teacher = GaussianTeacher()
    teacher.n_views = 4
    with pytest.raises(ValueError, match="draws 4 views at once"):
        edit(teacher, pictures(1), told(1), EditConfig(), [0])
