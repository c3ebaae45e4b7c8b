"""The grey background: its range, its modes, and what is refused."""

from __future__ import annotations

import pytest
import torch

import threestudio
import uni_instruct_guidance.systems  # noqa: F401


def make(**options):
    return threestudio.find("uni-instruct-grey-background")(options)


def test_a_new_grey_per_training_image_and_a_fixed_one_to_look_at():
    background = make(darkest=0.6, brightest=0.9)
    dirs = torch.zeros(64, 2, 3, 3)
    colours = background.train()(dirs)
    assert colours.shape == (64, 2, 3, 3)
    assert torch.equal(colours, colours[:, :1, :1, :1].expand_as(colours))
    # 64 uniform draws on 0.6..0.9 reach both outer tenths but for one chance in a thousand; the seed is fixed
    assert 0.6 <= colours.min() < 0.63 and 0.87 < colours.max() <= 0.9
    assert torch.equal(background.eval()(dirs), torch.full_like(dirs, 0.9))


def test_a_share_of_the_images_gets_any_colour_and_evaluation_its_own_grey():
    background = make(darkest=0.0, brightest=1.0, coloured=0.5, evaluation=0.8)
    dirs = torch.zeros(400, 1, 1, 3)
    colours = background.train()(dirs)[:, 0, 0]
    is_grey = (colours == colours[:, :1]).all(1)
    # 400 draws at one half: five deviations are 0.125
    assert abs(is_grey.float().mean() - 0.5) < 0.125
    assert colours[~is_grey].min() < 0.05 and colours[~is_grey].max() > 0.95
    assert torch.equal(background.eval()(dirs), torch.full_like(dirs, 0.8))


def test_views_of_a_group_have_one_background():
    background = make(darkest=0.0, brightest=1.0, coloured=0.5, n_view=4).train()
    colours = background(torch.zeros(80, 1, 1, 3))[:, 0, 0].unflatten(0, (20, 4))
    assert (colours == colours[:, :1]).all() and len({tuple(row[0].tolist()) for row in colours}) == 20
    with pytest.raises(ValueError, match=r"system\.background\.n_view=4 with 6 images"):
        background(torch.zeros(6, 1, 1, 3))
    assert background.eval()(torch.zeros(3, 1, 1, 3)).shape == (3, 1, 1, 3)


@pytest.mark.parametrize("key", ["coloured", "evaluation"])
def test_shares_and_greys_outside_0_to_1_are_named(key):
    with pytest.raises(ValueError, match=rf"system\.background\.{key}=1.5"):
        make(**{key: 1.5})


@pytest.mark.parametrize("options", [{"darkest": 0.9, "brightest": 0.5}, {"brightest": 1.5}])
def test_bad_ranges_are_named(options):
    with pytest.raises(ValueError, match=r"system\.background.*brightest="):
        make(**options)
