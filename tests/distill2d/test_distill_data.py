"""Data readers against files made here, and every kind of damage refused in one line."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from uni_instruct_guidance.distill2d.data import DataConfig, StepSampler, image_loader, load_data, to_unit_range


def png(value: int, size=(8, 8), mode="L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 0, 255)).save(buffer, "PNG")
    return buffer.getvalue()


def write_zip(path, members: dict[str, bytes], **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    data = load_data(DataConfig("digits"))
    images, labels = data.__getitems__([0, 5, 1796])
    reference = load_digits()
    assert (len(data), data.shape, data.num_classes) == (1797, (1, 8, 8), 10)
    np.testing.assert_allclose((images[:, 0].numpy() + 1) * 8, reference.images[[0, 5, 1796]])
    assert labels.tolist() == reference.target[[0, 5, 1796]].tolist()
    assert data.class_frequencies().sum() == pytest.approx(1)


def test_folder_with_class_subfolders(tmp_path):
    for k, name in enumerate(("ant", "bee")):
        (tmp_path / name).mkdir()
        for i in range(2):
            (tmp_path / name / f"{i}.png").write_bytes(png(100 * k + i))
    data = load_data(DataConfig("folder", str(tmp_path)))
    images, labels = data.__getitems__([0, 3])
    assert data.shape == (1, 8, 8) and images.dtype == torch.uint8
    assert images[:, 0, 0, 0].tolist() == [0, 101] and labels.tolist() == [0, 1]
    torch.testing.assert_close(to_unit_range(torch.tensor([0, 255], dtype=torch.uint8)), torch.tensor([-1.0, 1.0]))


def test_flat_folder_has_no_labels(tmp_path):
    (tmp_path / "a.png").write_bytes(png(7, mode="RGB"))
    data = load_data(DataConfig("folder", str(tmp_path)))
    assert (data.labels, data.num_classes, data.shape) == (None, 0, (3, 8, 8))
    assert data[0][0][:, 0, 0].tolist() == [7, 0, 255]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_of_edm_with_labels(tmp_path, compression):
    labels = {"labels": [["00000/img00000001.png", 3], ["00000/img00000000.png", 1]]}
    members = {f"00000/img0000000{i}.png": png(i) for i in range(2)} | {"dataset.json": json.dumps(labels).encode()}
    data = load_data(DataConfig("zip", str(write_zip(tmp_path / "x.zip", members, compression=compression))))
    images, classes = data.__getitems__([1, 0])
    assert images[:, 0, 0, 0].tolist() == [1, 0] and classes.tolist() == [3, 1] and data.num_classes == 4
    # Workers open the archive for themselves: the data set travels without its open file.
    assert pickle.loads(pickle.dumps(data)).images([0])[0, 0, 0, 0] == 0


def test_damaged_zips_are_refused(tmp_path):
    good = write_zip(tmp_path / "good.zip", {f"{i}.png": png(i) for i in range(8)}).read_bytes()
    cut, flipped = tmp_path / "cut.zip", tmp_path / "flipped.zip"
    cut.write_bytes(good[: len(good) // 2])
    middle = good.find(b"IDAT", len(good) // 3) + 6
    flipped.write_bytes(good[:middle] + bytes([good[middle] ^ 255]) + good[middle + 1 :])
    for path in (cut, flipped):
        with pytest.raises(ValueError, match=f"data.path='{path}' is a corrupt zip"):
            load_data(DataConfig("zip", str(path)))


def test_unequal_sizes_and_missing_labels_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(png(0))
    (tmp_path / "b.png").write_bytes(png(0, size=(4, 8)))
    with pytest.raises(ValueError, match=r"must have one size, found 8x8 \(a.png\), 4x8 \(b.png\)"):
        load_data(DataConfig("folder", str(tmp_path)))
    labels = {"a.png": png(0), "dataset.json": b'{"labels": [["b.png", 1]]}'}
    with pytest.raises(ValueError, match="dataset.json .* a.png"):
        load_data(DataConfig("zip", str(write_zip(tmp_path / "x.zip", labels))))


def cifar_batches(folder, write):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (5, 4, 3072), dtype=np.uint8), rng.integers(0, 10, (5, 4))
    labels[0, 0] = 9
    folder.mkdir()
    for i in range(5):
        write(folder, i + 1, images[i], labels[i])
    return images.reshape(-1, 3, 32, 32), labels.ravel()


def write_binary(folder, number, images, labels):
    records = np.concatenate([labels[:, None].astype(np.uint8), images], 1)
    (folder / f"data_batch_{number}.bin").write_bytes(records.tobytes())


def write_python(folder, number, images, labels):
    batch = {b"data": images, b"labels": labels.tolist(), b"batch_label": b"x", b"filenames": [b"a.png"] * len(labels)}
    (folder / f"data_batch_{number}").write_bytes(pickle.dumps(batch, protocol=2))


@pytest.mark.parametrize("write", [write_binary, write_python])
def test_cifar10_both_versions(tmp_path, write):
    images, labels = cifar_batches(tmp_path / "cifar-10", write)
    data = load_data(DataConfig("cifar10", str(tmp_path)))
    read, classes = data.__getitems__(list(range(20)))
    assert (read.numpy() == images).all() and (classes.numpy() == labels).all() and data.num_classes == 10


def test_cifar10_pickles_run_nothing(tmp_path):
    cifar_batches(tmp_path / "cifar", write_python)

    class Malicious:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    (tmp_path / "cifar" / "data_batch_3").write_bytes(pickle.dumps({b"data": Malicious()}))
    with pytest.raises(ValueError, match="data_batch_3 is no CIFAR-10 batch: it wants to load posix.system"):
        load_data(DataConfig("cifar10", str(tmp_path)))
    assert not (tmp_path / "ran").exists()


def test_cut_or_missing_cifar10_is_refused(tmp_path):
    cifar_batches(tmp_path / "cifar", write_binary)
    batch = tmp_path / "cifar" / "data_batch_2.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(ValueError, match="data_batch_2.bin has 12291 bytes"):
        load_data(DataConfig("cifar10", str(tmp_path)))
    batch.unlink()
    with pytest.raises(ValueError, match="lacks data_batch_2.bin"):
        load_data(DataConfig("cifar10", str(tmp_path)))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_imagenet64_batches(tmp_path, save):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 12288), dtype=np.uint8)
    labels = np.array([1, 2, 3, 1, 1000, 7])
    save(tmp_path / "train_data_batch_1.npz", data=images[:4], labels=labels[:4], mean=np.zeros(3))
    save(tmp_path / "train_data_batch_2.npz", data=images[4:], labels=labels[4:])
    data = load_data(DataConfig("imagenet64", str(tmp_path)))
    read, classes = data.__getitems__([5, 0, 3, 4])
    assert (read.numpy() == images[[5, 0, 3, 4]].reshape(-1, 3, 64, 64)).all()
    assert classes.tolist() == [6, 0, 0, 999] and data.num_classes == 1000


def test_imagenet64_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "train_data_batch_1.npz", data=np.array([{}], dtype=object), labels=np.array([1]))
    with pytest.raises(ValueError, match="train_data_batch_1.npz is no batch of ImageNet-64"):
        load_data(DataConfig("imagenet64", str(tmp_path)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig("mnist"), "data.name='mnist' is not known; choose one of digits, folder"),
        (DataConfig("zip"), "data.path is missing"),
        (DataConfig("folder", "no/such/folder"), "data.path='no/such/folder' does not exist"),
        (DataConfig("digits", workers=-1), "data.workers=-1"),
    ],
)
def test_wrong_data_settings_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        load_data(config)


def test_steps_see_every_image_once_per_pass_whatever_the_processes():
    def steps(world, **options):
        samplers = [
            StepSampler(10, 4, 5, rank=rank, world=world, updates=2, seed=3, **options) for rank in range(world)
        ]
        return [[sampler.indices(step) for sampler in samplers] for step in range(5)]

    alone = [index for (step,) in steps(1) for index in step]
    assert all(Counter(alone[i : i + 10]) == Counter(range(10)) for i in range(0, 40, 10))
    assert alone[:10] != alone[10:20]
    for (whole,), (first, second) in zip(steps(1), steps(2)):
        # Two updates of four images: each process holds two of each update, in the global order.
        assert whole == first[:2] + second[:2] + first[2:] + second[2:]
    resumed = list(StepSampler(10, 4, 5, start=3, updates=2, seed=3))
    assert resumed == list(StepSampler(10, 4, 5, updates=2, seed=3))[3:]


def test_loader_deals_the_samplers_batches():
    data = load_data(DataConfig("digits"))
    sampler = StepSampler(len(data), 6, 3, seed=1)
    batches = list(image_loader(data, sampler))
    assert len(batches) == 3
    torch.testing.assert_close(batches[2][0], data.images(sampler.indices(2)))
