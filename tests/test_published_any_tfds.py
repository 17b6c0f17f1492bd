"""data.name=tfds:NAME: any set with image and label, in both file formats, read, streamed and refused."""

import errno
import io
import json
import os
import resource
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import registered

from resnet.data.config import DataConfig
from resnet.data.datasets import load_dataset, load_split
from resnet.data.files import index
from resnet.data.files.listing import Entry, make_listing
from resnet.data.folder import load_files
from resnet.data.published import records
from resnet.data.published import tfds as sets
from resnet.data.published.tfds import find_prepared
from resnet.data.statistics import statistics
from resnet.errors import InputError
from tests.stream_cases import STATISTICS, batches, digests, jpeg

NAMES = ("wolf", "ape", "cat/lynx")  # in the order of the labels, which is not that of the alphabet
FILES = {split: [jpeg(start + i) for i in range(n)] for split, start, n in (("train", 0, 15), ("val", 50, 6))}

with registered.skip_registration():

    class TinyAnimals(tfds.core.GeneratorBasedBuilder):
        """JPEGs of several sizes, with a text and an unlabelled test split beside."""

        name = "tiny_animals"
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("small", "other")]  # noqa: RUF012

        def _info(self):
            features = tfds.features.FeaturesDict({
                "file_name": tfds.features.Text(),
                "label": tfds.features.ClassLabel(names=NAMES),
                "image": tfds.features.Image(encoding_format="jpeg"),
            })  # fmt: skip
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {
                "train": self._examples("train"),
                "val": self._examples("val"),
                "test": self._examples("val", -1),
            }

        def _generate_examples(self):
            raise NotImplementedError

        def _examples(self, split, label=None):
            for i, content in enumerate(FILES[split]):
                label_of_it = i % 3 if label is None else label
                yield i, {"file_name": f"{i}.jpg", "label": label_of_it, "image": io.BytesIO(content)}


@pytest.fixture(scope="module")
def array_record(tmp_path_factory):
    root = tmp_path_factory.mktemp("array_record")
    TinyAnimals(config="small", data_dir=root, file_format="array_record").download_and_prepare()
    return root


@pytest.fixture(scope="module")
def tfrecord(array_record, tmp_path_factory):
    """The same records in TFRecord files, the training split in two, as TensorFlow would write them."""
    root = tmp_path_factory.mktemp("tfrecord")
    prepared = find_prepared("tfds:tiny_animals", array_record)
    folder = root / "tiny_animals" / "small" / "1.0.0"
    folder.mkdir(parents=True)
    info = json.loads((prepared.folder / "dataset_info.json").read_text()) | {"fileFormat": "tfrecord"}
    for split in info["splits"]:
        path = prepared.folder / f"tiny_animals-{split['name']}.array_record-00000-of-00001"
        content = [record for _, record in records.ArrayRecords([path], "image").scan()]
        parts = [content[:4], content[4:]] if split["name"] == "train" else [content]
        split["shardLengths"] = [str(len(part)) for part in parts]
        for i, part in enumerate(parts):
            name = f"tiny_animals-{split['name']}.tfrecord-{i:05d}-of-{len(parts):05d}"
            (folder / name).write_bytes(b"".join(framed(record) for record in part))
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for name in ("features.json", "label.labels.txt"):
        shutil.copy(prepared.folder / name, folder)
    return root


def framed(record):
    """A record between its length and checksums, which are not looked at."""
    return struct.pack("<QI", len(record), 0) + record + bytes(4)


@pytest.fixture(params=["array_record", "tfrecord"])
def root(request):
    return request.getfixturevalue(request.param)


def config(root, name="tfds:tiny_animals", **fields):
    return DataConfig(name=name, dir=str(root), **({"image_size": 16} | STATISTICS | fields))


def test_images_and_labels_come_back_in_the_order_of_the_labels(root):
    data = load_dataset(config(root))
    assert data.class_names == NAMES
    assert (len(data.train), len(data.validation), len(data.test)) == (15, 6, 0)  # that has no labels
    for split, files in ((data.train, FILES["train"]), (data.validation, FILES["val"])):
        assert sorted(split.labels.tolist()) == sorted(i % 3 for i in range(len(files)))
        expected = {fit(content): i % 3 for i, content in enumerate(files)}
        assert [expected[image.tobytes()] for image in split.images] == split.labels.tolist()
    assert "tensorflow" not in sys.modules


def fit(content):
    from PIL import ImageOps

    image = Image.open(io.BytesIO(content))
    return np.asarray(ImageOps.fit(image, (16, 16), Image.Resampling.BILINEAR)).tobytes()


def test_it_is_streamed_to_the_same_bits_from_both_formats(array_record, tfrecord):
    fields = {"random_resized_crop": 0.3, "eval_crop": 0.8}
    streams = [load_dataset(config(root, **fields)) for root in (array_record, tfrecord)]
    one, two = (digests(batches(data, range(6), threads=3)) for data in streams)
    assert one == two and len(set(one)) == 6
    assert streams[0].fingerprint == streams[1].fingerprint


def test_memory_and_stream_hold_the_same_images(root):
    memory, stream = (load_dataset(config(root, storage=storage)) for storage in ("memory", "stream"))
    np.testing.assert_array_equal(memory.train.images, stream.train.images)
    np.testing.assert_array_equal(memory.train.labels, stream.train.labels)


def test_splits_are_those_of_the_setting(root):
    data = load_dataset(config(root, splits=("train=val", "test=train")))
    assert (len(data.train) + len(data.validation), len(data.test)) == (6, 15)
    split, _ = load_split(config(root, splits=("train=val", "test=train")), "test")
    assert len(split) == 15


def test_classes_may_be_chosen(root):
    data = load_dataset(config(root, classes=("cat/lynx", "wolf")))
    assert data.class_names == ("cat/lynx", "wolf") and len(data.train) == 10
    assert statistics(data.train, "none", (), ())[1].tolist() == [255] * 3


@pytest.mark.parametrize("fields", [{}, {"image_size": 0}, {"storage": "stream"}])
def test_chosen_classes_may_have_no_image_in_a_split(tmp_path, fields):
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    groups = {"wolf": [Entry("a.jpg", -1)], "ape": [], "cat/lynx": []}
    listing = make_listing(tmp_path, groups, in_tar=False, classes=NAMES)
    data = config(tmp_path, classes=NAMES[1:], **fields)
    source = load_files(
        tmp_path, {"test": listing}, data.sizes, storage=data.storage, memory_gb=0.0, bad_limit=0.0,
        chosen=data.classes,
    )  # fmt: skip
    assert len(source.test) == 0 and source.class_names == NAMES[1:]


def test_a_long_listing_is_kept(root, monkeypatch, tmp_path):
    monkeypatch.setattr(index, "KEPT_FROM", 3)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    first = load_dataset(config(copy)).fingerprint
    monkeypatch.setattr(sets, "features_of", None)  # what listing anew would call
    assert load_dataset(config(copy)).fingerprint == first
    kept = {path.name for path in copy.rglob(".*.index.npz")}
    assert {".train.index.npz", ".test.index.npz"} <= kept, "one without labels, too"


def test_validation_images_without_labels_are_held_out_as_in_training(root, monkeypatch):
    """Names a split without labels as the one for validation."""
    monkeypatch.setattr(sets, "_splits_by_name", lambda _: {"train": "train", "validation": "test"})
    held_out = load_dataset(config(root)).validation
    images, _ = load_split(config(root), "validation")
    assert len(images) == len(held_out) > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "tfds:nothing"}, "tfds:nothing is not prepared in .*/nothing .`data.dir`.: prepare "
         "it by tfds build nothing --data_dir=.* --file_format=array_record"),
        ({"name": "tfds:"}, "`data.name` must be tfds:NAME or tfds:NAME/CONFIG; got 'tfds:'"),
        ({"name": "tfds:a/../b"}, "`data.name` must be tfds:NAME or tfds:NAME/CONFIG"),
        ({"splits": ("train",)}, "`data.splits` must be train=NAME, validation=NAME or test=NAME, each once"),
        ({"splits": ("train=a", "train=b")}, "`data.splits` must be train=NAME"),
        ({"splits": ("train=some",)}, "has no split 'some'; it has train, val, test"),
        ({"splits": ("test=val",)}, "has no train split; it has train, val, test: name one as train="),
        ({"splits": ("train=test",)}, "the test split of .* has no labels: name another"),
        ({"name": "digits", "image_size": 0, "splits": ("train=a",)}, "`data.splits` is for tfds:NAME only"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line(root, fields, message):
    with pytest.raises(InputError, match=message) as error:
        load_dataset(config(root, **fields))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda all: all.pop("image"), "must have one image, and has none; its features are file_name"),
        (lambda all: all.pop("label"), "must have one label, and has none; its features are file_name"),
        (lambda all: all.update(b=all["image"]), "must have one image, and has image, b"),
    ],
)  # fmt: skip
def test_a_set_without_image_or_label_is_none_for_us(tfrecord, tmp_path, change, message):
    shutil.copytree(tfrecord, tmp_path / "copy")
    path = next((tmp_path / "copy").rglob("features.json"))
    features = json.loads(path.read_text())
    change(features["featuresDict"]["features"])
    path.write_text(json.dumps(features))
    with pytest.raises(InputError, match=message):
        load_dataset(config(tmp_path / "copy"))


@pytest.mark.parametrize("damage", ["gone", "short", "garbled", "fewer"])
def test_damaged_files(root, tmp_path, damage):
    shutil.copytree(root, tmp_path / "copy")
    path = next((tmp_path / "copy").rglob("*-val.*-00000-of-00001"))
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "fewer":
        info = next((tmp_path / "copy").rglob("dataset_info.json"))
        info.write_text(info.read_text().replace('"6"', '"7"'))
    else:
        path.write_bytes(
            content[: len(content) // 2] if damage == "short" else content[:20] + bytes(len(content) - 20)
        )
    with pytest.raises(
        InputError, match="val split of .* cannot be read .*: delete that folder and prepare"
    ) as error:
        load_dataset(config(tmp_path / "copy"))
    assert "\n" not in str(error.value)


def test_more_files_than_a_process_may_open_at_first(array_record, tmp_path, monkeypatch):
    path = next(array_record.rglob("*-val.array_record-*"))
    paths = [Path(shutil.copy(path, tmp_path / str(i))) for i in range(200)]
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (150, most))
    try:
        found = records.ArrayRecords(paths, "image")
        assert len([*found.scan()]) == 200 * len(FILES["val"])
        assert found.read(200 * len(FILES["val"]) - 1, 0) in FILES["val"]
        more = records.ArrayRecords(paths, "image")
        room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - len(os.listdir("/dev/fd"))
        assert room >= records.OTHER_FILES - 1 or 0 <= most < 2000, "those that are open already count"
        del found, more
        monkeypatch.setattr(records, "allow_files", lambda more: None)
        resource.setrlimit(resource.RLIMIT_NOFILE, (150, most))
        with pytest.raises(OSError, match="Too many open files"):
            records.ArrayRecords(paths, "image")
        assert len([*records.TfRecords(paths, "image").paths]) == 200  # which stay closed
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))


def test_a_record_that_ends_within_its_label_is_damaged():
    assert records.integer(b"\x05", (0, 1)) == 5
    with pytest.raises(OSError, match="a record ends within a number"):
        records.integer(b"\x85", (0, 1))


def test_a_process_that_may_open_too_few_files_is_told(array_record, monkeypatch):
    def full(paths, feature):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setitem(records.FORMATS, "array_record", full)
    with pytest.raises(InputError, match=r"has 1 files, more than this process may open: raise the limit"):
        load_dataset(config(array_record))


def test_several_configs_must_be_told_apart(array_record, tmp_path):
    shutil.copytree(array_record, tmp_path / "copy")
    shutil.copytree(
        tmp_path / "copy" / "tiny_animals" / "small", tmp_path / "copy" / "tiny_animals" / "other"
    )
    with pytest.raises(
        InputError, match="several configs, tfds:tiny_animals/other, tfds:tiny_animals/small: name"
    ):
        load_dataset(config(tmp_path / "copy"))
    assert len(load_dataset(config(tmp_path / "copy", "tfds:tiny_animals/other")).train) == 15
