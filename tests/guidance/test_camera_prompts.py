"""Camera words: their bins and text, and the prompt processor that says them for every camera."""

from __future__ import annotations

import pytest
import torch
from prompt_stub import StubPrompts, cameras

import threestudio  # noqa: F401 - the host comes first: the extension registers all of its names with it
from uni_instruct_guidance.core.camera_words import AZIMUTHS, ELEVATIONS, camera_bins, with_camera
from uni_instruct_guidance.core.files import PROJECT
from uni_instruct_guidance.guidance.camera_prompts import UniInstructPromptProcessor
from uni_instruct_guidance.guidance.prompts import STOCK_DIRECTIONS, direction_indices, direction_texts


class WordyProcessor(UniInstructPromptProcessor):
    """Embeds a prompt as its own bytes, so that a row of embeddings can be read back."""

    LENGTH = 96

    def encode(self, prompts):
        rows = [list(text.encode().ljust(self.LENGTH)) for text in prompts]
        return torch.tensor(rows, dtype=torch.float32)[..., None]

    def fingerprint(self):
        return "bytes"


def read(rows: torch.Tensor) -> list[str]:
    return [bytes(row.flatten().int().tolist()).decode().rstrip() for row in rows]


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(**cfg):
        processor = WordyProcessor({"prompt": "a red mug", "negative_prompt": "ugly", "spawn": False, **cfg})
        return processor()

    return make


@pytest.mark.parametrize(
    ("azimuth", "elevation", "words"),
    [
        (0, 0, "azimuth 000, elevation 0"), (-7.4, 7.4, "azimuth 000, elevation 0"),
        (352.6, -10, "azimuth 000, elevation 0"), (-8, 8, "azimuth 345, elevation 15"),
        (187, 90, "azimuth 180, elevation 90"), (-90, 44, "azimuth 270, elevation 45"),
    ],
)  # fmt: skip
def test_a_camera_is_told_by_the_nearest_words(azimuth, elevation, words):
    around, above = camera_bins(torch.tensor([float(azimuth)]), torch.tensor([float(elevation)]))
    text = with_camera("a red mug, side view, normal map", int(around), int(above))
    assert text == f"a red mug, side view, {words}, normal map"


def test_words_go_to_the_end_where_no_view_is_named():
    assert with_camera("a red mug", 3, 1) == "a red mug, azimuth 045, elevation 15"


def test_every_camera_gets_its_own_prompt(prompts):
    output = prompts()
    elevation = torch.tensor([0.0, 31.0, 75.0, -10.0, 20.0])
    azimuth = torch.tensor([2.0, 92.0, 200.0, -178.0, -45.0])
    both = read(output.get_text_embeddings(elevation, azimuth, torch.ones(5), True))
    assert both[:5] == [
        "a red mug, front view, azimuth 000, elevation 0",
        "a red mug, side view, azimuth 090, elevation 30",
        "a red mug, overhead view, azimuth 195, elevation 75",
        "a red mug, back view, azimuth 180, elevation 0",
        "a red mug, side view, azimuth 315, elevation 15",
    ]
    assert both[5:] == ["ugly"] * 5
    assert read(output.get_text_embeddings(elevation, azimuth, torch.ones(5), False))[0] == "a red mug"


def test_prompts_of_single_views_keep_their_own_words(prompts):
    output = prompts(prompt_back="a red mug, back view, normal map")
    rows = output.get_text_embeddings(torch.tensor([30.0]), torch.tensor([180.0]), torch.ones(1), True)
    assert read(rows)[0] == "a red mug, back view, azimuth 180, elevation 30, normal map"


def test_the_bank_and_the_guidance_agree_on_rows(prompts):
    output = prompts()
    some = {"elevation": torch.tensor([12.0, 80.0]), "azimuth": torch.tensor([100.0, 10.0]),
            "camera_distances": torch.ones(2)}  # fmt: skip
    texts = direction_texts(output, True)
    assert len(texts) == 2 * (len(STOCK_DIRECTIONS) + len(AZIMUTHS) * len(ELEVATIONS))
    asked = output.get_text_embeddings(*some.values(), True)
    assert torch.equal(texts[direction_indices(output, some, True)], asked[:2])
    coarse = direction_indices(output, some, True, words_only=True)
    assert [output.directions[i].name for i in coarse.tolist()] == ["side", "overhead"]


def test_changed_cameras_are_read_anew(prompts):
    output = prompts()
    elevation, distance = torch.tensor([15.0]), torch.ones(1)
    first = read(output.get_text_embeddings(elevation, torch.tensor([0.0]), distance, True))[0]
    second = read(output.get_text_embeddings(elevation, torch.tensor([30.0]), distance, True))[0]
    assert "azimuth 000" in first and "azimuth 030" in second


def test_without_camera_words_it_is_the_stock_processor(prompts):
    output = prompts(camera_words=False)
    assert [direction.name for direction in output.directions] == list(STOCK_DIRECTIONS)


def test_a_teacher_of_the_project_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"prompt": "a red mug", "spawn": False, "camera_words": False}
    processor = WordyProcessor({**given, "pretrained_model_name_or_path": "load/teachers/shapes"})
    assert processor.cfg.pretrained_model_name_or_path == str(PROJECT / "load" / "teachers" / "shapes")
    assert WordyProcessor({**given, "pretrained_model_name_or_path": "a/b"}).cfg.pretrained_model_name_or_path == "a/b"


def test_perp_neg_and_camera_words_exclude_each_other(prompts):
    with pytest.raises(ValueError, match="camera_words=true and use_perp_neg=true"):
        prompts(use_perp_neg=True)


def test_words_only_changes_nothing_for_stock_prompts():
    stub, some = StubPrompts(8), cameras(6)
    assert torch.equal(
        direction_indices(stub, some, True), direction_indices(stub, some, True, words_only=True)
    )
