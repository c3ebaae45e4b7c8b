"""Pixels, names and formats of what is saved, against the reference's values."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from contract_values import CONTRACT, numbers
from PIL import Image

from threestudio.utils.saving import SaverMixin

SAVING = CONTRACT["saving"]


@pytest.fixture
def saver(tmp_path) -> SaverMixin:
    saver = SaverMixin()
    saver.set_save_dir(str(tmp_path))
    return saver


def pixels(path) -> list:
    return np.asarray(Image.open(path).convert("RGB")).tolist()


def image(row) -> torch.Tensor:
    if row.get("kwargs", {}).get("data_format") == "CHW":
        return numbers(SAVING["save_rgb_image"][0]["img"]).permute(2, 0, 1)
    if row.get("note") == "5 channels":  # ninths: the contract's 7 digits fall short of the next level
        return torch.arange(10.0).reshape(1, 2, 5) / 9
    return numbers(row["img"]).to(torch.uint8) if row.get("dtype") == "uint8" else numbers(row["img"])


def arguments(row) -> dict:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in row["kwargs"].items()}


@pytest.mark.parametrize("row", SAVING["save_rgb_image"], ids=lambda r: r["file"])
def test_rgb(row, saver, tmp_path):
    saver.save_rgb_image(row["file"], image(row), **arguments(row))
    assert pixels(tmp_path / row["file"]) == row["pixels_rgb"]


@pytest.mark.parametrize("row", SAVING["save_grayscale_image"], ids=lambda r: str(r["kwargs"]))
def test_grayscale(row, saver):
    if "raises" in row:
        with pytest.raises(AssertionError, match="choices: None, jet, magma, spectral"):
            saver.save_grayscale_image("g.png", torch.zeros(1, 1), **arguments(row))
        return
    if "skipped" in row:  # the reference cannot: check the ends of the map instead (they are published colours)
        path = saver.save_grayscale_image("g.png", torch.tensor([[0.0, 1.0]]), **arguments(row))
        assert pixels(path) == [[[0, 0, 3], [251, 252, 191]]]
        return
    path = saver.save_grayscale_image("g.png", image(row), **arguments(row))
    assert pixels(path) == row["pixels_rgb"]


def test_grayscale_of_a_constant_image(saver):
    assert pixels(saver.save_grayscale_image("g.png", torch.full((1, 2), 0.3), cmap=None)) == [[[0, 0, 0]] * 2]


@pytest.mark.parametrize("row", SAVING["save_uv_image"], ids=lambda r: str(r["kwargs"]))
def test_uv(row, saver):
    assert pixels(saver.save_uv_image("uv.png", image(row), **row["kwargs"])) == row["pixels_rgb"]


def grid_of(layout: str) -> list:
    small = {"type": "rgb", "img": numbers(SAVING["save_rgb_image"][0]["img"]), "kwargs": {"data_format": "HWC"}}
    gray = {
        "type": "grayscale",
        "img": torch.tensor([[0.0, 0.5], [1.0, 0.25]]),
        "kwargs": {"cmap": None, "data_range": (0, 1)},
    }
    large = {"type": "rgb", "img": torch.zeros(4, 6, 3), "kwargs": {}}
    return {"row": [small, gray], "two rows": [[small, gray], [gray, small]], "2x2 and 4x6 in a row": [small, large]}[
        "row" if layout.startswith("row") else layout
    ]


@pytest.mark.parametrize("row", SAVING["save_image_grid"], ids=lambda r: f"{r.get('layout')}-{r.get('align', '')}")
def test_image_grid(row, saver, tmp_path):
    align = tuple(row["align"]) if isinstance(row.get("align"), list) else row.get("align", "default")
    kwargs = {} if align == "default" else {"align": align}
    if "raises" in row:
        with pytest.raises(ValueError, match="choices: max, min"):
            saver.save_image_grid("grid.png", grid_of("row"), **kwargs)
        return
    saver.save_image_grid(row["filename"], grid_of(row["layout"]), **kwargs)
    written = pixels(tmp_path / row.get("file", row["filename"]))
    assert list(np.shape(written)) == row["shape"]
    if "pixels_rgb" in row:
        assert written == row["pixels_rgb"]


def test_captions_change_only_the_corner(saver):
    gray = {"type": "rgb", "img": torch.full((64, 64, 3), 0.5)}
    plain = np.array(pixels(saver.save_image_grid("a.png", [gray])))
    text = np.array(pixels(saver.save_image_grid("b.png", [gray], texts=["step 7"])))
    changed = np.argwhere((plain != text).any(-1))
    assert len(changed) > 0 and changed[:, 0].max() < 24


def test_plain_image(saver):
    row = SAVING["save_image"]
    assert pixels(saver.save_image(row["file"], numbers(row["pixels_rgb"]).to(torch.uint8))) == row["pixels_rgb"]
    with pytest.raises(AssertionError, match="uint8"):
        saver.save_image("i.png", torch.zeros(1, 1, 3))


def test_frames_are_in_the_order_of_their_numbers(saver, tmp_path):
    row = SAVING["save_img_sequence_order"]
    for number in row["files"]:
        level = {0: 0, 1: 25, 2: 51, 10: 255}[number]
        saver.save_image(f"frames/{number}.png", torch.full((16, 16, 3), level, dtype=torch.uint8))
    saver.save_img_sequence("clip", "frames", r"(\d+)\.png", save_format="gif", fps=10)
    frames = iio.imread(tmp_path / "clip.gif")
    assert [int(frame.mean()) for frame in frames] == row["frame_levels"]


@pytest.mark.parametrize("row", SAVING["save_img_sequence"], ids=lambda r: f"{r.get('filename')}-{r['save_format']}")
def test_video_names(row, saver, tmp_path):
    for number in range(2):
        saver.save_image(f"frames/{number}.png", torch.full((17, 16, 3), 100 * number, dtype=torch.uint8))
    if "raises" in row:
        with pytest.raises(AssertionError, match="choices: gif, mp4"):
            saver.save_img_sequence("clip", "frames", r"(\d+)\.png", save_format=row["save_format"])
        return
    saver.save_img_sequence(row["filename"], "frames", r"(\d+)\.png", save_format=row["save_format"])
    assert (tmp_path / row["file"]).is_file() == row["exists"]
    assert len(iio.imread(tmp_path / row["file"])) == 2


def test_a_video_of_nothing_is_an_error(saver, tmp_path):
    (tmp_path / "frames").mkdir()
    with pytest.raises(ValueError, match="no image in .*frames"):
        saver.save_img_sequence("clip", "frames", r"(\d+)\.png")


@pytest.mark.parametrize("row", SAVING["save_data"], ids=lambda r: f"{r['asked']}-{r['kind']}")
def test_data(row, saver, tmp_path):
    data = {"tensor": torch.arange(3), "dict": {"a": torch.arange(3)}}[row["kind"]]
    saver.save_data(row["asked"], data)
    loaded = np.load(tmp_path / row["file"])
    assert (loaded["a"] if row["kind"] == "dict" else loaded).tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == [row["file"]]


def test_json_and_file(saver, tmp_path):
    row = SAVING["save_json"]
    path = saver.save_json(row["file"], json.loads(row["text"]))
    assert (tmp_path / row["file"]).read_text() == row["text"]
    copy = saver.save_file("copies/x.json", path)
    assert Path(copy).read_text() == row["text"]


def test_no_save_dir():
    with pytest.raises(ValueError, match="set_save_dir"):
        SaverMixin().save_json("x.json", {})


@pytest.mark.parametrize("row", SAVING["convert_data"], ids=lambda r: r["what"])
def test_convert_data(row):
    value = {"tuple": (torch.zeros(1),), "None": None, "float": 0.5}[row["what"]]
    if "raises" in row:
        with pytest.raises(TypeError):
            SaverMixin().convert_data(value)
    else:
        assert SaverMixin().convert_data(value) is row["returns"]


def test_bfloat16_is_converted():
    assert SaverMixin().convert_data([torch.ones(2, dtype=torch.bfloat16)])[0].tolist() == [1.0, 1.0]


def test_defaults():
    kinds = {"rgb": "DEFAULT_RGB_KWARGS", "uv": "DEFAULT_UV_KWARGS", "grayscale": "DEFAULT_GRAYSCALE_KWARGS"}
    for kind, attribute in {**kinds, "grid": "DEFAULT_GRID_KWARGS"}.items():
        assert json.loads(json.dumps(getattr(SaverMixin, attribute))) == SAVING["defaults"][kind]
