"""Sets prepared by tensorflow-datasets: read without TensorFlow, missed without a wait."""

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import registered

from resnet.data.config import DataConfig
from resnet.data.datasets import load_dataset
from resnet.errors import InputError

IMAGES = np.random.RandomState(0).randint(0, 256, (30, 28, 28, 1)).astype(np.uint8)

with registered.skip_registration():

    class TinyMnist(tfds.core.GeneratorBasedBuilder):
        """30 noise images under MNIST's name and features."""

        name = "mnist"
        VERSION = tfds.core.Version("3.0.1")

        def _info(self):
            label = tfds.features.ClassLabel(num_classes=10)
            image = tfds.features.Image(shape=(28, 28, 1))
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._examples(0, 20), "test": self._examples(20, 30)}

        def _generate_examples(self):
            raise NotImplementedError

        def _examples(self, start, stop):
            for index in range(start, stop):
                file = io.BytesIO()
                Image.fromarray(IMAGES[index, ..., 0]).save(file, "PNG")
                file.seek(0)
                yield index, {"image": file, "label": index % 10}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    TinyMnist(data_dir=root, file_format="array_record").download_and_prepare()
    return root


def load(root, **fields):
    return load_dataset(DataConfig(name="mnist", dir=str(root), validation=0.0, **fields))


def test_prepared_images_and_labels_come_back(prepared):
    data = load(prepared)
    assert (len(data.train), len(data.test)) == (20, 10)
    assert data.class_names == tuple("0123456789")
    assert data.image_shape == (28, 28, 1)
    original = {IMAGES[index].tobytes(): index for index in range(30)}
    for split, members in ((data.train, range(20)), (data.test, range(20, 30))):
        indices = [original[image.tobytes()] for image in split.images]
        assert sorted(indices) == list(members)
        assert split.labels.tolist() == [index % 10 for index in indices]
    assert "tensorflow" not in sys.modules


def test_the_newest_version_is_read(prepared, tmp_path):
    for version in ("3.0.1", "3.0.9", "3.0.10", "4.0.0.incompleteABC"):
        folder = tmp_path / "mnist" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text('{"fileFormat": "array_record"}')
    newest = tmp_path / "mnist" / "3.0.10"
    for file in (prepared / "mnist" / "3.0.1").iterdir():
        (newest / file.name).write_bytes(file.read_bytes().replace(b'"3.0.1"', b'"3.0.10"'))
    assert len(load(tmp_path).train) == 20


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn_cropped"])
def test_missing_data_says_where_it_looked_and_how_to_fetch_it(tmp_path, name):
    with pytest.raises(InputError) as raised:
        load_dataset(DataConfig(name=name, dir=str(tmp_path)))
    assert str(raised.value) == (
        f"data set {name} is not in {tmp_path} nor in {tmp_path}/{name} (`data.dir`): fetch it by "
        f"resnet prepare {name} --dir={tmp_path}"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_folders_looked_in_by_default(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    message = f"is not in {tmp_path}/datasets/cifar10 nor in {tmp_path}/tensorflow_datasets/cifar10 "
    with pytest.raises(InputError, match=message):
        load_dataset(DataConfig(name="cifar10"))


def test_another_file_format_is_named(tmp_path):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"fileFormat": "riegeli"}))
    message = r"3.0.1 is in riegeli format, and only array_record and tfrecord are read: fetch it by resnet p"
    with pytest.raises(InputError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("field", ['"shardLengths"', '"name": "mnist"'])
def test_a_description_that_lacks_a_field_is_named(prepared, tmp_path, field):
    folder = Path(shutil.copytree(prepared / "mnist" / "3.0.1", tmp_path / "mnist" / "3.0.1"))
    info = folder / "dataset_info.json"
    assert field in info.read_text()
    info.write_text(info.read_text().replace(field, field.replace('"', '"_', 1)))
    with pytest.raises(
        InputError, match=rf"{folder} cannot be read \(.*KeyError.*\): delete that folder and"
    ):
        load(tmp_path)


@pytest.mark.parametrize("text", ['{"name": ', "[]"])
def test_a_damaged_description_is_named(tmp_path, text):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(text)
    with pytest.raises(InputError, match="dataset_info.json cannot be read .*prepare it again"):
        load(tmp_path)


@pytest.mark.parametrize("damage", ["removed", "truncated"])
def test_damaged_files(prepared, tmp_path, damage):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    for file in (prepared / "mnist" / "3.0.1").iterdir():
        content = file.read_bytes()
        if ".array_record" in file.name and damage == "truncated":
            content = content[: len(content) // 2]
        if ".array_record" not in file.name or damage != "removed":
            (folder / file.name).write_bytes(content)
    message = f"train split of {folder} cannot be read .*: delete that folder and prepare it again"
    with pytest.raises(InputError, match=message) as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)
