"""MNIST and Fashion-MNIST from the files that their authors publish."""

import gzip

import numpy as np
import pytest

from resnet.data.config import DataConfig
from resnet.data.datasets import load_dataset
from resnet.data.published import idx
from resnet.errors import InputError


def write(path, values):
    head = bytes((0, 0, idx.UINT8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
    content = head + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture(params=["", ".gz"])
def folder(request, tmp_path):
    random = np.random.RandomState(0)
    for prefix, n in (("train", 60), ("t10k", 20)):
        write(
            tmp_path / f"{prefix}-images-idx3-ubyte{request.param}",
            random.randint(0, 256, (n, 28, 28), np.uint8),
        )
        write(
            tmp_path / f"{prefix}-labels-idx1-ubyte{request.param}",
            np.arange(n, dtype=np.uint8) % 10,
        )
    return tmp_path


@pytest.mark.parametrize("below", ["", "mnist"])
def test_reads_the_published_files(folder, below):
    if below:
        (folder / below).mkdir()
        for path in list(folder.iterdir()):
            if path.is_file():
                path.rename(folder / below / path.name)
    dataset = load_dataset(DataConfig(name="mnist", dir=str(folder)))
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (54, 6, 20)
    assert dataset.image_shape == (28, 28, 1) and dataset.class_names == tuple("0123456789")
    expected = np.random.RandomState(0).randint(0, 256, (60, 28, 28), np.uint8)
    found = {image.tobytes() for image in dataset.train.images}
    assert found < {image.tobytes() for image in expected}
    assert dataset.test.labels.tolist() == [*range(10)] * 2


def test_a_file_that_is_missing_cut_or_another_is_named(folder):
    path = next(folder.glob("t10k-labels*"))
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"<html>", whole[::-1]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{path}.*fetch it again"):
            load_dataset(DataConfig(name="mnist", dir=str(folder)))
    path.unlink()
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte.*is missing"):
        load_dataset(DataConfig(name="mnist", dir=str(folder)))


def test_as_many_labels_as_images(folder):
    path = next(folder.glob("train-labels*"))
    write(path, np.zeros(59, np.uint8))
    with pytest.raises(InputError, match="60 train images, but 59 labels"):
        load_dataset(DataConfig(name="fashion_mnist", dir=str(folder)))
