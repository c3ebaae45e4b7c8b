"""View directions, prompt texts, embedding order, perp-neg and the cache against the reference's values."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from contract_values import CONTRACT, close, numbers
from omegaconf import OmegaConf

from threestudio.models.prompt_processors import base
from threestudio.models.prompt_processors.base import PromptProcessor, hash_prompt
from threestudio.models.prompt_processors.directions import shift_azimuth_deg
from threestudio.models.prompt_processors.stable_diffusion_prompt_processor import StableDiffusionPromptProcessor

VIEWS = CONTRACT["view_directions"]


class FakeProcessor(PromptProcessor):
    """Embeds a prompt as a constant: its number in the contract, or in the order of appearance."""

    @dataclass
    class Config(PromptProcessor.Config):
        pretrained_model_name_or_path: str = "fake"

    encoded: list
    model = "first"

    def encode(self, prompts):
        self.encoded = getattr(self, "encoded", []) + prompts
        ids = VIEWS["text_embeddings"]["fake_embedding_ids"]
        shape = VIEWS["text_embeddings"]["shape_each"]
        return torch.stack([torch.full(shape, float(ids.get(p, len(p)))) for p in prompts]).half()

    def fingerprint(self):
        return self.model


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def processor(**cfg) -> FakeProcessor:
    return FakeProcessor({"prompt": "a red mug", "negative_prompt": "ugly", **cfg})


@pytest.mark.parametrize("grid", VIEWS["grids"], ids=lambda g: g["case"])
def test_direction_grid(grid):
    prompt = processor(**grid["thresholds"])()
    assert prompt.direction2idx == grid["direction2idx"]
    elevation, azimuth = torch.meshgrid(numbers(VIEWS["elevation"]), numbers(VIEWS["azimuth"]), indexing="ij")
    index = prompt.direction_index(elevation.flatten(), azimuth.flatten(), torch.ones(elevation.numel()))
    assert index.reshape(elevation.shape).tolist() == grid["index"]


@pytest.mark.parametrize("row", VIEWS["prompts"], ids=lambda r: str(r["cfg"]))
def test_prompts(row):
    made = FakeProcessor(row["cfg"])
    assert [d.name for d in made.directions] == row["directions"]
    assert made.prompts_vd == row["prompts_vd"]
    assert made.negative_prompts_vd == row["negative_prompts_vd"]


@pytest.mark.parametrize("view_dependent", [True, False])
def test_embedding_order(view_dependent):
    section = VIEWS["text_embeddings"]
    expected = section["view_dependent" if view_dependent else "plain"]
    prompt = processor()()
    for name, shape in section["shapes"].items():
        assert list(getattr(prompt, name).shape) == shape
    elevation, azimuth = numbers(section["elevation"]), numbers(section["azimuth"])
    out = prompt.get_text_embeddings(elevation, azimuth, torch.ones(4), view_dependent)
    assert list(out.shape) == expected["shape"]
    assert out[:, 0, 0].tolist() == expected["row_ids"]


def test_perp_neg():
    section = VIEWS["perp_neg"]
    prompt = processor()()
    for curve in ("f_sb", "f_fsb", "f_fs", "f_sf"):
        assert list(getattr(prompt, f"perp_neg_{curve}")) == section[curve]
    elevation, azimuth = numbers(section["elevation"]), numbers(section["azimuth"])
    out, weights = prompt.get_text_embeddings_perp_neg(elevation, azimuth, torch.ones(len(azimuth)))
    assert list(out.shape) == section["shape"]
    close(out[:, 0, 0], section["row_values"])
    close(weights, section["weights"])
    with pytest.raises(AssertionError, match="view_dependent_prompting"):
        prompt.get_text_embeddings_perp_neg(elevation, azimuth, torch.ones(len(azimuth)), False)


def test_azimuth_wrap():
    close(shift_azimuth_deg(numbers(VIEWS["shift_azimuth_deg"]["x"])), VIEWS["shift_azimuth_deg"]["out"])


def test_defaults():
    actual = OmegaConf.to_container(OmegaConf.structured(PromptProcessor.Config))
    expected = dict(VIEWS["defaults"])
    # the reference's default model left the hub; its mirror is the default here
    assert expected.pop("pretrained_model_name_or_path") == "runwayml/stable-diffusion-v1-5"
    assert actual["pretrained_model_name_or_path"] == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    for key, value in expected.items():
        assert (list(actual[key]) if isinstance(actual[key], tuple) else actual[key]) == value, key


# ---------------------------------------------------------------------------------------------------------- cache
@pytest.mark.parametrize("row", VIEWS["cache_file_name"], ids=lambda r: r["prompt"])
def test_cache_names(row):
    assert f"{hash_prompt(row['model'], row['prompt'])}.pt" == row["name"]


def test_the_cache_saves_encoding_again():
    first = processor()
    assert sorted(first.encoded) == sorted({first.prompt, "ugly", *first.prompts_vd})
    again = processor()
    assert not hasattr(again, "encoded")
    close(again().text_embeddings_vd, first().text_embeddings_vd)
    assert len(processor(use_cache=False).encoded) == 6


def test_another_model_under_the_same_name_is_encoded_anew(monkeypatch):
    processor()
    monkeypatch.setattr(FakeProcessor, "model", "second")
    assert len(processor().encoded) == 6


def test_a_damaged_cache_entry_is_made_again():
    first = processor()
    path = first._cache_path("ugly")
    path.write_bytes(path.read_bytes()[:50])
    again = processor()
    assert again.encoded == ["ugly"]
    assert again().uncond_text_embeddings[0, 0, 0].item() == 2.0


# -------------------------------------------------------------------------------------------------------- library
LIBRARY = {"a": ["a delicious hamburger", "a bagel"], "b": ["plain toast"]}


@pytest.mark.parametrize("row", VIEWS["prompt_library"], ids=lambda r: r["asked"])
def test_prompt_library(row, tmp_path):
    (tmp_path / "load").mkdir()
    (tmp_path / "load" / "prompt_library.json").write_text(json.dumps(LIBRARY))
    if "raises" in row:
        with pytest.raises(ValueError, match="exactly one prompt"):
            processor(prompt=row["asked"])
        return
    made = processor(prompt=row["asked"])
    assert made.prompt == ("a delicious hamburger" if row["asked"].startswith("lib:") else row["asked"])


def test_the_shipped_library_is_found_from_anywhere():
    assert processor(prompt="lib:refined_vase").prompt == "A refined vase with artistic patterns."
    assert len(base.PROMPT_LIBRARIES) == 2


# ------------------------------------------------------------------------------------------------------- mistakes
@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(prompt):
    with pytest.raises(ValueError, match=r"system\.prompt_processor\.prompt is empty"):
        processor(prompt=prompt)


def test_debiasing_is_refused():
    with pytest.raises(ValueError, match="use_prompt_debiasing=true needs a language model"):
        processor(use_prompt_debiasing=True)


# ------------------------------------------------------------------------------------------------ the real encoder
def test_embeddings_are_the_text_encoders(tiny_teacher):
    from transformers import CLIPTextModel, CLIPTokenizer

    made = StableDiffusionPromptProcessor({"prompt": "a red mug", "pretrained_model_name_or_path": str(tiny_teacher)})()
    tokenizer = CLIPTokenizer.from_pretrained(tiny_teacher, subfolder="tokenizer")
    encoder = CLIPTextModel.from_pretrained(tiny_teacher, subfolder="text_encoder").float()
    length = tokenizer.model_max_length
    assert made.text_embeddings_vd.shape[:2] == (4, length)
    for i, text in enumerate(["a red mug, side view", "a red mug, front view"]):
        tokens = tokenizer(text, padding="max_length", max_length=length, return_tensors="pt")
        # batched and single matrix products round differently
        close(made.text_embeddings_vd[i].cpu(), encoder(tokens.input_ids)[0][0], atol=1e-5)


def test_random_numbers_do_not_depend_on_the_cache(tiny_teacher):
    cfg = {"prompt": "a red mug", "pretrained_model_name_or_path": str(tiny_teacher)}
    drawn = []
    for _ in range(2):  # without an entry, then with one
        torch.manual_seed(5)
        StableDiffusionPromptProcessor(cfg)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


def test_a_long_prompt_is_cut_with_a_warning(tiny_teacher, caplog):
    with caplog.at_level("WARNING", logger="threestudio"):
        StableDiffusionPromptProcessor({"prompt": "x/y\n" * 125, "pretrained_model_name_or_path": str(tiny_teacher)})
    assert "is cut to 16" in caplog.text


def test_missing_and_damaged_encoders_are_named(tiny_teacher, tmp_path):
    import shutil

    key = "system.prompt_processor.pretrained_model_name_or_path="
    with pytest.raises(ValueError, match=f"{key}no/where: no readable tokenizer"):
        StableDiffusionPromptProcessor({"pretrained_model_name_or_path": "no/where"})
    damaged = shutil.copytree(tiny_teacher, tmp_path / "damaged")
    weights = next((damaged / "text_encoder").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged: no readable"):
        StableDiffusionPromptProcessor({"pretrained_model_name_or_path": str(damaged)})
