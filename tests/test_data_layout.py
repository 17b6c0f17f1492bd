"""Which folders of an image folder are which split, and which are not read."""

import os
import shutil
import subprocess

import numpy as np
import pytest

from resnet.analysis.subject import of_config
from resnet.config import Config
from resnet.data.config import DataConfig
from resnet.data.datasets import load_split
from resnet.data.files.layout import find_listings
from resnet.errors import InputError
from resnet.runs.task import check_apart_from_images
from resnet.studies.launch import launch
from resnet.studies.study import Arm, Study
from resnet.training.loop import train
from tests.folder_cases import load, noted, refused, save, two_classes
from tests.test_pages import BLOCK, ROOT


@pytest.fixture
def root(tmp_path):
    return two_classes(tmp_path)


@pytest.fixture
def warnings(monkeypatch):
    return noted(monkeypatch)


@pytest.mark.parametrize("name", ["validation", "val", "valid", "dev", "Val"])
def test_own_validation_folder_is_used_and_nothing_held_out(root, name):
    save(root / name / "cat" / "a.png")
    save(root / name / "dog" / "a.png")
    data = load(root)
    assert (len(data.train), len(data.validation)) == (8, 2)


def test_other_names_of_train_and_test(root):
    before = load(root)
    (root / "train").rename(root / "Training")
    (root / "test").rename(root / "testing")
    data = load(root)
    assert data.fingerprint == before.fingerprint
    np.testing.assert_array_equal(data.validation.images, before.validation.images)


def test_two_folders_of_one_split(root):
    (root / "val").mkdir()
    (root / "dev").mkdir()
    refused(root, f"{root}/dev and {root}/val may both hold the validation images: keep one of them")


def test_folders_that_are_not_read_are_named(root, warnings):
    for name in ("unlabeled", "train/cat/more", ".git"):
        (root / name).mkdir()
    load(root, validation=0.0)
    assert warnings == [
        f"folders that are not read: {root}/unlabeled",
        f"folders that are not read: {root}/train/cat/more",
    ]


@pytest.mark.parametrize("inside", ["", "runs/a", "train", "train/cat", "test/a/b"])
@pytest.mark.parametrize("splits", [True, False])
def test_a_run_does_not_lie_among_the_classes_of_its_images(tmp_path, splits, inside):
    root = two_classes(tmp_path / "all") if splits else two_classes(tmp_path / "all") / "train"
    data, workdir = DataConfig(name="image_folder", dir=str(root)), root / inside
    if splits and inside in ("", "runs/a"):
        check_apart_from_images(data, workdir)
    else:
        with pytest.raises(
            InputError, match=f"workdir {workdir} lies among the class folders of .*elsewhere"
        ):
            train(Config(data=data), workdir)
        assert not (workdir / "config.json").exists() and not (root / "runs").exists()
    for other in (tmp_path, tmp_path / "all2"):
        check_apart_from_images(data, other)
    check_apart_from_images(DataConfig(name="digits", dir=str(root)), workdir)
    check_apart_from_images(data, root / ".runs" / "a")
    (root / "backup.tar").touch()  # which is no split
    if not splits:
        with pytest.raises(InputError, match="lies among the class folders"):
            check_apart_from_images(data, workdir)


def test_a_study_does_not_lie_among_the_classes_of_its_images(root):
    base = Config(data=DataConfig(name="image_folder", dir=str(root / "train"), image_size=8))
    with pytest.raises(InputError, match=f"workdir {root}/train/study lies among the class folders"):
        launch(Study("Classes", base, {"identity": Arm()}, "identity"), root / "train" / "study")
    assert not (root / "train" / "study").exists()


def test_class_folders_of_other_kinds_of_files_are_named(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.heic").touch()
    refused(
        tmp_path,
        f"there is no folder {tmp_path}/train, nor images in folders: {tmp_path}/.*/a.heic is none "
        r"of .jpg, .jpeg, .png; `data.dir` must hold train/.*, or <class>/\*.jpg, or train.tar and test.tar",
    )


def test_files_beside_images_are_not_taken_for_other_images(root):
    (root / "train" / "labels.txt").touch()
    shutil.rmtree(root / "test")
    with pytest.raises(InputError, match=f"there is no folder {root}/test; `data.dir` must hold"):
        load_split(DataConfig(name="image_folder", dir=str(root)), "test")


def test_tars_and_archives_that_are_not_read_are_named(root, warnings):
    for name in ("extra.tar", "val.tar.gz", "dev.zip", "train.tar.skipped.json", "labels.csv"):
        (root / name).touch()
    load(root, validation=0.0)
    assert warnings == [
        f"tars that are not read: {root}/extra.tar",
        f"files named like a split, but no plain tars, that are not read: {root}/dev.zip, {root}/val.tar.gz",
    ]
    shutil.rmtree(root / "train")
    (root / "train.tar.gz").touch()
    (root / "train.tar.skipped.json").unlink()
    refused(
        root,
        f"there is no folder {root}/train, and {root}/train.tar.gz is no plain tar: unpack it; "
        r"`data.dir` must hold train/.*, or train.tar and test.tar",
    )


def test_a_class_folder_that_is_a_broken_link_is_named(root, warnings):
    (root / "train" / "eel").symlink_to(root / "away")
    load(root, validation=0.0)
    assert warnings == [f"ignoring 1 files not in .jpg, .jpeg, .png, e.g. {root}/train/eel"]


def test_without_test_images(root, warnings):
    (root / "test").rename(root / ".test")
    data = load(root)
    assert (len(data.test), data.test.images.shape[1:]) == (0, (6, 6, 3))
    assert warnings[0] == f"{root} has no test images: results will be those of the validation split"
    assert data.fingerprint.keys() == {"train"}


def test_without_test_images_another_split_is_named(root):
    (root / "test").rename(root / ".test")
    remedy = "ask of another split, by --split=validation of resnet evaluate or --data=validation of"
    with pytest.raises(InputError, match=f"no folder {root}/test; `data.dir` must hold .*, or {remedy}"):
        load_split(DataConfig(name="image_folder", dir=str(root)), "test")
    config = Config(data=DataConfig(name="image_folder", dir=str(root), validation=0.25))
    with pytest.raises(InputError, match=f"'image_folder' has no images in its test split; {remedy}"):
        of_config("net", config, "test")
    with pytest.raises(InputError, match=r"no folder .*/validation; .*test\.tar$"):
        find_listings(root, "validation", alone=True)  # of published protocols, which ask for this split


def test_chosen_classes_alone_are_read_and_skipped(root, warnings):
    for name in ("cat", "dog", "emu"):
        save(root / "train" / name / "8.png")
        save(root / "test" / name / "8.png")
        (root / "train" / name / "9.png").write_bytes(b"")
    data = load(root, classes=("emu", "cat"), on_bad_image="skip")
    assert data.class_names == ("emu", "cat") and len(data.test) == 4
    assert [message.split()[0] for message in data.skipped] == [
        f"{root}/train/{name}/9.png" for name in ("cat", "emu")
    ]
    refused(root, "`data.classes`: image_folder has no class 'yak'; .* cat, dog, emu", classes=("emu", "yak"),
            on_bad_image="skip")  # fmt: skip


def test_names_that_are_no_utf8(root):
    file = os.fsencode(root / "train" / "cat") + b"/\xff.png"
    os.rename(root / "train" / "cat" / "1.png", file)
    assert len(load(root, validation=0.0).train) == 8
    for split in ("train", "test"):
        os.rename(root / split / "cat", os.fsencode(root / split) + b"/c\xff")
    refused(root, r"the name of class folder '.*/train/c\\udcff' is no UTF-8: rename it")


def test_the_lines_on_the_page_move_tiny_imagenet_to_where_it_is_read(tmp_path):
    wordnet, answers = ("n01443537", "n01629819"), []
    for label, name in enumerate(wordnet):
        for index in range(3):
            save(tmp_path / "train" / name / "images" / f"{name}_{index}.JPEG", color=(100 * label, index, 0))
        (tmp_path / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t10\t63\t58\n")
    for index, label in enumerate((1, 0, 1)):
        save(tmp_path / "val" / "images" / f"val_{index}.JPEG", color=(100 * label, 50 + index, 0))
        answers.append(f"val_{index}.JPEG\t{wordnet[label]}\t0\t32\t44\t62\n")
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(answers))
    save(tmp_path / "test" / "images" / "test_0.JPEG")
    page = (ROOT / "docs/data.md").read_text()
    (lines,) = [block for block in BLOCK.findall(page) if "val_annotations" in block]
    subprocess.run(["bash", "-euc", lines], cwd=tmp_path, check=True)
    data = load(tmp_path)
    assert data.class_names == wordnet
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 3, 0)
    assert sorted(data.validation.labels) == [0, 1, 1] and sorted(data.train.labels) == [0, 0, 0, 1, 1, 1]
