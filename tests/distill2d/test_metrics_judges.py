"""The judges: the shipped digit classifier, Inception from a file, and the report that compares real and generated."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from uni_instruct_guidance.distill2d import inception
from uni_instruct_guidance.distill2d.data import DataConfig, load_data
from uni_instruct_guidance.distill2d.digit_classifier import (
    ClassifierConfig,
    DigitClassifier,
    accuracy,
    augment,
    load_classifier,
    save_classifier,
    split,
    train_classifier,
)
from uni_instruct_guidance.distill2d.evaluation import Judge, Reference, digits_judge, load_judge, ratios

SHIPPED = Path(__file__).resolve().parents[2] / "load" / "judge" / "digits.safetensors"


@pytest.fixture(scope="module")
def digits():
    return load_data(DataConfig("digits"))


def test_shipped_classifier_reads_held_out_digits(digits):
    """At least 98 % of the fifth that its training never saw."""
    _, held_out = split(len(digits), ClassifierConfig.held_out, ClassifierConfig.seed)
    assert len(held_out) == 359 and SHIPPED.stat().st_size < 1e6
    assert accuracy(load_classifier(SHIPPED), digits.images(held_out), digits.labels[held_out]) >= 0.98


def test_split_is_disjoint_and_complete():
    train, test = split(101, 0.2, 0)
    assert len(test) == 20 and sorted(torch.cat([train, test]).tolist()) == list(range(101))


def test_short_training_learns_and_repeats(digits):
    config = ClassifierConfig(steps=20, batch=48, lr=0.01)
    images, labels = digits.images(range(600)), digits.labels[:600]
    (model, first), (again, second) = (train_classifier(images, labels, config) for _ in range(2))
    assert first == second > 0.5
    for a, b in zip(model.parameters(), again.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_augmentation_stays_in_range_and_near(digits):
    images = digits.images(range(64))
    changed = augment(images, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape and changed.min() >= -1 - 1e-6 and changed.max() <= 1 + 1e-6
    assert 0.05 < (changed - images).abs().mean() < 0.4


def test_classifier_files(tmp_path):
    model = DigitClassifier().eval()
    save_classifier(model, tmp_path / "a.safetensors", {"seed": 0})
    x = torch.randn(2, 1, 8, 8)
    # Stored in half precision: 11 bits.
    torch.testing.assert_close(load_classifier(tmp_path / "a.safetensors")(x), model(x), rtol=2e-2, atol=2e-3)
    with pytest.raises(FileNotFoundError, match="train_digit_classifier"):
        load_classifier(tmp_path / "missing.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:500])
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name in ("cut", "other"):
        with pytest.raises(ValueError, match=rf"{name}\.safetensors is truncated or something else: [^\n]*$"):
            load_classifier(tmp_path / f"{name}.safetensors")


class Planted:
    """Would run on unpickling."""

    def __reduce__(self):
        return (Path.touch, (Path("planted"),))


def test_inception_refuses_bad_files_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"inception weights 'None' not found: .*6726825d\.pth"):
        inception.load_inception(None)
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        inception.load_inception("nowhere.pth")
    Path("evil.pth").write_bytes(pickle.dumps({"fc.weight": Planted()}))
    torch.save([1, 2], "list.pth")
    torch.save({"fc.weight": torch.zeros(3, 3)}, "other.pth")
    Path("noise.safetensors").write_bytes(b"\0" * 100)
    for name, reason in {
        "evil.pth": "plain tensors", "list.pth": "hold list", "noise.safetensors": "plain tensors",
        "other.pth": "not those of Inception",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=reason) as caught:
            inception.load_inception(name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("planted").exists()


@pytest.mark.slow
def test_inception_file_gives_the_librarys_features(tmp_path, monkeypatch):
    """Random weights in a torch and in a safetensors file: the features of the library's own network."""
    from torch_fidelity import feature_extractor_inceptionv3 as library

    monkeypatch.setattr(library, "load_state_dict_from_url", lambda *_, **__: {})
    monkeypatch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    plain = library.FeatureExtractorInceptionV3("plain", ["2048", "logits_unbiased"])
    monkeypatch.undo()
    torch.save(plain.state_dict(), tmp_path / "w.pth")
    save_file(plain.state_dict(), tmp_path / "w.safetensors")
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    expected = plain(inception.to_uint8_rgb(images))
    for name in ("w.pth", "w.safetensors"):
        judge = load_judge("inception", tmp_path / name)
        embedded = judge.embed(images)
        torch.testing.assert_close(embedded["inception"], expected[0])
        torch.testing.assert_close(embedded["logits"], expected[1])
        assert not inception.is_published(tmp_path / name)


def test_uint8_as_edm_writes_images():
    values = torch.tensor([-1.2, -1.0, 0.0, 0.999, 1.0]).reshape(1, 1, 1, 5)
    rgb = inception.to_uint8_rgb(values)
    assert rgb.shape == (1, 3, 1, 5) and rgb[0, 2, 0].tolist() == [0, 0, 128, 255, 255]


def test_report_on_real_digits_and_on_worse_ones(digits):
    """The data against themselves: 0. Half the classes missing, or noise: worse in every way that should notice."""
    reference = Reference(digits, digits_judge(SHIPPED), batch=600)
    images, labels = digits.images(range(len(digits))), digits.labels
    same = reference.assess([(images[:900], labels[:900]), (images[900:], labels[900:])])
    assert same.samples == same.real == 1797
    assert same.frechet["pixel"] == pytest.approx(0, abs=1e-6)
    # Two draws of 898 digits differ by more than nothing: about 2 x features / samples of the variance.
    assert 0.05 < reference.floor["pixel"] < 1
    assert same.classes.coverage == 1 and same.classes.effective > 9.9 and same.classes.accuracy > 0.98
    assert same.precision > 0.9 and same.recall > 0.9 and same.inception_score is None

    few = labels < 5
    half = reference.assess([(images[few], None)])
    assert half.classes.coverage == 0.5 and half.classes.effective < 5.2 and half.classes.accuracy is None
    assert half.precision > 0.8 and half.recall < 0.7
    noisy = reference.assess([(images + 0.4 * torch.randn_like(images), None)])
    for space in ("pixel", "classifier"):
        assert half.frechet[space] > 3 * reference.floor[space] < noisy.frechet[space]
    assert {"samples", "fd_pixel", "fd_classifier", "precision", "recall", "coverage", "effective_classes"} == set(
        half.row()
    )
    worse = reference.assess([(images + 0.8 * torch.randn_like(images), None)])
    assert ratios(worse, noisy)["pixel"] == worse.frechet["pixel"] / noisy.frechet["pixel"] > 1
    with pytest.raises(ValueError, match="900 and 1797 samples"):
        ratios(reference.assess([(images[:900], None)]), same)


def test_stored_moments_replace_those_of_the_data(digits, tmp_path):
    judge = Judge("flat", lambda x: {"inception": x.flatten(1), "logits": x.flatten(1)[:, :5]}, "inception", False)
    reference = Reference(digits, judge)
    generated = [(digits.images(range(100)), None)]
    before = reference.assess(generated).frechet["inception"]
    mean, covariance = reference.moments["inception"].mean.numpy(), reference.moments["inception"].covariance.numpy()
    np.savez(tmp_path / "shifted.npz", mu=mean + 1, sigma=covariance)
    reference.use_moments(tmp_path / "shifted.npz")
    assert reference.assess(generated).frechet["inception"] > before + 10
    np.savez(tmp_path / "small.npz", mu=mean[:3], sigma=covariance[:3, :3])
    np.savez(tmp_path / "empty.npz", other=mean)
    np.savez(tmp_path / "objects.npz", mu=np.array([Planted()]), sigma=covariance)
    for name, reason in {"small": r"\[3\] features", "empty": "mu and sigma", "objects": "mu", "none": "mu"}.items():
        with pytest.raises(ValueError, match=reason):
            reference.use_moments(tmp_path / f"{name}.npz")


def test_unknown_judge():
    with pytest.raises(ValueError, match="judge='clip' is not known; choose one of digits, inception"):
        load_judge("clip", None)
