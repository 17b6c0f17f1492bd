"""Image files of every sort: each is read as what it is, or refused by name; nothing hangs."""

import collections
import json
import os
import time
from random import Random

import numpy as np
import pytest
from absl import logging

from resnet.config import Config
from resnet.data.config import DataConfig
from resnet.data.datasets import load_dataset
from resnet.data.files.crops import Fitted
from resnet.data.files.decoders import decode_cut
from resnet.data.files.resident import decode_images
from resnet.data.images import decode_image
from resnet.errors import InputError
from resnet.runs.open_run import note_skipped, open_workdir
from resnet.runs.task import task_of
from tests.images_cases import BAD, BROKEN, EITHER, NO_FILES, READABLE, SIDE, cases, make, picture, written
from tests.tally import record, tries

SECONDS = 10.0  # more for one file is a hang


def fitted(size):
    """How an image folder with `data.image_size` decodes."""
    return lambda file, name: decode_cut(file, name, Fitted(size), "pillow")


def outcome(path, expected, size=0):
    """ "image" or "error"; fails where a file becomes anything else."""
    began = time.monotonic()
    try:
        image = decode_images([path], [str(path)], fitted(size) if size else decode_image)[0][0]
    except InputError as error:
        message = str(error)
        assert message.startswith(str(path)) and "\n" not in message and len(message) < 500
        assert "or remove it" in message
        found = "error"
    else:
        assert image.dtype == np.uint8 and image.shape[-1] == 3
        assert not size or image.shape == (size, size, 3)
        found = "image"
    assert time.monotonic() - began < SECONDS
    if isinstance(expected, np.ndarray):
        assert found == "image" and image.shape == expected.shape
        # What JPEG may change, and what one bit of a mode of two colours may.
        assert np.abs(image.astype(int) - expected).mean() < 12
    else:
        assert found == {BAD: "error", EITHER: found, None: "image"}[expected]
    return found


@pytest.mark.thorough
def test_each_is_an_image_or_a_clear_error(tmp_path):
    counts = collections.Counter()
    for index, (case, seed) in enumerate(cases(tries(64))):
        path, expected = make(case, tmp_path / f"{index}_{case.__name__}", seed)
        counts[case.__name__, outcome(path, expected)] += 1
        if isinstance(expected, np.ndarray):
            outcome(path, None, size=16)
    assert {name for name, _ in counts} == {case.__name__ for case in [*READABLE, *BROKEN, *NO_FILES]}
    found = collections.Counter()
    for (_, ended), n in counts.items():
        found[ended] += n
    happens = "read as what they are, or refused by an error that names the file"
    record("images", "image files of every sort, many of them broken", happens, sum(counts.values()), found)


@pytest.fixture
def root(tmp_path):
    """Two classes in train/ and test/: eight good images and four bad files among them."""
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for index in range(4):
                (folder / f"{index}.png").write_bytes(written(picture(Random(index + 9 * label)), "PNG"))
    for index, case in enumerate((BROKEN[0], BROKEN[1], NO_FILES[0])):
        make(case, tmp_path / "train" / "cat" / f"a{index}", 0)
    make(BROKEN[3], tmp_path / "test" / "dog" / "z", 0)
    return tmp_path


def data(root, **fields):
    return DataConfig(name="image_folder", dir=str(root), validation=0.25, **fields)


def test_by_default_the_first_bad_image_is_an_error(root):
    with pytest.raises(InputError, match=f"{root}/train/cat/a0.jpg is not a JPEG or PNG image"):
        load_dataset(data(root))


def test_bad_images_are_skipped_counted_and_listed(root, monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: lines.append(text % values))
    dataset = load_dataset(data(root, on_bad_image="skip"))
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (6, 2, 8)
    assert [message.split()[0].rpartition("/")[2] for message in dataset.skipped][:1] == ["a0.jpg"]
    assert len(dataset.skipped) == 4 and "z" in dataset.skipped[-1]
    assert lines[0].startswith(f"skipping 4 of 20 images, e.g. {root}/train/cat/a0.jpg is not a JPEG")
    for path in [*(root / "train" / "cat").glob("a*"), *(root / "test" / "dog").glob("z*")]:
        path.unlink()
    without = load_dataset(data(root))
    np.testing.assert_array_equal(without.train.images, dataset.train.images)
    np.testing.assert_array_equal(without.test.labels, dataset.test.labels)


def test_the_run_says_what_it_skipped(root, tmp_path):
    config = Config(data=data(root, on_bad_image="skip", image_size=8))
    config.train.batch_size = 2
    dataset = load_dataset(config.data)
    open_workdir(config, tmp_path / "run", task_of(dataset), "", [config.seed])
    note_skipped(tmp_path / "run", dataset.skipped)
    listed = json.loads((tmp_path / "run" / "skipped_images.json").read_text())
    assert listed["n"] == len(listed["images"]) == 4


def test_a_class_of_which_nothing_is_left(root):
    for path in (root / "test" / "dog").glob("?.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=f"class folder {root}/test/dog holds no image that can be read"):
        load_dataset(data(root, on_bad_image="skip"))
    with pytest.raises(InputError, match="none of 1 images can be read: x is not a JPEG"):
        decode_images([b""], ["x"], skip=True)


def test_another_size_is_no_bad_image(root):
    (root / "train" / "dog" / "9.png").write_bytes(written(picture(Random(0)).resize((7, 5)), "PNG"))
    with pytest.raises(InputError, match=f"9.png is 7x5 pixels, but {root}/train/cat/0.png is {SIDE}x{SIDE}"):
        load_dataset(data(root, on_bad_image="skip"))


def test_what_pillow_warns_of_is_named(monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: lines.append(text % values))
    image = written(picture(Random(0)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12")
    decode_images([image] * 3, ["a", "b", "c"])
    assert len(lines) == 1 and lines[0].startswith("3 images are read with a warning, e.g. a: Corrupt EXIF")


def test_folders_that_cannot_be_listed_and_links_in_circles(root, monkeypatch):
    (root / "train" / "cat" / "again").symlink_to(root / "train")
    (root / "train" / "loop").symlink_to("loop")
    assert len(load_dataset(data(root, on_bad_image="skip")).train) == 6
    (root / "train" / "loop").unlink()

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"folder .* cannot be read \(Permission denied\)"):
        load_dataset(data(root))


def test_only_image_folders_skip():
    with pytest.raises(InputError, match="`data.on_bad_image` is for image_folder and tfds:NAME"):
        DataConfig(name="digits", on_bad_image="skip").check()
    with pytest.raises(InputError, match="`data.on_bad_image` must be one of error, skip"):
        DataConfig(on_bad_image="ignore").check()
