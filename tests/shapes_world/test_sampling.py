"""Batches are pure functions of (seed, index), whatever the chunking."""

import numpy as np
import pytest

from uni_instruct_3d.shapes_world import CLASSES, COLORS, PATTERNS, VIEWS, is_held_out, sample_batch, view_word

SIZE = 16


@pytest.mark.parametrize("group", [1, 4])
def test_items_depend_on_seed_and_index_only(group):
    whole = sample_batch(3, 10, 9, size=SIZE, group=group)
    for start, n in ((10, 1), (11, 5), (17, 2)):
        part = sample_batch(3, start, n, size=SIZE, group=group)
        for key, value in part.items():
            np.testing.assert_array_equal(value, whole[key][start - 10 : start - 10 + n], err_msg=key)
    other = sample_batch(4, 10, 9, size=SIZE, group=group)
    assert other["caption"] != whole["caption"]


def test_groups_show_one_object_from_the_four_views():
    batch = sample_batch(0, 0, 24, size=SIZE, group=4)
    np.testing.assert_array_equal(batch["view_id"].reshape(-1, 4), np.tile(np.arange(4), (6, 1)))
    for key in ("class_id", "color_id", "pattern_id", "kind", "fovy_deg", "distance"):
        rows = batch[key].reshape(-1, 4)
        assert (rows == rows[:, :1]).all(), key
    texts = [text.split(", ")[0] for text in batch["caption"]]
    assert all(len(set(texts[i : i + 4])) == 1 for i in range(0, 24, 4))


def test_view_words_follow_the_cameras():
    batch = sample_batch(1, 0, 200, size=4)
    for azimuth, elevation, view_id, text in zip(
        batch["azimuth_deg"], batch["elevation_deg"], batch["view_id"], batch["caption"]
    ):
        assert view_word(float(azimuth), float(elevation)) == VIEWS[view_id]
        assert f"{VIEWS[view_id]} view" in text or " view" not in text
    counts = np.bincount(batch["view_id"], minlength=4)
    assert counts.min() > 30  # 50 expected, standard deviation 6.1


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_splits_are_disjoint(split):
    batch = sample_batch(2, 0, 300, size=2, split=split)
    for c, k, p in zip(batch["class_id"], batch["color_id"], batch["pattern_id"]):
        assert is_held_out(CLASSES[c], COLORS[k], PATTERNS[p]) == (split == "held_out")


@pytest.mark.parametrize(("key", "value", "choice"), [("split", "test", "held_out"), ("group", 5, "4")])
def test_a_wrong_argument_is_named_with_its_choices(key, value, choice):
    with pytest.raises(ValueError, match=rf"{key}.*{value}.*{choice}"):
        sample_batch(0, 0, 1, **{key: value})
