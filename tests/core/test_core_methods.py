"""The methods table: sixteen rows, overrides, schedules, refusals."""

import copy
import pickle

import pytest
import torch

from uni_instruct_guidance.core import METHODS, get_method

ONE_STEP = ["diff_instruct", "swiftbrush", "dmd", "dmd2", "sim", "sid", "sida", "sid_lsg", "f_distill"]
OTHERS = ["sds", "dds", "vsd", "red_diff", "di_pp", "di_star", "uni_instruct"]


def test_sixteen_rows():
    assert set(METHODS) == {*ONE_STEP, *OTHERS} and len(METHODS) == 16
    assert all(name == row.name for name, row in METHODS.items())


def test_what_each_row_needs():
    ratio = [name for name, row in METHODS.items() if row.objective.needs_ratio]
    critics = [name for name, row in METHODS.items() if row.needs_discriminator]
    unlearned = [name for name, row in METHODS.items() if not row.learns_fake_score]
    jacobian = [name for name, row in METHODS.items() if row.objective.needs_jacobian]
    assert ratio == ["f_distill"]  # rkl has h = 1
    assert critics == ["dmd2", "sida", "f_distill", "uni_instruct"]
    assert unlearned == ["sds", "dds", "red_diff"]
    assert jacobian == ["sim", "sid", "sida", "sid_lsg", "di_star", "uni_instruct"]


def test_overrides_reach_every_part():
    method = get_method("uni_instruct", divergence="jeffreys_kl", kappa=1.0, guidance_teacher=7.5, fake_score="lora")
    assert (method.objective.divergence.name, method.objective.kappa) == ("jkl", 1.0)
    assert (method.guidance.teacher, method.guidance.fake, method.fake_score) == (7.5, 1.0, "lora")
    assert method.objective.needs_ratio and method.auxiliary == {"gan": 1e-2}
    assert get_method("uni_instruct", auxiliary={"gan": 0, "reward": 2.0}).auxiliary == {"reward": 2.0}
    assert METHODS["uni_instruct"].objective.divergence.name == "rkl"  # the table itself is untouched


def test_schedule_switches_the_divergence():
    method = get_method("uni_instruct", schedule={100: {"divergence": "fkl"}, 200: {"gradient": "exact", "kappa": 1.0}})
    seen = [(method.at(step).objective.divergence.name, method.at(step).objective.kappa) for step in (0, 99, 100, 250)]
    assert seen == [("rkl", 0.0), ("rkl", 0.0), ("fkl", 0.0), ("fkl", 1.0)]
    plain = get_method("uni_instruct", auxiliary={"gan": 0})
    assert not plain.needs_discriminator
    assert plain.replace(schedule={100: {"divergence": "fkl"}}).needs_discriminator


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(name="nerf"), "method='nerf'.*sds, dds, vsd"),
        (dict(divergence="kl"), "divergence='kl'.*fkl"),
        (dict(gradient="true"), "gradient='true'.*exact, paper, by_parts, di, di_weighted"),
        (dict(jacobian="half"), "jacobian='half'.*none, full"),
        (dict(weighting="snr"), "weighting='snr'.*theory"),
        (dict(distance="l1"), "distance='l1'.*l2, pseudo_huber"),
        (dict(fake_score="ema"), "fake_score='ema'.*conditional, lora, full"),
        (dict(auxiliary={"clip": 1.0}), "auxiliary has no option 'clip'.*gan, regression"),
        (dict(learning_rate=1.0), "no option 'learning_rate'.*divergence, gradient"),
        (dict(guidance_student=1.0), "no option 'guidance_student'"),
        (dict(fake_updates=0), "fake_updates=0"),
        (dict(log_r_clamp=-1.0), "log_r_clamp=-1.0"),
        (dict(fake_score="conditional"), "needs a learned fake score"),
        (dict(schedule={10: {"divergence": "kl"}}), "divergence='kl'"),
        (dict(schedule={10: {}, 5: {}}), "schedule steps must increase"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        get_method(**{"name": "uni_instruct", **options})


def test_methods_travel_between_processes():
    for row in METHODS.values():
        assert pickle.loads(pickle.dumps(row)) == row
    custom = copy.deepcopy(get_method("uni_instruct", divergence=shifted_square))
    assert custom.objective.divergence.h(torch.zeros(1)).item() == pytest.approx(2.0)


def shifted_square(r):
    """χ² as a user would write it."""
    return (r - 1) ** 2
