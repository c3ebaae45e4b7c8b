"""The larger teacher: any background behind cut-outs, camera words in captions, weights carried over."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import toy_world

from uni_instruct_3d.shapes_world import sample_batch
from uni_instruct_3d.teacher_factory import data, diffusion, factory, judge, text, vae, warm_start
from uni_instruct_3d.teacher_factory.backgrounds import composite, draw_backgrounds
from uni_instruct_3d.teacher_factory.presets import PRESETS

TINY = PRESETS["tiny"]
#: One level and two latent channels more than ``tiny``, on its cut-outs.
LARGER = replace(
    TINY,
    data=replace(TINY.data, style="cutout"),
    vae=replace(TINY.vae, channels=(4, 8, 8, 16), latent_channels=6, images=40, crop=16, crop_share=0.5, copies=2),
    unet=replace(TINY.unet, camera_words=0.5),
    judge=replace(TINY.judge, size=16, azimuth=True),
    clip=replace(TINY.clip, size=32),
    start_from="tiny",
)


def cutouts(count: int = 8, size: int = 16) -> data.Renders:
    batch = toy_world.sample_batch(0, 0, count, size=size, group=4, style="cutout")
    return data.Renders(**{name: batch[name] for name in (*data.ARRAYS, "caption")}, cutout=True)


@pytest.fixture(scope="module")
def larger_run(tiny_run, make_factory, tmp_path_factory):
    """All phases but the report, started from the tiny run's teacher."""
    patch = pytest.MonkeyPatch()
    root = tmp_path_factory.mktemp("larger")
    (root / "teachers").mkdir()
    (root / "teachers" / "tiny").symlink_to(tiny_run.teacher, target_is_directory=True)
    patch.setattr(factory, "TEACHERS", root / "teachers")
    (root / "judges").mkdir()
    (root / "judges" / "tiny.safetensors").symlink_to(tiny_run.judge)
    patch.setattr(factory, "JUDGES", root / "judges")
    made = make_factory(root, LARGER)
    for phase in ("data", "vae", "latents", "text", "unet", "judge", "clip"):
        made.run(phase)
    yield made
    patch.undo()


# ---- backgrounds ---------------------------------------------------------------------------------------------------


def test_backgrounds_reach_from_black_to_white_and_into_colours():
    pair = draw_backgrounds(torch.Generator().manual_seed(0), torch.zeros(2_000, dtype=torch.long))
    grey = pair[:, 0].mean(1)
    assert grey.min() < 0.05 and grey.max() > 0.95
    spread = pair[:, 0].amax(1) - pair[:, 0].amin(1)
    # six in ten greys (tinted by less than 0.06), the others of any colour; half a per cent is five deviations
    assert (spread < 0.061).float().mean() == pytest.approx(0.6, abs=0.06)
    assert ((pair[:, 0] - pair[:, 1]).abs().amax(1) == 0).float().mean() == pytest.approx(0.6, abs=0.06)


def test_normal_maps_lie_on_black_or_mid_grey():
    pair = draw_backgrounds(torch.Generator().manual_seed(0), torch.ones(50, dtype=torch.long))
    assert set(pair.unique().tolist()) == {0.0, 0.5}


def test_a_cut_out_over_a_grey_is_the_render_in_front_of_it():
    """Compositing afterwards agrees with rendering in front of the background, to the rounding of 8 bits."""
    from uni_instruct_3d.shapes_world import make_instance, render

    instance = make_instance("mug", "white", "plain", seed=1)
    black, grey = (render(instance, 30, 15, size=32, background=(b, b, b)) for b in (0.0, 0.4))
    image = torch.from_numpy((255 * black["image"] + 0.5).astype(np.uint8))[None]
    mask = torch.from_numpy((255 * black["mask"] + 0.5).astype(np.uint8))[None]
    ours = (composite(image, mask, torch.full((1, 2, 3), 0.4))[0].movedim(0, -1) + 1) / 2
    np.testing.assert_allclose(ours.numpy(), grey["image"], atol=2.1 / 255)


def test_pictures_share_backgrounds_within_groups():
    renders = cutouts(8)
    picture = renders.pictures(torch.arange(8), torch.Generator().manual_seed(0), torch.arange(8) // 4 * 4)
    corner = picture[:, :, -1, -1]  # the toy's rectangles never reach it
    assert torch.equal(corner[:4], corner[:1].expand(4, -1)) and not torch.equal(corner[0], corner[4])


def test_white_keeps_its_shading_in_cut_outs():
    batch = sample_batch(3, 0, 160, size=16, group=4, style="cutout")
    full = batch["image"][batch["foreground"] == 255]
    assert (full == 255).all(-1).mean() < 0.001  # no burnt white


def test_cut_outs_see_what_random_cameras_see():
    batch = sample_batch(3, 0, 400, size=2, group=4, style="cutout")
    assert batch["elevation_deg"].min() < -5 and batch["elevation_deg"].max() > 85
    assert (np.histogram(batch["azimuth_deg"], 12, (-180, 180))[0] > 10).all()


# ---- captions ------------------------------------------------------------------------------------------------------


def test_camera_words_stand_in_their_share_of_captions_and_are_labels():
    captions = text.Captions(cutouts(400), replace(TINY.unet, camera_words=0.5))
    texts, labels = captions.draw(torch.arange(400), torch.Generator().manual_seed(0))
    told = ["azimuth" in line for line in texts]
    assert 150 < sum(told) < 250
    assert [bin_ >= 0 for bin_ in labels["azimuth"].tolist()] == told
    first = told.index(True)
    azimuth = 15 * int(labels["azimuth"][first])
    assert f"azimuth {azimuth:03d}, elevation 30" in texts[first]


def test_captions_of_a_group_tell_the_camera_all_or_none():
    captions = text.Captions(cutouts(64), replace(TINY.unet, camera_words=0.5))
    together = torch.arange(64) // 4
    texts, _ = captions.draw(torch.arange(64), torch.Generator().manual_seed(1), together)
    told = np.array(["azimuth" in line for line in texts]).reshape(-1, 4)
    assert (told.all(1) | ~told.any(1)).all() and told.any() and not told.all()


# ---- starting from a smaller teacher -------------------------------------------------------------------------------


def test_old_words_keep_their_meaning(tiny_run, larger_run):
    """Before the text phase, old captions have the old states whatever their tokens' numbers are."""
    old = diffusion.CLIPTextModel.from_pretrained(tiny_run.teacher, subfolder="text_encoder").eval()
    old_words = diffusion.CLIPTokenizer.from_pretrained(tiny_run.teacher, subfolder="tokenizer")
    captions = text.Captions(larger_run.renders("train"), LARGER.unet)
    model, words = larger_run._denoiser(captions)
    some = captions.texts[:4]
    ids = [w(some, padding="max_length", max_length=32, return_tensors="pt").input_ids for w in (old_words, words)]
    assert not torch.equal(*ids)  # new words moved the numbers: the test would see a table copied blindly
    with torch.no_grad():
        torch.testing.assert_close(model.text_encoder.eval()(ids[1])[0], old(ids[0])[0])


def test_the_bridge_turns_new_latents_into_old_ones():
    """With latents that contain the old ones exactly, the bridged first convolution sees what the old one saw."""

    class Fake:
        def __init__(self, matrix):
            self.matrix = matrix

        def encode(self, pictures):
            mean = torch.einsum("oc,nchw->nohw", self.matrix, pictures)
            return type("Out", (), {"latent_dist": type("Dist", (), {"mean": mean})})

    torch.manual_seed(0)
    unet = diffusion.build_unet(TINY.unet, 8, latent_channels=6)
    small = diffusion.build_unet(TINY.unet, 8, latent_channels=4)
    mixing = torch.eye(6) + 0.1 * torch.randn(6, 6)
    chosen = torch.randn(4, 6)
    patch = pytest.MonkeyPatch()
    patch.setattr(warm_start.UNet2DConditionModel, "from_pretrained", lambda *a, **k: small)
    theirs = type("Old", (), {"eval": lambda self: Fake(chosen @ mixing)})
    patch.setattr(warm_start.AutoencoderKL, "from_pretrained", lambda *a, **k: theirs())
    patch.setattr(warm_start.F, "avg_pool2d", lambda x, n: x)
    try:
        matrix = warm_start.bridge_latents(unet, Fake(mixing), torch.randn(120, 6, 4, 4), None).float()
    finally:
        patch.undo()
    x = torch.randn(2, 6, 8, 8)
    mixed = torch.einsum("oc,nchw->nohw", matrix, x)
    with torch.no_grad():
        torch.testing.assert_close(unet.conv_in(x), small.conv_in(mixed), atol=1e-4, rtol=1e-4)


def test_the_autoencoder_starts_from_the_smaller_ones_levels(tiny_run):
    model = vae.build_vae(LARGER.vae, 32)
    copied = warm_start.start_vae(model, tiny_run.teacher)
    old = vae.AutoencoderKL.from_pretrained(tiny_run.teacher, subfolder="vae").state_dict()
    new = model.state_dict()
    assert copied > len(old) // 2
    name = "resnets.0.conv2.weight"
    assert torch.equal(new[f"encoder.down_blocks.2.{name}"], old[f"encoder.down_blocks.1.{name}"])
    name = "decoder.up_blocks.0.resnets.0.conv1.weight"
    assert torch.equal(new[name], old[name])
    # the first four means and their log variances
    assert torch.equal(new["encoder.conv_out.weight"][[0, 3, 6, 9]], old["encoder.conv_out.weight"][[0, 3, 4, 7]])


# ---- the phases ----------------------------------------------------------------------------------------------------


def test_a_larger_teacher_is_a_stock_pipeline(larger_run):
    pipeline = factory.load_pipeline(larger_run.teacher)
    assert pipeline.unet.config.in_channels == pipeline.vae.config.latent_channels == 6
    words = pipeline.tokenizer.tokenize("a red mug, front view, azimuth 045, elevation 15")
    assert {"azimuth</w>", "elevation</w>", "4</w>"} <= set(words)
    prompts = ["a red mug, front view, azimuth 045, elevation 15"]
    image = pipeline(prompts, num_inference_steps=2, output_type="np").images
    assert image.shape == (1, 32, 32, 3) and np.isfinite(image).all()


def test_each_copy_of_the_latents_lies_on_other_backgrounds(larger_run):
    first, second = (torch.load(larger_run._latents(copy), weights_only=True) for copy in (0, 1))
    assert first.shape == second.shape == (64, 6, 4, 4) and not torch.allclose(first, second)


def test_the_judge_names_azimuths_where_it_learned_to(larger_run, tiny_run):
    shipped = judge.load_judge(larger_run.judge)
    logits = shipped(np.zeros((2, 32, 32, 3), np.uint8))
    assert logits["azimuth"].shape == (2, 24) and shipped.size == 16
    assert "azimuth" not in judge.load_judge(tiny_run.judge)(np.zeros((1, 32, 32, 3), np.uint8))


def test_a_judge_starts_from_another_ones_heads(tiny_run):
    old = judge.load_judge(tiny_run.judge)
    model = judge.build_judge(LARGER.judge, toy_world, 32)
    fresh = model.heads["azimuth"].weight.clone()
    warm_start.start_judge(model, tiny_run.judge)
    assert torch.equal(model.heads["class"].weight, old.heads["class"].weight)
    assert torch.equal(model.heads["azimuth"].weight, fresh)
    other = judge.build_judge(replace(LARGER.judge, channels=(4, 4, 4, 4)), toy_world, 32)
    with pytest.raises(ValueError, match="other channels"):
        warm_start.start_judge(other, tiny_run.judge)


def test_azimuth_errors_go_round_the_circle():
    logits = torch.full((3, 24), -1.0)
    logits[0, 0] = logits[1, 23] = logits[2, 12] = 1.0  # 0, 345, 180 degrees
    off = judge.azimuth_error(logits, torch.tensor([-10.0, 5.0, 0.0]))
    torch.testing.assert_close(off, torch.tensor([10.0, 20.0, 180.0]))
