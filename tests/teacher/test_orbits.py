"""The multi-view phases: groups stay together, cameras are told, a stopped run goes on bit for bit."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from uni_instruct_3d.shapes_world import sampling
from uni_instruct_3d.shapes_world.render import look_at
from uni_instruct_3d.shapes_world.vocabulary import VIEWS, view_word
from uni_instruct_3d.teacher_factory import data, multi_view
from uni_instruct_3d.teacher_factory.export import load_pipeline
from uni_instruct_3d.teacher_factory.multi_view import cameras_of, group_index
from uni_instruct_3d.teacher_factory.presets import PRESETS
from uni_instruct_guidance.teachers.stable_diffusion.multi_view import CAMERAS
from uni_instruct_guidance.teachers.stable_diffusion.teacher import Teacher


def test_orbits_go_around_one_object_at_one_height():
    batch = sampling.sample_batch(5, 0, 24, size=16, group=4, style="orbit")
    azimuth, elevation = batch["azimuth_deg"].reshape(-1, 4), batch["elevation_deg"].reshape(-1, 4)
    np.testing.assert_allclose(np.diff(azimuth, axis=1) % 360.0, 90.0, atol=1e-3)
    np.testing.assert_allclose(elevation, elevation[:, :1].repeat(4, 1))
    assert len(np.unique(azimuth[:, 0].round(3))) == len(azimuth)
    for name in ("class_id", "color_id", "pattern_id", "kind"):
        assert (batch[name].reshape(-1, 4) == batch[name].reshape(-1, 4)[:, :1]).all()
    words = [view_word(a, e) for a, e in zip(azimuth.ravel().tolist(), elevation.ravel().tolist())]
    assert [VIEWS[i] for i in batch["view_id"]] == words
    # cut anywhere, item i is the same
    part = sampling.sample_batch(5, 6, 3, size=16, group=4, style="orbit")
    np.testing.assert_array_equal(part["image"], batch["image"][6:9])


@pytest.mark.parametrize("camera", ["c2w", "c2w_zoom"])
def test_cameras_are_those_of_text_to_3d(camera):
    """Angles, and for the one kind lens and distance, mean what the camera module's batches mean."""
    places = {"azimuth_deg": np.array([0.0, 90.0, -135.0]), "elevation_deg": np.array([0.0, 30.0, 60.0]),
              "fovy_deg": np.array([50.0, 40.0, 60.0]), "distance": np.array([1.5, 1.7, 1.9])}  # fmt: skip
    renders = data.Renders(None, None, [""] * 3, **dict.fromkeys(data.LABELS), **places)
    near, batch = cameras_of(renders, camera), {"c2w": torch.from_numpy(np.stack([look_at(90.0, 30.0, 1.7)]))}
    told = CAMERAS[camera](batch | {"fovy": torch.tensor([np.radians(40.0)])})
    torch.testing.assert_close(near[1:2].float(), told.float())
    position = near.unflatten(1, (4, 4))[:, :3, 3]
    torch.testing.assert_close(position[0], torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0)  # unit


def test_groups_are_drawn_whole():
    weights = torch.tensor([0.0] * 4 + [1.0] * 4 + [3.0] * 4)
    index, share = group_index(torch.Generator().manual_seed(0), weights, 400, 4)
    groups = index.reshape(-1, 4)
    assert (groups == groups[:, :1] + torch.arange(4)).all() and (groups[:, 0] % 4 == 0).all()
    counts = torch.bincount(groups[:, 0] // 4, minlength=3)
    assert counts[0] == 0
    # 3 : 1 of 400: the deviation of the count is 8.7
    assert abs(int(counts[2]) - 300) < 40
    assert (share == torch.arange(400).repeat_interleave(4)).all()


@pytest.mark.parametrize("alone", [True, False])
def test_what_a_step_shows(tiny_run, monkeypatch, alone):
    """Single views of one object share noise, level and silence about the view; views of a group have noises of
    their own."""
    seen, preset = {}, PRESETS["tiny"]
    config = replace(preset.multi_view, single_share=float(alone), unsaid=0.5)
    renders, words = tiny_run._orbit_renders(), replace(preset.unet, caption_dropout=0.0, noise_word=0.0)
    zeros = [torch.zeros(len(renders), 4, 8, 8)]
    source = multi_view.Views(zeros, renders, words, torch.ones(len(renders)), config, config.views)

    def model(noisy, time, tokens, cameras):
        seen.update(noisy=noisy, time=time, cameras=cameras)
        return noisy.requires_grad_()

    def take(*args):
        clean, seen["texts"], cameras = type(source).take(source, *args)
        return clean, seen["texts"], cameras

    monkeypatch.setattr(source, "take", take)
    monkeypatch.setattr(multi_view, "attend", lambda unet, views: seen.update(views=views))
    model.unet = None
    tokenizer = load_pipeline(tiny_run.multi_view_teacher).tokenizer
    step = multi_view.multi_view_step(model, tokenizer, source, source, config, words, torch.device("cpu"), False)
    said = set()
    for seed in range(6):
        _, shown = step(torch.Generator().manual_seed(seed), 0)
        assert seen["views"] == (1 if alone else config.views)
        assert ("single_mse" in shown) == alone
        noisy, cameras = seen["noisy"].unflatten(0, (-1, 2)), seen["cameras"].unflatten(0, (-1, 2))
        assert (seen["time"].unflatten(0, (-1, 2)).diff(dim=1) == 0).all()
        assert torch.equal(noisy[:, 0], noisy[:, 1]) == alone
        assert not torch.equal(cameras[:, 0], cameras[:, 1])
        pairs = [tuple(" view" in text for text in seen["texts"][i : i + 2]) for i in range(0, 8, 2)]
        assert all(first == second for first, second in pairs)
        said |= set(pairs)
    assert said == {(True, True), (False, False)}


def test_result_is_a_multi_view_teacher(tiny_run):
    teacher = Teacher.load(str(tiny_run.multi_view_teacher), torch.device("cpu"), half_precision=False)
    assert (teacher.n_views, teacher.view_width) == (2, 16)
    x_t, view = torch.randn(4, *teacher.shape), torch.randn(4, 16)
    text = torch.randn(4, 6, teacher.text_width)
    x0 = teacher.predict_x0(x_t, torch.full((4,), 300), text, class_labels=view)
    assert x0.shape == x_t.shape and x0.isfinite().all()


def test_resumed_bit_for_bit(tiny_run, make_factory, tmp_path):
    preset = PRESETS["tiny"]
    optim = replace(preset.multi_view.optim, decay=0.0)
    half = replace(preset, multi_view=replace(preset.multi_view, optim=replace(optim, steps=2)))
    rest = replace(preset, multi_view=replace(preset.multi_view, optim=optim))
    states = []
    for name, parts in {"broken": (half, rest), "whole": (rest,)}.items():
        root = tmp_path / name
        shutil.copytree(tiny_run.work, root / "work")
        shutil.copytree(tiny_run.teacher, root / "teacher")
        (root / "work" / "multi_view.pt").unlink()
        for part in parts:
            make_factory(root, part).run("multi_view")
        states.append(torch.load(root / "work" / "multi_view.pt", weights_only=True))
    broken, whole = states
    assert broken["step"] == whole["step"] == 4
    for name, value in whole["ema"].items():
        assert torch.equal(value, broken["ema"][name]), name


def test_what_is_missing_is_named(tiny_run, make_factory, tmp_path):
    with pytest.raises(FileNotFoundError, match="run the phase 'unet' first"):
        make_factory(tmp_path).run("multi_view")
    shutil.copytree(tiny_run.teacher, tmp_path / "teacher")
    with pytest.raises(FileNotFoundError, match="run the phase 'orbits' first"):
        make_factory(tmp_path).run("multi_view")
    wrong = replace(PRESETS["tiny"].multi_view, views=3)
    with pytest.raises(ValueError, match=r"multi_view.optim.batch=8 must be a multiple of 3"):
        make_factory(tmp_path, replace(PRESETS["tiny"], multi_view=wrong)).run("multi_view")


def test_report_of_groups(tiny_run, tmp_path):
    """Groups are drawn whole from their cameras; the world's own renders of them are read as asked by a good judge."""
    from uni_instruct_3d import shapes_world
    from uni_instruct_3d.teacher_factory import group_report as report
    from uni_instruct_3d.teacher_factory.factory import JUDGES
    from uni_instruct_3d.teacher_factory.judge import load_judge

    rows = report.asked_groups(shapes_world, 2)[:6]
    assert rows[0]["azimuths"] == [0.0, 180.0] and rows[0]["words"] == ["front", "back"]
    teacher = Teacher.load(str(tiny_run.multi_view_teacher), torch.device("cpu"), half_precision=False)
    pipeline = load_pipeline(tiny_run.multi_view_teacher)
    pipeline.tokenizer.model_max_length = 32
    images = report.draw_groups(teacher, pipeline, rows, 3.0, 2, batch=4)
    again = report.draw_groups(teacher, pipeline, rows, 3.0, 2, batch=4)
    assert images.shape == (12, 32, 32, 3) and (images == again).all()
    judge = load_judge(JUDGES / "shapes-128.safetensors")
    truth = report.group_quality(judge, shapes_world, rows, report.world_groups(rows, 64))
    assert truth["class"] >= 0.9 and truth["together"] > truth["shuffled"] + 0.2
    found = report.group_quality(judge, shapes_world, rows, images)
    assert found["class"] < 0.5  # a teacher of four steps draws nothing
    silent = report.asked_groups(shapes_world, 2, view_words=False)[:6]
    assert [row["azimuths"] for row in silent] == [row["azimuths"] for row in rows]
    assert not any(" view" in text for row in silent for text in row["texts"])
    text = report.group_table({"teacher": found, "the world": truth})
    assert "| teacher |" in text and f"{100 * truth['color']:.1f}" in text


def test_agreement_of_answers():
    from uni_instruct_3d.teacher_factory.group_report import agreement

    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert agreement(torch.stack([torch.stack([one, one]), torch.stack([other, other])])) == {
        "together": 1.0, "shuffled": 0.0,
    }  # fmt: skip
