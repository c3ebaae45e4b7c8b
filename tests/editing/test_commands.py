"""The two commands: results, and what a wrong picture, mask, task or operator is answered with."""

import json
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_teacher import make_tiny_teacher

from uni_instruct_3d import ROOT
from uni_instruct_3d.editing import edit_cli, restore_cli, table_cli
from uni_instruct_3d.editing.measures import backdrop, quality, silhouette
from uni_instruct_3d.editing.pictures import read_mask, read_picture
from uni_instruct_3d.shapes_world import make_instance, render
from uni_instruct_3d.teacher_factory.judge import built_in_judge

DIGITS = str(ROOT / "load/teachers/digits/cond.safetensors")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """32 × 32 pixels."""
    return str(make_tiny_teacher(tmp_path_factory.mktemp("teacher")))


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "mug.png"
    pixels = render(make_instance("mug", "red", "plain", 0), 20, 15, size=32)["image"]
    Image.fromarray((255 * pixels).astype(np.uint8)).save(path)
    return path


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_edit(teacher, picture, tmp_path, capsys):
    out = tmp_path / "out"
    mask = tmp_path / "mask.png"
    Image.fromarray(np.uint8([[0] * 16 + [255] * 16] * 32)).save(mask)
    status = edit_cli.main([
        str(picture), "--from", "a red mug", "--to", "a blue mug", "--teacher", teacher, "--out", str(out),
        "--steps", "2", "--seeds", "0", "3", "--mask", str(mask), "--compare",
    ])  # fmt: skip
    assert status == 0
    names = ["before", "edited-seed0", "edited-seed3", "sds-seed0", "sds-seed3"]
    assert files(out) == sorted(
        [f"{name}.png" for name in names] + ["curve.csv", "page.html", "settings.json", "strip.png"]
    )
    before, first, other, sds = (np.asarray(Image.open(out / f"{names[i]}.png")) for i in (0, 1, 2, 3))
    assert np.array_equal(before, np.asarray(Image.open(picture)))
    assert np.array_equal(first[:, :14], before[:, :14]) and not np.array_equal(first, before)
    assert not np.array_equal(first, other) and not np.array_equal(first, sds)
    record = json.loads((out / "settings.json").read_text())
    assert record["settings"]["seeds"] == [0, 3] and record["facts"][
        "dds: seconds, teacher's calls per picture"
    ].endswith(", 8")
    assert (out / "curve.csv").read_text().splitlines()[0] == "step,edited-seed0,sds-seed0"
    page = (out / "page.html").read_text()
    assert "a red mug → a blue mug" in page and page.count("<svg") >= 1
    assert re.findall(r'(?:src|href)="?http', page) == []  # it opens offline


def test_restore(picture, tmp_path, capsys):
    out = tmp_path / "out"
    status = restore_cli.main([
        str(picture), "--task", "super-resolution", "--factor", "2", "--teacher", DIGITS, "--label", "3",
        "--steps", "3", "--compare", "--particles", "2", "--out", str(out),
    ])  # fmt: skip
    assert status == 0
    names = ["picture", "restored-seed0", "restored-seed1", "dps-seed0", "dps-seed1", "pseudo-inverse"]
    assert files(out) == sorted(
        [f"{name}.png" for name in names] + ["curve.csv", "page.html", "settings.json", "strip.png"]
    )
    record = json.loads((out / "settings.json").read_text())
    assert re.fullmatch(
        r"[\d.]+ s, 3 calls, 3 of them differentiated, residual [\d.]+, PSNR [\d.]+ dB, SSIM -?[\d.]+",
        record["facts"]["dps"],
    )
    assert record["notes"] == ["mug.png: resized from 32 × 32 to the teacher's 8 × 8 pixels"]
    assert "resized from 32 × 32" in capsys.readouterr().out


def test_restore_with_a_latent_teacher_and_a_learned_score(teacher, picture, tmp_path):
    out = tmp_path / "out"
    arguments = [
        "--task",
        "denoise",
        "--noise-level",
        "0.2",
        "--teacher",
        teacher,
        "--prompt",
        "a red mug",
        "--steps",
        "2",
    ]
    more = ["--particles", "2", "--fake-score", "learned", "--guidance", "2", "--measured", "--out", str(out)]
    assert restore_cli.main([str(picture), *arguments, *more]) == 0
    assert {"restored-seed0.png", "restored-seed1.png"} <= set(files(out))
    assert "PSNR" not in json.loads((out / "settings.json").read_text())["facts"]["red_diff"]


def test_an_operator_in_a_file(picture, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "class Half:\n"
        "    def forward(self, x): return x[..., ::2]\n"
        "    def adjoint(self, y):\n"
        "        x = y.new_zeros(*y.shape[:-1], 2 * y.shape[-1])\n"
        "        x[..., ::2] = y\n"
        "        return x\n"
        "def operator(shape): return Half()\n"
        "class OneWay:\n"
        "    def __init__(self, shape): pass\n"
        "    def forward(self, x): return x\n"
        "def broken(shape): raise KeyError('no')\n"
    )
    given = [str(picture), "--teacher", DIGITS, "--label", "3", "--steps", "2", "--out", str(tmp_path / "out")]
    assert restore_cli.main([*given, "--task", f"{file}:operator"]) == 0
    for name, words in {
        "OneWay": "the operator has no adjoint",
        "broken": "failed: KeyError: 'no'",
        "nothing": "has no function 'nothing'",
    }.items():
        assert_refused(restore_cli.main, [*given, "--task", f"{file}:{name}"], words, capsys)


def assert_refused(main, arguments, words, capsys):
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and "\n" not in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "undo"], "--task='undo' is not known; choose one of inpaint, super-resolution"),
        (["--task", "deblur", "--factor", "2"], "--factor belongs to --task super-resolution"),
        (["--task", "denoise", "--mask", "m.png"], "--mask belongs to --task inpaint"),
        (["--task", "inpaint", "--mask", "m.png", "--missing", "0.5"], "give one of them"),
        (["--task", "compressive", "--measured"], "cannot say what was measured"),
        (["--task", "inpaint", "--measured"], "give --mask"),
        (["--task", "super-resolution", "--factor", "3"], "factor=3 does not divide the picture's 8 × 8 pixels"),
        (["--task", "inpaint", "--missing", "2"], "missing=2.0 must be above 0 and below 1"),
        (["--task", "denoise", "--prompt", "a mug"], "reads none"),
        (["--task", "denoise", "--guidance", "2"], "no unconditional branch"),
        (["--task", "denoise", "--label", "10"], "has the classes 0 to 9"),
        (["--task", "denoise", "--steps", "1"], "steps=1 must be at least 2"),
        (["--task", "denoise", "--teacher", "nowhere.safetensors"], "no such file"),
    ],
)
def test_restore_refuses(arguments, words, picture, tmp_path, capsys):
    label = [] if "--label" in arguments else ["--label", "3"]
    given = [str(picture), "--teacher", DIGITS, *label, "--out", str(tmp_path / "out"), *arguments]
    assert_refused(restore_cli.main, given, words, capsys)
    assert not (tmp_path / "out").exists() or not files(tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", " "], "--to is empty"),
        (["--teacher", DIGITS], "EDM networks read no prompts"),
        (["--noise", "0.9", "0.1"], "must be two numbers"),
        (["--mask", "none.png"], "none.png: no such file"),
    ],
)
def test_edit_refuses(arguments, words, teacher, picture, tmp_path, capsys):
    given = [str(picture), "--from", "a red mug", "--to", "a blue mug", "--teacher", teacher, "--steps", "1"]
    assert_refused(edit_cli.main, [*given, "--out", str(tmp_path / "out"), *arguments], words, capsys)


def test_pictures_that_are_none(tmp_path, capsys):
    text = tmp_path / "text.png"
    text.write_text("no picture")
    whole = tmp_path / "whole.png"
    Image.new("RGB", (64, 64), "red").save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:60])
    for path, words in {
        tmp_path: "is a folder; give one picture",
        tmp_path / "none.png": "no such file",
        text: "cannot be read as a picture",
        cut: "cannot be read as a picture",
    }.items():
        assert_refused(restore_cli.main, [str(path), "--task", "denoise", "--teacher", DIGITS], words, capsys)
        assert_refused(edit_cli.main, [str(path), "--from", "a", "--to", "b"], words, capsys)


def sixteen_bit_png(pixels):
    """PNG of [H, W, 3] uint16, which Pillow reads but does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    size = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_pictures_of_every_kind(tmp_path):
    def read(image, **options):
        path = tmp_path / "x.png"
        image.save(path)
        return read_picture(path, 8, **options)

    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    sixteen = read(Image.fromarray(deep))
    torch.testing.assert_close(sixteen.pixels[1], torch.from_numpy(deep / 65535).float(), atol=0.002, rtol=0)
    assert sixteen.notes == ["its 16 bits are rounded to 8"]
    colours = np.repeat(deep[..., None], 3, 2)
    (tmp_path / "rgb16.png").write_bytes(sixteen_bit_png(colours))
    deep_colours = read_picture(tmp_path / "rgb16.png", 8)
    torch.testing.assert_close(deep_colours.pixels[0], torch.from_numpy(deep / 65535).float(), atol=0.005, rtol=0)
    assert deep_colours.notes == ["its 16 bits are rounded to 8"]
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4] = (255, 0, 0, 255)
    alpha = read(Image.fromarray(clear))
    assert alpha.pixels[:, 0, 0].tolist() == [1, 0, 0] and alpha.pixels[:, 7, 7].tolist() == [1, 1, 1]
    assert alpha.notes == ["its transparent parts are laid on white"]
    wide = read(Image.new("RGB", (32, 16), "blue"))
    assert wide.pixels.shape == (3, 8, 8)
    assert wide.notes == [
        "the middle square of its 32 × 16 pixels is taken", "resized from 16 × 16 to the teacher's 8 × 8 pixels",
    ]  # fmt: skip
    assert read(Image.new("P", (8, 8))).notes == [] and read(Image.new("1", (8, 8))).pixels.shape == (3, 8, 8)
    assert read(Image.new("RGB", (8, 8), "white"), channels=1).pixels.shape == (1, 8, 8)


def test_masks(tmp_path):
    Image.new("RGB", (32, 16)).save(tmp_path / "p.png")
    picture = read_picture(tmp_path / "p.png", 8)
    half = Image.new("L", (32, 16))
    half.paste(255, (16, 0, 32, 16))
    half.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", picture, 8)[0].mean(0).tolist() == [0] * 4 + [1] * 4
    for image, words in [(Image.new("L", (16, 16), 255), "16 × 16 pixels, the picture 32 × 16"),
                         (Image.new("L", (32, 16)), "is black everywhere")]:  # fmt: skip
        image.save(tmp_path / "m.png")
        with pytest.raises(ValueError, match=words):
            read_mask(tmp_path / "m.png", picture, 8)


def test_ctrl_c_is_one_line(monkeypatch, picture, tmp_path, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(edit_cli, "_edit", interrupted)
    assert edit_cli.main([str(picture), "--from", "a", "--to", "b"]) == 1
    assert capsys.readouterr().out == "edit: stopped; nothing was written\n"
    monkeypatch.setattr(table_cli, "_table", interrupted)
    assert table_cli.main(["edit", "--out", str(tmp_path / "table")]) == 1
    assert capsys.readouterr().out == "editing_table: stopped; what is finished is kept\n"


@pytest.mark.parametrize(("azimuth", "view"), [(0, "front"), (180, "back")])
def test_the_view_is_read_where_the_prompts_name_none(azimuth, view):
    pixels = render(make_instance("chair", "red", "plain", 0), azimuth, 15, size=64)["image"]
    seen, judge = torch.from_numpy(pixels).permute(2, 0, 1), built_in_judge()
    given = ["x.png", "--from", "a red chair", "--to", "a blue chair"]
    assert edit_cli._view_of(judge, seen, edit_cli.make_parser().parse_args(given)) == f", {view} view"
    named = edit_cli.make_parser().parse_args([*given, "--from", "a red chair, side view"])
    assert edit_cli._view_of(judge, seen, named) == ""


def test_measures():
    """PSNR of a known error; a silhouette is found before a slanting background."""
    truth = torch.full((2, 3, 16, 16), 0.5)
    psnr, ssim = quality(truth + 0.1, truth)
    torch.testing.assert_close(psnr, torch.full((2,), 20.0))
    assert quality(truth, truth)[1].tolist() == pytest.approx([1, 1]) and (ssim < 1).all()
    assert quality(truth[..., :8, :8], truth[..., :8, :8])[1].tolist() == pytest.approx([1, 1], abs=1e-3)
    shot = render(make_instance("mug", "red", "plain", 0), 20, 15, size=64)
    picture = shot["image"] - 0.1 * np.linspace(0, 1, 64)[:, None, None] * (shot["mask"] == 0)[..., None]
    found, true = silhouette(picture, backdrop(picture, shot["mask"])), shot["mask"] > 0.5
    assert (found & true).sum() / (found | true).sum() > 0.9
