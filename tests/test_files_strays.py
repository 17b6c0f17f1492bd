"""Images that are not where they should be, or not as listed: left out by name, or refused in one line."""

import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from resnet.data.files import index
from resnet.data.files.delivery import Pace
from resnet.data.files.layout import find_listings
from resnet.errors import InputError
from tests.folder_cases import noted, save
from tests.stream_cases import STATISTICS, TRAIN, VALIDATION, batches, digests, folders, one_tar, stream, tar


def refused(path, message):
    with pytest.raises(InputError, match=message) as raised:
        find_listings(path)
    assert "\n" not in str(raised.value)


def in_folders(files, *names):
    return {"/".join((*names, name)): content for name, content in files.items()}


@pytest.mark.parametrize("names", [("train", "n01"), ("x", "test", "n01")])
def test_images_in_folders_below_a_class_are_refused(tmp_path, names):
    path = tar(tmp_path / "a.tar", in_folders(TRAIN, "train") | in_folders(VALIDATION, *names))
    refused(
        path, r"a.tar: \S*/n0\d/val_\d.JPEG lies in a folder below its class: put it into <split>/<class>/"
    )


def test_a_class_that_is_named_like_a_split_is_refused(tmp_path):
    files = TRAIN | {"dev/0.JPEG": TRAIN["n01/train_0.JPEG"]}
    refused(
        tar(tmp_path / "a.tar", files),
        r"the validation folder lies beside class folders .n01, .* rename it if it is a class",
    )
    assert "dev" in find_listings(tar(tmp_path / "b.tar", in_folders(files, "train")))["train"].classes


def test_a_class_whose_name_is_no_utf8_is_refused(tmp_path):
    path = tar(tmp_path / "a.tar", TRAIN | {"caf\udce9/0.JPEG": TRAIN["n01/train_0.JPEG"]})
    refused(path, r"the name of class folder '.*a.tar/caf\\udce9' is no UTF-8: rename it")


def test_links_in_a_tar_are_named(tmp_path, monkeypatch):
    root, warnings = folders(tmp_path / "data"), noted(monkeypatch)
    for name, link in (("hard", "hardlink_to"), ("soft", "symlink_to")):
        getattr(root / "train" / "n01" / f"{name}.JPEG", link)(root / "train" / "n01" / "train_0.JPEG")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(root, ".")
    assert len(find_listings(tmp_path / "a.tar")["train"]) == len(TRAIN)
    assert any("ignoring 2 links, e.g. " in text and "--dereference" in text for text in warnings)


def test_images_beside_class_folders_are_named(tmp_path, monkeypatch):
    root, warnings = folders(tmp_path / "data"), noted(monkeypatch)
    (root / "train" / "loose.JPEG").write_bytes(TRAIN["n01/train_0.JPEG"])
    assert len(find_listings(root)["train"]) == len(TRAIN)
    assert f"{root / 'train'}: ignoring 1 images in no class folder, e.g. loose.JPEG" in warnings


@pytest.mark.parametrize("storage", ["stream", "memory"])
def test_files_that_are_overwritten_are_listed_anew(tmp_path, monkeypatch, storage):
    """The folders' times stay as they are."""
    monkeypatch.setattr(index, "KEPT_FROM", 1)
    root, fields = folders(tmp_path / "data"), {"random_resized_crop": 0, "eval_crop": 0, "storage": storage}
    before = stream(root, **fields)
    paths = sorted(root.rglob("*.JPEG"))
    for path in paths:
        path.write_bytes(path.read_bytes() + b"\0")
    after = stream(root, **fields)
    assert after.fingerprint != before.fingerprint and not len(after.skipped)
    # One that the look at some of them does not meet.
    monkeypatch.setattr(index, "LOOKED_AT", 1)
    path = paths[len(paths) // 2]
    path.write_bytes(path.read_bytes() + b"\0")
    folder = path.parents[1]
    message = f"{path.name} has .* when it was listed: put it back, or run `touch {folder}` for a new list"
    if storage == "memory":
        with pytest.raises(InputError, match=message):
            stream(root, **fields)
    else:
        data = stream(root, bad_limit=0.5, **fields)
        for split in (data.train, data.validation):
            list(split.padded(8, Pace()))
        [reason] = data.skipped
        assert re.search(message, reason)
    folder.touch()
    anew = stream(root, **fields)
    assert anew.fingerprint != after.fingerprint and not len(anew.skipped)


def test_bad_images_of_one_name_are_told_apart(tmp_path):
    """Each layout may have a file of the same class and name for training and for evaluation."""
    bad, good = dict.fromkeys(list(TRAIN)[:3], b"no JPEG"), {name: TRAIN[name] for name in list(TRAIN)[:3]}
    files = in_folders(TRAIN | bad, "train") | in_folders(VALIDATION | good, "val")
    data = stream(tar(tmp_path / "a.tar", files), bad_limit=0.5)
    fresh = digests(batches(data, range(4, 8)))
    counted = [sum(mask.sum() for *_, mask in data.validation.padded(5, Pace())) for _ in range(2)]
    assert counted == [len(VALIDATION) + 3] * 2 and len(data.skipped) == 3
    assert digests(batches(data, range(8))[4:]) == fresh


def test_bad_images_of_evaluation_are_no_training_images(tmp_path):
    bad = dict.fromkeys(list(VALIDATION)[:9], b"no JPEG")
    data = stream(folders(tmp_path, validation=VALIDATION | bad), bad_limit=0.1)
    assert sum(mask.sum() for *_, mask in data.validation.padded(5, Pace())) == 3
    batches(data)


def test_statistics_count_bad_training_images(tmp_path):
    root = folders(tmp_path, TRAIN | dict.fromkeys(list(TRAIN)[:6], b"no JPEG"))
    nothing = dict.fromkeys(STATISTICS, ())
    with pytest.raises(
        InputError, match="3 of 24 training images cannot be read, more than .data.bad_limit."
    ):
        stream(root, bad_limit=0.1, **nothing)
    data = stream(root, bad_limit=0.5, **nothing)
    assert np.isfinite(data.mean).all()
    batches(data)
    with pytest.raises(InputError, match="none of 24 training images can be read"):
        stream(folders(tmp_path / "all", dict.fromkeys(TRAIN, b"")), bad_limit=1.0, **nothing)


def test_images_that_are_in_a_tar_twice_are_told(tmp_path, monkeypatch):
    path, lines = one_tar(tmp_path), noted(monkeypatch)
    with tarfile.open(path) as archive:
        name = archive.getnames()[-1]
        content = archive.extractfile(name).read()
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    stream(path)
    short = "/".join(name.split("/")[-2:])
    said = f"1 names of images are there more than once in their class, and each counts: {short}"
    assert any(line.endswith(said) for line in lines)


def test_classes_that_look_alike_are_told(tmp_path):
    for split, name in (("train", "caf\u00e9"), ("test", "cafe\u0301")):
        for label in (name, "other"):
            save(tmp_path / split / label / "0.png")
    refused(tmp_path, "Unicode has two forms of accents: rename them")


def test_a_hidden_file_that_is_named_like_a_tar_of_a_class_is_no_image(tmp_path):
    """As macOS leaves them beside the tars of ImageNet's classes."""
    inner = tar(tmp_path / "n01.tar", {"0.JPEG": TRAIN["n01/train_0.JPEG"]}).read_bytes()
    files = {"train/n01.tar": inner, "train/n02.tar": inner, "train/._n01.tar": b"\0\5\x16\7" + bytes(508)}
    assert len(find_listings(tar(tmp_path / "all.tar", files))["train"]) == 2


def test_folders_are_listed_from_within_and_without_a_home(tmp_path, monkeypatch):
    """An index is named after the folder, which "." does not name, and may lie in the user's cache."""

    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(index, "KEPT_FROM", 1)
    monkeypatch.setattr(index.Path, "expanduser", homeless)
    monkeypatch.chdir(folders(tmp_path / "data") / "train")
    assert len(find_listings(Path("."))["train"]) == len(TRAIN)
    assert [path.name for path in (tmp_path / "data").glob(".*.npz")] == [".train.index.npz"]


def test_splits_in_a_tar_that_is_named_like_one_of_them_are_told(tmp_path, monkeypatch):
    lines = noted(monkeypatch)
    both = tar(tmp_path / "train.tar", in_folders(TRAIN, "train") | in_folders(VALIDATION, "val"))
    assert set(find_listings(tmp_path)) == {"train"}
    unread = (
        f"{both} has validation images too, which are not read: to read them, name this tar as `data.dir`"
    )
    assert unread in lines


def test_a_kept_listing_stands_for_no_split(tmp_path, monkeypatch):
    """A tar whose paths name no split holds the training images, or in a folder those that its name says."""
    monkeypatch.setattr(index, "KEPT_FROM", 1)
    alone = tar(tmp_path / "val.tar", VALIDATION)
    tar(tmp_path / "train.tar", TRAIN)
    assert set(find_listings(alone)) == {"train"}
    assert set(find_listings(tmp_path)) == {"train", "validation"}
    assert set(find_listings(alone)) == {"train"}


def test_test_images_without_labels_are_not_read(tmp_path, monkeypatch):
    lines = noted(monkeypatch)
    folders(tmp_path)
    for name, content in list(VALIDATION.items())[:2]:
        path = tmp_path / "test" / name.split("/")[1]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    assert set(find_listings(tmp_path)) == {"train", "validation"}
    assert len(lines) == 1 and re.match(r"the test images are not read: .* lies in no class folder", lines[0])
    with pytest.raises(InputError, match="images without labels belong elsewhere"):
        find_listings(tmp_path, "test")


def test_test_images_without_labels_in_a_tar_of_all_splits_are_not_read(tmp_path, monkeypatch):
    lines = noted(monkeypatch)
    files = {f"{split}/{name}": content for split in ("train", "val") for name, content in VALIDATION.items()}
    unlabelled = {f"test/{name.split('/')[1]}": content for name, content in VALIDATION.items()}
    found = find_listings(tar(tmp_path / "all.tar", files | unlabelled))
    assert set(found) == {"train", "validation"}
    assert any(re.match(r"the test images are not read: .* lies in no class folder", line) for line in lines)
    with pytest.raises(InputError, match="images without labels belong elsewhere"):
        find_listings(tar(tmp_path / "test.tar", {"a.jpg": b"", "b.jpg": b""}))


def test_images_a_folder_below_their_class_are_told(tmp_path):
    files = {name.replace("/", "/images/"): content for name, content in TRAIN.items()}
    refused(folders(tmp_path, files, {}), r"n01 holds no image \(.*\): move those of images into it")
