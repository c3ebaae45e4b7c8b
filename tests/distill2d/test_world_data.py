"""The procedural world as endless data: seeded, with classes or without, its streams apart."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import SMALL

from uni_instruct_3d.shapes_world import CLASSES
from uni_instruct_3d.world_data import STREAMS
from uni_instruct_guidance.distill2d.data import DataConfig, load_data
from uni_instruct_guidance.distill2d.trainer import EDMConfig, read_config, train_edm


def world(**options):
    return load_data(DataConfig("shapes", options={"size": 16, **options}))


def test_an_image_is_a_function_of_seed_stream_and_index():
    data, again = world(), world()
    images, labels = data.__getitems__([5, 900_000, 5])
    assert images.shape == (3, 3, 16, 16) and images.dtype == torch.uint8 and data.shape == (3, 16, 16)
    torch.testing.assert_close(images[0], images[2])
    other = again.__getitems__([900_000])
    torch.testing.assert_close(images[1:2], other[0])
    assert labels[1] == other[1][0] and not torch.equal(images[0], images[1])
    assert data.num_classes == len(CLASSES) and len(data) == 2**21
    frequencies = data.class_frequencies()
    assert frequencies.shape == (len(CLASSES),) and frequencies.sum().item() == pytest.approx(1)
    plain = world(conditional=False)
    assert plain.num_classes == 0 and plain.class_frequencies() is None
    torch.testing.assert_close(plain.images([5]), images[:1])
    assert plain.__getitems__([5])[1].tolist() == [0]


def test_streams_never_overlap():
    """Keys of all seeds and streams differ, and so do the pictures."""
    keys = {world(stream=stream, seed=seed).key for stream in STREAMS for seed in range(50)}
    assert len(keys) == 50 * len(STREAMS)
    pictures = [world(stream=stream, seed=seed).images(range(8)) for stream in STREAMS for seed in (0, 1)]
    assert len({image.numpy().tobytes() for part in pictures for image in part}) == 8 * len(pictures)


def test_classes_come_as_often_as_they_say():
    data = world(size=8)
    labels = data.__getitems__(range(600))[1]
    found = torch.bincount(labels, minlength=len(CLASSES)) / 600
    error = (data.class_frequencies() * (1 - data.class_frequencies()) / 600).sqrt()
    assert ((found - data.class_frequencies()).abs() < 4.5 * error).all()


def test_a_teacher_trains_on_it():
    config = read_config(EDMConfig, [], ["steps=2", "batch=4", "lr=1e-3", "data.name=shapes", "data.options.size=8",
                                         "trainer.accelerator=cpu"])  # fmt: skip
    config.network = {
        "img_resolution": 8,
        "img_channels": 3,
        "label_dim": len(CLASSES),
        "model_type": "SongUNet",
        **SMALL,
    }
    result = train_edm(config, quiet=True)
    assert result.scalars["loss/denoising"] > 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig("shapes", options={"stream": "valid"}), "data.options.stream='valid'.*train, reference, test"),
        (DataConfig("shapes", options={"size": 4}), "data.options.size=4 must be at least 8"),
        (
            DataConfig("shapes", options={"pixels": 4}),
            "data.options has no option 'pixels'.*stream, size, conditional,",
        ),
        (DataConfig("shapes", options={"conditional": 1}), "data.options.conditional=1 must be true or false"),
        (DataConfig("digits", options={"size": 8}), "data.name=digits has no options"),
    ],
)
def test_refusals(config, message):
    with pytest.raises(ValueError, match=message):
        load_data(config)


def test_captions_come_with_colour_renders_alone():
    from uni_instruct_3d.shapes_world import caption_of, sample_batch

    data = world(captions=True, count=40, seed=2)
    drawn = sample_batch(data.key, 0, 60, 16)
    told = [caption_of(data.key, index) for index in range(60)]
    assert told == list(zip(drawn["caption"], drawn["kind"]))  # without drawing
    colour = [index for index in range(60) if drawn["kind"][index] == 0][:40]
    assert len(data) == 40 and data.captions == [drawn["caption"][index] for index in colour]
    assert len({*range(colour[-1] + 1)} - {*colour}) > 0  # some were left out
    wanted = torch.from_numpy(drawn["image"][colour[7]]).permute(2, 0, 1)
    torch.testing.assert_close(data.images([7])[0], wanted)
    with pytest.raises(ValueError, match="count=200000 must be at most 100000 with captions=true"):
        world(captions=True, count=200_000)
    with pytest.raises(ValueError, match=r"data.options.captions=1 must be true or false"):
        world(captions=1)
