"""Folders and tars of every layout hold the same images; each fault is one clear line before work starts."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest

from resnet.data.files import index, layout
from resnet.data.files.layout import find_listings
from resnet.data.files.listing import Listing
from resnet.errors import InputError
from tests.folder_cases import noted
from tests.stream_cases import (
    CLASSES,
    LAYOUTS,
    TRAIN,
    VALIDATION,
    config,
    folders,
    numbered,
    one_tar,
    published,
    stream,
    tar,
    two_tars,
)


@pytest.mark.parametrize("make", LAYOUTS)
def test_each_layout_gives_the_same_files_in_the_same_order(tmp_path, make):
    found = find_listings(make(tmp_path))
    assert set(found) == {"train", "validation"}
    for split, files in (("train", TRAIN), ("validation", VALIDATION)):
        listing = found[split]
        assert listing.classes == CLASSES and len(listing) == len(files)
        contents = [listing.read(i) for i in range(len(listing))]
        if make is published and split == "validation":
            flat, labels = numbered()
            files = {
                f"{label}/{name}": data for (name, data), label in zip(flat.items(), labels, strict=True)
            }
        assert contents == [files[name] for name in sorted(files)]
        assert [CLASSES[label] for label in listing.labels] == [name.split("/")[0] for name in sorted(files)]
        assert all(isinstance(name, str) and str(tmp_path) in name for name in map(listing.name, range(3)))


@pytest.mark.parametrize("make", [one_tar, two_tars])
def test_fingerprint_and_held_out_images_are_those_of_folders(tmp_path, make):
    one, other = stream(folders(tmp_path / "a")), stream(make(tmp_path / "b"))
    assert one.fingerprint == other.fingerprint
    np.testing.assert_array_equal(one.train.labels, other.train.labels)
    np.testing.assert_array_equal(one.train.images, other.train.images)


def test_validation_is_held_out_of_a_tar_without_splits_by_name(tmp_path):
    data = stream(tar(tmp_path / "mine.tar", TRAIN), validation=0.25)
    assert (
        len(data.train) + len(data.validation) == len(TRAIN) and len(data.validation) and len(data.test) == 0
    )
    folder = folders(tmp_path / "a", TRAIN, {})
    same = stream(folder, validation=0.25)
    np.testing.assert_array_equal(same.train.files, data.train.files)


def test_chosen_classes_and_a_limit_take_no_copy(tmp_path):
    data = stream(one_tar(tmp_path), classes=("n03", "n01"), train_limit=7)
    assert data.class_names == ("n03", "n01") and len(data.train) == 7 and len(data.validation) == 8
    assert set(np.bincount(data.train.labels)) <= {3, 4}
    name = data.train.listing.name(int(data.train.entries[0]))
    assert name.startswith(("n03", "n01")[data.train.labels[0]])


def test_kaggles_layout_and_its_list(tmp_path):
    folders(tmp_path, TRAIN, {})
    flat, labels = numbered()
    for name, content in flat.items():
        (tmp_path / "val" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "val" / name).write_bytes(content)
    rows = [f"{name.removesuffix('.JPEG')},{label} 1 2 3 4" for name, label in zip(flat, labels, strict=True)]
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n" + "\n".join(rows[::-1]) + "\n"
    )
    found = find_listings(tmp_path)["validation"]
    assert [CLASSES[label] for label in found.labels] == sorted(labels)
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(rows)[:-40])
    with pytest.raises(InputError, match=r"LOC_val_solution.csv cannot be read as a list of labels"):
        find_listings(tmp_path)


# The index


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Indexes are kept however few the images; counts how often something is listed."""
    monkeypatch.setattr(index, "KEPT_FROM", 0)
    monkeypatch.setattr(index, "CACHE", str(tmp_path / "cache"))
    listed = []
    monkeypatch.setattr(
        layout.logging, "info", lambda text, *_: listed.append(text) if "kept as" in text else None
    )
    return listed


@pytest.mark.parametrize("make", LAYOUTS)
def test_a_place_is_listed_once_until_it_changes(tmp_path, kept, make):
    root = make(tmp_path / "data")
    first = find_listings(root)
    assert len(kept) == (1 if make is one_tar else 2)
    again = find_listings(Path(os.path.relpath(root)))
    assert len(kept) == (1 if make is one_tar else 2)
    for split, listing in first.items():
        for name in index.ARRAYS:
            np.testing.assert_array_equal(getattr(again[split], name), getattr(listing, name))
        assert again[split].read(3) == listing.read(3)
    if make is folders:
        (root / "train" / "n02" / "new.JPEG").write_bytes(TRAIN["n01/train_0.JPEG"])
    else:
        path = next(root.rglob("*train*.tar"), root)
        os.utime(path, ns=(1, 1))
    assert len(find_listings(root)["train"]) == len(TRAIN) + (make is folders)
    assert len(kept) == (2 if make is one_tar else 3)


def test_an_index_that_is_damaged_is_made_again(tmp_path, kept):
    root = one_tar(tmp_path / "data")
    find_listings(root)
    path = next(root.parent.glob(".*.npz"))
    for content in (b"", b"PK\x03\x04", path.read_bytes()[:500]):
        path.write_bytes(content)
        assert len(find_listings(root)["train"]) == len(TRAIN)
    assert len(kept) == 4


def test_no_flipped_bit_of_an_index_counts(tmp_path, kept):
    root = one_tar(tmp_path / "data")
    hashes = find_listings(root)["train"].hashes
    path = next(root.parent.glob(".*.npz"))
    whole = path.read_bytes()
    for place in range(len(whole) - 600, len(whole), 2):  # the directory at the end
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        np.testing.assert_array_equal(find_listings(root)["train"].hashes, hashes)


def test_an_index_lies_in_the_cache_where_the_data_cannot_be_written(tmp_path, kept, monkeypatch):
    root, replace = one_tar(tmp_path / "data"), os.replace

    def refuse(source, target):
        if str(target).startswith(str(root.parent)):
            raise PermissionError(13, "read-only")
        replace(source, target)

    monkeypatch.setattr(index.os, "replace", refuse)
    find_listings(root)
    find_listings(root)
    assert len(kept) == 1 and len(list((tmp_path / "cache").glob("*.npz"))) == 1


def test_a_million_entries_load_in_a_moment(tmp_path):
    """Loading takes less processor time than hashing half of the names, which listing does one by one."""
    n = 1_281_167
    wide, names = np.arange(n, dtype=np.int64), np.full(28 * n, ord("n"), np.uint8)
    classes = tuple(f"n{label:08d}" for label in range(1000))
    labels, hashes = (wide % 1000).astype(np.int32), wide.astype(np.uint64)
    listing = Listing(tmp_path / "x.tar", classes, labels, wide, wide, names, 28 * (wide + 1), hashes)
    index.kept_listings(tmp_path / "x.tar", [1], lambda: {"train": listing})
    began = time.process_time()
    for number in range(n // 2):
        hashlib.blake2b(b"%028d" % number, digest_size=8).digest()
    hashed = time.process_time()
    again = index.kept_listings(tmp_path / "x.tar", [1], lambda: pytest.fail("listed again"))["train"]
    assert time.process_time() - hashed < hashed - began and len(again) == n
    assert sum(getattr(again, name).nbytes for name in index.ARRAYS) < 200e6


# Bad input


def refused(root, message, **fields):
    with pytest.raises(InputError, match=message) as raised:
        stream(root, **fields)
    assert "\n" not in str(raised.value)


def test_a_tar_that_is_cut_anywhere(tmp_path):
    whole = one_tar(tmp_path / "a").read_bytes()
    path = tmp_path / "cut.tar"
    for size in (
        100,
        512,
        700,
        len(whole) // 2,
        len(whole) // 2 // 512 * 512,
        len(whole.rstrip(b"\0")) - 2000,
    ):
        path.write_bytes(whole[:size])
        refused(path, f"{path} is no whole tar .*: fetch it again")


def test_a_tar_of_tars_whose_inner_tar_is_damaged(tmp_path):
    root = published(tmp_path)
    path = root / "ILSVRC2012_img_train.tar"
    inner = tar(tmp_path / "x.tar", {"a.JPEG": TRAIN["n01/train_0.JPEG"]}).read_bytes()[:1024]
    tar(path, {"n01.tar": inner, "n02.tar": inner})
    refused(root, "ILSVRC2012_img_train.tar is no whole tar .*, in n0[12].tar")


@pytest.mark.parametrize(("mode", "command"), [("w:gz", "gunzip"), ("w:bz2", "bunzip2"), ("w:xz", "xz -d")])
def test_a_compressed_tar_says_how_to_unpack_it(tmp_path, mode, command):
    path = tar(tmp_path / "mine.tar", TRAIN, mode)
    refused(path, f"{path} is compressed, .*: unpack it first .{command}.")


def test_what_is_no_tar_or_holds_no_image(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"<html>" * 1000)
    refused(tmp_path / "x.tar", "x.tar is no whole tar")
    refused(tar(tmp_path / "y.tar", {"a/b.txt": b"x"}), "y.tar holds no image .(.jpg|.JPEG)?")
    refused(tmp_path / "z.tar", "there is no folder or tar .*z.tar")


def test_labels_that_do_not_fit(tmp_path):
    root = published(tmp_path)
    path = root / "imagenet_2012_validation_synset_labels.txt"
    labels = path.read_text().split()
    path.write_text("\n".join(labels[:-1]))
    refused(root, f"{path} has 11 labels, and {root}/ILSVRC2012_img_val.tar 12 images")
    path.write_text("\n".join(["n09", *labels[1:]]))
    refused(
        root, "ILSVRC2012_img_val.tar .validation. must hold the same class folders as train; unknown: n09"
    )
    path.unlink()
    refused(root, r"validation_labels.txt has 50,000 labels, and .* 12 images")


def test_images_in_no_class(tmp_path):
    refused(
        tar(tmp_path / "a.tar", {"a.jpg": TRAIN["n01/train_0.JPEG"]}), "image a.jpg lies in no class folder"
    )


def test_two_places_for_one_split_and_differing_classes(tmp_path):
    two_tars(tmp_path)
    tar(tmp_path / "valid.tar", VALIDATION)
    refused(tmp_path, "valid.tar may both hold the validation images: keep one of them")
    (tmp_path / "valid.tar").unlink()
    tar(tmp_path / "val.tar", {name: data for name, data in VALIDATION.items() if "n02" not in name})
    refused(tmp_path, "val.tar .validation. must hold the same class folders as train; missing: n02")
    tar(tmp_path / "val.tar", {f"train/{name}": data for name, data in TRAIN.items()})
    refused(tmp_path, "val.tar is read as the validation images, but its folders are named train: rename")


def test_strangers_in_a_tar_are_left_out_and_named(tmp_path, monkeypatch):
    warnings = noted(monkeypatch)
    files = {f"x/train/{name}": data for name, data in TRAIN.items()}
    path = tar(
        tmp_path / "a.tar", files | {"x/README.md": b"", "._x/n01/a.jpg": b"", "x/train/n01/a.txt": b""}
    )
    assert len(find_listings(path)["train"]) == len(TRAIN)
    assert warnings[0] == f"{path}: ignoring 2 files not in .jpg, .jpeg, .png, e.g. x/README.md"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"storage": "disk"}, "`data.storage` must be one of auto, memory, stream; got 'disk'"),
        ({"storage": "memory"}, "`data.storage` must be auto or stream where images are cut anew"),
        ({"image_size": 0}, "`data.image_size` must be given where images are cut anew"),
        ({"random_resized_crop": 1.5}, "`data.random_resized_crop` must be between 0 and 1; got 1.5"),
        ({"eval_crop": -0.1}, "`data.eval_crop` must be between 0 and 1; got -0.1"),
        (
            {"normalization": "pixel_mean", "eval_size": 24},
            "pixel_mean has a mean for each of",
        ),
        ({"eval_size": -1}, "`data.eval_size` must be at least 0; got -1"),
        ({"bad_limit": 2.0}, "`data.bad_limit` must be between 0 and 1; got 2.0"),
        ({"memory_gb": -1.0}, "`data.memory_gb` must be at least 0; got -1.0"),
    ],
)
def test_bad_fields(tmp_path, fields, message):
    refused(folders(tmp_path), message, **fields)


def test_fields_of_files_mean_nothing_elsewhere():
    for field, value in (("eval_crop", 0.5), ("storage", "stream"), ("random_resized_crop", 0.1)):
        other = config("/x", **{field: value})
        other.name, other.image_size = "digits", 0
        with pytest.raises(InputError, match="is for image_folder and tfds:NAME, and must be .* for digits"):
            other.check()
