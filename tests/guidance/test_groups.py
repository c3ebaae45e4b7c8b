"""Guidance with a teacher that draws four views at once: a sample is the group, for every method of the table."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from prompt_stub import StubPrompts
from test_uni_instruct import RUNS_IN_3D

import threestudio  # noqa: F401  the host first, as launch.py does
from uni_instruct_guidance.core import METHODS, objective
from uni_instruct_guidance.core.groups import Groups
from uni_instruct_guidance.core.orbits import are_orbits
from uni_instruct_guidance.core.ratio import discriminator_loss
from uni_instruct_guidance.guidance.bank import BankConfig
from uni_instruct_guidance.guidance.group_bank import orbits
from uni_instruct_guidance.guidance.uni_instruct import UniInstructGuidance
from uni_instruct_guidance.guidance.views import whole_groups
from uni_instruct_guidance.teachers.randomness import generator
from uni_instruct_guidance.teachers.stable_diffusion.teacher import Teacher

N = 4


@pytest.fixture(scope="module")
def teacher(tiny_multi_view):
    """Loaded once: it is frozen, and learned layers are put on copies of its skeleton."""
    return Teacher.load(str(tiny_multi_view), torch.device("cpu"), half_precision=False)


@pytest.fixture
def build(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(Teacher, "load", lambda *args, **kwargs: teacher)

    def make(**options):
        config = {
            "pretrained_model_name_or_path": teacher.name,
            "half_precision_weights": False,
            "bank_dir": str(tmp_path / "bank"),
            **options,
            "bank": {"size": 3, "steps": 2, **options.get("bank", {})},
            "fake_score": {"camera_condition": "teacher", **options.get("fake_score", {})},
        }
        torch.manual_seed(0)
        return UniInstructGuidance(config)

    return make


def groups_of_cameras(groups: int, seed: int = 3) -> dict:
    """Batch entries as the multi-view data module gives them."""
    where = BankConfig(size=groups, elevation_range=(0, 60))
    return orbits(where, N, torch.Generator().manual_seed(seed)) | {"n_view": N}


def trained(guidance):
    """Push the learned networks off their neutral start, always in the same way."""
    torch.manual_seed(3)
    for parameter in guidance.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return guidance


def latents_of(groups: int) -> torch.Tensor:
    return torch.randn(groups * N, 4, 8, 8, generator=torch.Generator().manual_seed(5))


def ask(guidance, latents, seed=7, **cameras):
    latents = latents.clone().requires_grad_(True)
    torch.manual_seed(seed)
    where = groups_of_cameras(len(latents) // N) | cameras
    out = guidance(latents.permute(0, 2, 3, 1), StubPrompts(16), **where, rgb_as_latents=True)
    (grad,) = torch.autograd.grad(out["loss_uni_instruct"], latents, retain_graph=True)
    return out, grad


@pytest.mark.parametrize("method", RUNS_IN_3D)
def test_every_method_works_on_groups(method, build):
    guidance = trained(build(method=method, guidance_scale=7.5))
    guidance.inner_step = torch.Tensor.backward
    out, grad = ask(guidance, latents_of(2))
    assert torch.isfinite(grad).all() and (grad.flatten(1).norm(dim=1) > 0).all()
    sum(value for key, value in out.items() if key.startswith("loss_")).backward()
    learned = [p.grad for p in guidance.parameters() if p.grad is not None]
    assert bool(learned) == METHODS[method].learns_fake_score
    assert all(torch.isfinite(grad).all() for grad in learned)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "sds", "guidance_scale": 5.0},
        {"divergence": "fkl", "jacobian": "none", "guidance_scale": 3.0},
        {"divergence": "jkl", "gradient": "exact", "kappa": 1.0, "guidance_scale": 3.0},
        {"divergence": "rkl", "distance": "pseudo_huber", "jacobian": "none"},
        {"method": "dmd2", "auxiliary": {"gan": 0.0}, "fake_score": {"updates_per_step": 1}},
    ],
    ids=str,
)
def test_gradient_is_the_cores_on_folded_groups(options, build):
    """The same draws by hand: one level for each group, networks asked in rows, the core given [G, n·C, h, w]."""
    guidance = trained(build(**options, gradient_size={"max_ratio": 0.0}))
    latents, seen = latents_of(2), {}
    answer, sampler = guidance.networks.answer, guidance.sampler

    def keep(x_t, t, condition, **how):
        seen.update(x_t=x_t.detach(), t=t, condition=condition, how=how)
        return answer(x_t, t, condition, **how)

    def sample(*args, **kwargs):
        seen["times"] = sampler.sample(*args, **kwargs)
        return seen["times"]

    guidance.networks.answer, guidance.sampler = keep, SimpleNamespace(sample=sample)
    _, grad = ask(guidance, latents)
    times = seen["times"]
    assert times.t.shape == (2,) and torch.equal(seen["t"], times.t.repeat_interleave(N)), "one noise level for a group"
    alpha, sigma = (x.repeat_interleave(N).reshape(-1, 1, 1, 1) for x in (times.alpha, times.sigma))
    eps = (seen["x_t"] - alpha * latents) / sigma
    assert eps.unflatten(0, (2, N)).std(1).mean() > 0.5, "noise of its own for every view"

    x0 = latents.clone().requires_grad_(True)
    said = answer(alpha * x0 + sigma * eps, seen["t"], seen["condition"], **seen["how"])
    folded = [None if x is None else x.reshape(2, N * 4, 8, 8) for x in (x0, said.x0_teacher, said.x0_fake)]
    out = objective(
        guidance.current.objective, x0=folded[0], x0_teacher=folded[1],
        x0_fake=folded[0].detach() if folded[2] is None else folded[2], alpha=times.alpha, sigma=times.sigma,
        log_r=None if said.logit is None else said.logit.reshape(2, N).mean(1), log_snr_density=times.log_snr_density,
    )  # fmt: skip
    (expected,) = torch.autograd.grad(out.loss.sum(), x0)
    # losses are means over the views
    torch.testing.assert_close(grad * len(latents), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_a_fake_score_need_not_be_told_the_camera(build):
    guidance = trained(build(method="swiftbrush", fake_score={"camera_condition": "none"}))
    fake, x, told = guidance.networks.fake, latents_of(1), torch.randn(N, 16)
    text, t = torch.randn(N, 16, 16), torch.full((N,), 300)
    assert torch.equal(fake(x, t, text, told)[0], fake(x, t, text, torch.zeros(N, 16))[0])
    assert torch.isfinite(ask(guidance, latents_of(1))[1]).all()


def test_a_view_that_is_not_finite_rejects_its_group(build):
    latents = latents_of(2)
    latents[5] = float("nan")
    out, grad = ask(build(method="vsd", guidance_scale=7.5), latents)
    assert out["rejected"] == 1
    assert (grad[:N].flatten(1).norm(dim=1) > 0).all() and (grad[N:] == 0).all()


def test_fake_score_learns_groups_at_one_level(build, monkeypatch):
    guidance, asked = trained(build(method="vsd", fake_score={"batch": 2})), []
    fake = guidance.networks.fake.forward

    def keep(x_t, t, text, camera, *rest):
        asked.append((t, camera))
        return fake(x_t, t, text, camera, *rest)

    monkeypatch.setattr(guidance.networks.fake, "forward", keep)
    ask(guidance, latents_of(2))
    t, camera = asked[0]  # the denoising update comes first
    t, camera = t.unflatten(0, (4, N)), camera.unflatten(0, (4, N))
    assert (t == t[:, :1]).all() and len(set(t[:, 0].tolist())) == 4
    # whole groups are repeated: group 0 twice, then group 1 twice
    assert torch.equal(camera[0], camera[1]) and torch.equal(camera[2], camera[3])
    assert not torch.equal(camera[0], camera[2]) and not torch.equal(camera[0][0], camera[0][1])


def test_the_critic_judges_groups_each_with_its_own_cameras(build):
    guidance, told = trained(build(divergence="fkl", bank={"elevation_range": [10, 20]})), {}
    logit = guidance.networks.logit

    def keep(x_t, t, condition, **how):
        told.update(t=t, condition=condition, logit=logit(x_t, t, condition, **how))
        return told["logit"]

    guidance.networks.logit = keep
    out, _ = ask(guidance, latents_of(2))
    bank = guidance.bank
    assert bank.latents.shape == (3, N, 4, 8, 8)
    above = bank.cameras["elevation"]
    assert (above >= 10).all() and (above <= 20).all() and are_orbits(above, bank.cameras["azimuth"], N)
    real, fake = told["condition"].view.chunk(2)
    rendered = groups_of_cameras(2)["c2w"]
    torch.testing.assert_close(fake[:, 3], torch.nn.functional.normalize(rendered[:, :3, 3], dim=-1)[:, 0])
    known = {tuple(row.flatten().tolist()) for row in bank.teacher.view.unflatten(0, (3, N))}
    assert all(tuple(group.flatten().tolist()) in known for group in real.unflatten(0, (2, N)))
    # levels: one a group, the same for the real and the rendered one beside it
    t = told["t"].unflatten(0, (2, 2, N))
    assert (t == t[:1, :, :1]).all()
    per_group = told["logit"].unflatten(0, (2, 2, N)).mean(2)
    torch.testing.assert_close(out["loss_discriminator"], discriminator_loss(*per_group).mean())


def test_bank_of_groups_is_kept_and_drawn_at_its_cameras(build, tmp_path):
    first = build(divergence="fkl")
    ask(first, latents_of(1))
    again = build(divergence="fkl")
    ask(again, latents_of(1))
    assert torch.equal(first.bank.latents, again.bank.latents)
    assert len(list((tmp_path / "bank").iterdir())) == 1
    elsewhere = build(divergence="fkl", bank={"elevation_range": [50, 60]})
    ask(elsewhere, latents_of(1))
    assert len(list((tmp_path / "bank").iterdir())) == 2
    # shards of another size hold the same samples: no group is cut
    small = build(divergence="fkl", bank={"batch_size": 5})
    ask(small, latents_of(1))
    torch.testing.assert_close(small.bank.latents, first.bank.latents, rtol=1e-3, atol=1e-3)
    torch.manual_seed(0)
    rows, cameras = first.bank.draw(5)
    assert rows.shape == (5 * N, 4, 8, 8) and are_orbits(cameras["elevation"], cameras["azimuth"], N)


def test_bank_draws_its_lenses_as_the_data_module_does():
    """Distance over the tangent where it is relative, zoom last; the picture's half height is told from them."""
    lens = {"camera_distance_range": (1.0, 2.0), "fovy_range": (40.0, 60.0), "zoom_range": (0.5, 0.8)}
    drawn = {relative: orbits(BankConfig(size=50, relative_radius=relative, **lens), N, generator(0, 0, "x"))
             for relative in (False, True)}  # fmt: skip
    for relative, cameras in drawn.items():
        distance, fovy = cameras["camera_distances"], cameras["fovy"]
        torch.testing.assert_close(cameras["c2w"][:, :3, 3].norm(dim=1), distance)
        assert math.radians(20) <= fovy.min() and fovy.max() <= math.radians(48)
        assert (fovy.unflatten(0, (-1, N)).std(1) == 0).all() and len(fovy.unique()) == 50
        assert (distance >= 1.0).all() and (relative or (distance <= 2.0).all())
    assert drawn[True]["camera_distances"].max() > 2.5  # 1 / tan(20 … 30 degrees) is 2.7 … 1.7


def test_bank_stands_where_the_first_view_of_a_group_may():
    """azimuth_range is the data module's: the first view's; the others follow 90 degrees apart."""
    where = BankConfig(size=50, azimuth_range=(20.0, 40.0))
    around = orbits(where, N, generator(0, 0, "x"))["azimuth"].unflatten(0, (-1, N))
    assert around[:, 0].min() >= 20.0 and around[:, 0].max() <= 40.0 and around[:, 0].std() > 3
    turns = (around - around[:, :1]) % 360.0
    torch.testing.assert_close(turns, (torch.arange(N) * 360.0 / N).expand(50, N), atol=1e-3, rtol=0)


@pytest.mark.parametrize("camera", ["c2w", "c2w_zoom"])
def test_what_is_told_of_a_camera_follows_the_mark(build, camera, monkeypatch):
    """The same views seen through another lens are another condition for a teacher that is told how large."""
    guidance = build(method="sds")
    monkeypatch.setattr(guidance.teacher, "camera", camera)
    wide = groups_of_cameras(1)
    near = wide | {"fovy": wide["fovy"] * 0.5}
    told = [guidance._condition(StubPrompts(16), cameras).view for cameras in (wide, near)]
    assert torch.equal(*told) == (camera == "c2w")


def test_pictures_are_drawn_in_whole_groups(build):
    guidance = build(method="vsd")
    where = {key: value for key, value in groups_of_cameras(1).items() if key != "n_view"}
    together = guidance.sample(StubPrompts(16), **where, seed=1)
    assert together.shape == (N, 32, 32, 3)
    # the first view alone draws the group around it, and shows its own
    one = {key: value[:1] for key, value in where.items()}
    alone = guidance.sample(StubPrompts(16), **one, seed=1)
    assert alone.shape == (1, 32, 32, 3)
    torch.testing.assert_close(alone[0], together[0], rtol=1e-3, atol=1e-3)
    assert guidance.sample_lora(StubPrompts(16), **one, seed=1).shape == (1, 32, 32, 3)
    odd = {key: value[:3] for key, value in where.items()}
    cameras, asked = whole_groups(odd, N, "x")
    assert asked.tolist() == [0, 4, 8] and are_orbits(cameras["elevation"], cameras["azimuth"], N)
    torch.testing.assert_close(cameras["c2w"][:N], where["c2w"], rtol=1e-4, atol=1e-5)


def _without(key):
    return lambda batch: {name: value for name, value in batch.items() if name != key}


def _as_single_views(batch):
    batch = _without("n_view")(batch)
    return batch | {"elevation": torch.linspace(0, 40, len(batch["elevation"]))}


BAD = {
    "n_view of another teacher": (lambda batch: batch | {"n_view": 2}, r"data\.n_view=2, but .*draws 4 views at once"),
    "no cameras": (_without("c2w"), r"draws 4 views at once.*no c2w; take data_type=random-multiview-camera"),
    "three rows": (
        lambda batch: {k: v[:3] if torch.is_tensor(v) else v for k, v in batch.items()},
        r"data\.batch_size=3 must be a multiple of 4",
    ),
    "single views": (_as_single_views, r"single views: take data_type=random-multiview-.* with data\.n_view=4"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_cameras_are_one_line(name, build):
    change, message = BAD[name]
    where = change(groups_of_cameras(1))
    with pytest.raises(ValueError, match=message) as caught:
        build(method="sds")(torch.rand(len(where["elevation"]), 16, 16, 3), StubPrompts(16), **where)
    assert "\n" not in str(caught.value)


def test_groups_of_one_change_nothing():
    x, one, four = torch.randn(8, 3, 2, 2), Groups(1), Groups(4)
    assert one.fold(x) is x and one.split(x) is x and one.rows(x) is x and one.mean(x) is x
    assert torch.equal(one.repeat(x, 2), x.repeat_interleave(2, 0))
    folded = four.fold(x)
    assert folded.shape == (2, 12, 2, 2) and torch.equal(four.split(folded), x)
    assert torch.equal(folded[1, 3:6], x[5]), "views stay together, in order"
    assert four.rows(torch.tensor([1.0, 2.0])).tolist() == [1.0] * 4 + [2.0] * 4
    assert four.mean(torch.arange(8.0)).tolist() == [1.5, 5.5]
