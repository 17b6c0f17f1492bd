"""Smaller copies: those that are small keep their bytes, the others their classes, names and looks."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from resnet.data.files import shrink
from resnet.data.files.layout import find_listings
from resnet.data.files.shrink import _smaller, shrink_images
from resnet.data.files.tars import growing
from resnet.errors import InputError
from tests.folder_cases import noted, save
from tests.stream_cases import LAYOUTS, TRAIN, VALIDATION, folders, numbered, one_tar, published, stream

SIDE = 30


@pytest.mark.parametrize("make", LAYOUTS)
def test_a_tar_of_smaller_images(tmp_path, make):
    seen, target = [], tmp_path / "small.tar"
    counts = shrink_images(make(tmp_path / "data"), target, SIDE, lambda *at: seen.append(at))
    large = [min(Image.open(io.BytesIO(data)).size) > SIDE for data in (TRAIN | VALIDATION).values()]
    assert (
        counts["images"] == len(large) == 36
        and counts["bytes"] < counts["bytes_before"]
        and counts["bad"] == 0
    )
    assert seen[-1] == ("small.tar", 36, 36) and 0 < sum(large) < 36
    source = tmp_path / "data" / "all.tar" if make is one_tar else tmp_path / "data"
    found, original = find_listings(target), find_listings(source)
    for split, listing in found.items():
        assert listing.classes == original[split].classes
        np.testing.assert_array_equal(listing.labels, original[split].labels)
        np.testing.assert_array_equal(listing.hashes, original[split].hashes)
        for index in range(len(listing)):
            before, after = original[split].read(index), listing.read(index)
            sizes = [Image.open(io.BytesIO(data)).size for data in (before, after)]
            if min(sizes[0]) <= SIDE:
                assert before == after
                continue
            assert min(sizes[1]) == SIDE
            assert abs(sizes[1][0] / sizes[1][1] - sizes[0][0] / sizes[0][1]) < 0.05
            whole = [Image.open(io.BytesIO(data)) for data in (before, after)]
            one, two = (np.asarray(image.resize((8, 8), Image.Resampling.BOX), int) for image in whole)
            assert np.abs(one - two).mean() < 12, "what JPEG may change"
    assert len(stream(target).train) == 24
    assert make is not published or len(numbered()[0]) == len(found["validation"])


def test_an_image_longer_than_a_jpeg_keeps_its_bytes(tmp_path):
    Image.new("L", (40, 68_000)).save(file := io.BytesIO(), "PNG")
    root = folders(tmp_path / "data", TRAIN | {"n01/long.png": file.getvalue()})
    counts = shrink_images(root, tmp_path / "small.tar", 39, lambda *_: None)
    assert (counts["images"], counts["bad"]) == (len(TRAIN) + len(VALIDATION) + 1, 0)
    listing = find_listings(tmp_path / "small.tar")["train"]
    assert any(listing.read(i) == file.getvalue() for i in range(len(listing)))


def test_pngs_keep_their_names_and_so_their_place_in_a_split(tmp_path):
    for label in ("a", "b"):
        for index in range(3):
            save(tmp_path / "data" / "train" / label / f"{index}.png", size=(40 + index, 44))
    shrink_images(tmp_path / "data", tmp_path / "small.tar", SIDE, lambda *_: None)
    found, original = (find_listings(tmp_path / name)["train"] for name in ("small.tar", "data"))
    np.testing.assert_array_equal(found.hashes, original.hashes)
    assert Image.open(io.BytesIO(found.read(0))).format == "JPEG"
    assert len(stream(tmp_path / "small.tar", validation=0.0).train) == 6


@pytest.mark.parametrize("cut", [0, 1, 700, 4000])
def test_what_was_interrupted_goes_on(tmp_path, monkeypatch, caplog, cut):
    root = folders(tmp_path / "data", TRAIN | {"n01/train_1.JPEG": b"no JPEG"})
    whole = shrink_images(root, tmp_path / "whole.tar", SIDE, lambda *_: None)
    target, part = tmp_path / "small.tar", tmp_path / "small.tar.part"

    def stopped(name, done, total):
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shrink_images(root, target, SIDE, stopped)
    os.truncate(part, part.stat().st_size - cut)  # as a process that is killed may leave it
    with pytest.raises(InputError, match=r"small.tar.part was begun from other images or with another size"):
        shrink_images(root, target, SIDE + 1, lambda *_: None)
    made = []
    caplog.set_level("INFO", logger="absl")
    monkeypatch.setattr(shrink, "_smaller", lambda *image: made.append(image) or _smaller(*image))
    assert shrink_images(root, target, SIDE, lambda *_: None) == whole
    assert f"going on with {part}" in caplog.messages and 14 < len(made) < 25
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "data", "small.tar", "small.tar.skipped.json", "whole.tar", "whole.tar.skipped.json"
    ]  # fmt: skip
    for split, listing in find_listings(tmp_path / "whole.tar").items():
        again = find_listings(target)[split]
        assert [again.read(i) for i in range(len(again))] == [listing.read(i) for i in range(len(listing))]


def test_two_processes_do_not_write_the_same_tar(tmp_path):
    root, target = folders(tmp_path / "data", TRAIN), tmp_path / "small.tar"
    with (
        growing(target, "the other") as other,
        pytest.raises(InputError, match=r"small.tar.part is being written by another process"),
    ):
        shrink_images(root, target, SIDE, other.add)


def test_a_tar_that_another_process_has_finished_meanwhile_stays(tmp_path, monkeypatch):
    root, target = folders(tmp_path / "data", TRAIN), tmp_path / "small.tar"

    def listed(source):
        target.write_bytes(b"whole")
        return find_listings(source)

    monkeypatch.setattr(shrink, "find_listings", listed)
    with pytest.raises(InputError, match="small.tar exists already: remove it, or name another tar"):
        shrink_images(root, target, SIDE, lambda *_: None)
    assert target.read_bytes() == b"whole" and not (tmp_path / "small.tar.part").exists()


def test_a_class_that_cannot_be_read_is_an_error(tmp_path):
    for index in range(3):
        save(tmp_path / "data" / "train" / "a" / f"{index}.png")
    (tmp_path / "data" / "train" / "b").mkdir()
    (tmp_path / "data" / "train" / "b" / "0.png").write_text("no PNG")
    with pytest.raises(InputError, match=r"train/b \(train\) holds no image that can be read"):
        shrink_images(tmp_path / "data", tmp_path / "small.tar", SIDE, lambda *_: None)
    assert [path.name for path in tmp_path.iterdir() if "tar" in path.name] == []


def test_what_cannot_be_read_is_counted_and_what_exists_is_kept(tmp_path, monkeypatch):
    root = folders(tmp_path / "data", TRAIN | {"n01/train_1.JPEG": b"no JPEG"})
    target = tmp_path / "small.tar"
    lines = noted(monkeypatch)
    assert shrink_images(root, target, SIDE, lambda *_: None)["bad"] == 1
    assert lines[-1].startswith(
        f"1 images are left out, see {target}.skipped.json: {root}/train/n01/train_1.JPEG "
    )
    assert "train_1.JPEG" in json.loads((tmp_path / "small.tar.skipped.json").read_text())["images"][0]
    assert len(find_listings(target)["train"]) == 23
    with pytest.raises(InputError, match="--to: .*small.tar exists already: remove it, or name another"):
        shrink_images(root, target, SIDE, lambda *_: None)
    with pytest.raises(InputError, match="`--short_side` must be at least 1; got 0"):
        shrink_images(root, tmp_path / "other.tar", 0, lambda *_: None)
    with pytest.raises(InputError, match=r"--to: the file to write must end in \.tar; got .*other\.zip'"):
        shrink_images(root, tmp_path / "other.zip", SIDE, lambda *_: None)
    with pytest.raises(InputError, match="--to: .* cannot be written"):
        shrink_images(root, tmp_path / "nowhere" / "other.tar", SIDE, lambda *_: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "small.tar", "small.tar.skipped.json"]
