"""Which images are held out, and by what images are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet.data.files.listing import hash_name
from resnet.data.splits import NAME, PLACE, Split, hold_out
from tests.folder_cases import load, noted, save, two_classes


def files_of(names):
    return np.array([(hash_name(name.encode()), 1) for name in names], np.uint64).reshape(-1, 2)


def held_out(names, labels, seed=0, share=0.3):
    """The names that are trained on, and those held out."""
    split = Split(np.zeros((len(names), 1, 1, 1), np.uint8), np.array(labels, np.int32), files_of(names))
    kept, held = hold_out(split, share, seed, NAME)
    assert sorted([*kept, *held]) == list(range(len(names)))
    return {names[k] for k in kept}, {names[h] for h in held}


@given(labels=st.lists(st.integers(0, 2), min_size=40, max_size=60), more=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_what_is_added_moves_nothing(labels, more):
    names = [f"{label}/{index}.png" for index, label in enumerate(labels)]
    added = [f"{index % 3}/new{index}.png" for index in range(more)]
    kept, held = held_out(names, labels)
    kept_then, held_then = held_out(
        [*added, *names[::-1]], [*(index % 3 for index in range(more)), *labels[::-1]]
    )
    assert kept <= kept_then and held <= held_then


def test_each_class_is_held_out_by_about_its_share_and_by_the_seed():
    names = [f"{index % 10}/{index}.png" for index in range(20_000)]
    labels = [index % 10 for index in range(20_000)]
    _, held = held_out(names, labels, share=0.1)
    counts = np.bincount([int(name[0]) for name in held])
    assert (np.abs(counts - 200) < 5 * np.sqrt(200 * 0.9)).all()
    assert len(held & held_out(names, labels, seed=1, share=0.1)[1]) < 300
    assert held_out(["a/1", "b/1", "c/1"], [0, 1, 2], share=0.99)[1] == set(), (
        "one of each class is trained on"
    )
    assert len(held_out(["a/1", "a/2", "b/1", "b/2"], [0, 0, 1, 1], share=1e-9)[1]) == 1
    assert held_out(["a/1", "a/2"], [0, 0], share=0.0)[1] == set()


def test_arrays_are_known_by_their_bytes():
    images, labels = np.zeros((4, 2, 2, 1), np.uint8), np.arange(4, dtype=np.int32)
    same, other = Split(images.copy(), labels), Split(images.copy(), labels)
    other.images[3, 1, 1, 0] = 1
    assert same.fingerprint == Split(images, labels).fingerprint != other.fingerprint
    assert Split(images, labels[::-1]).fingerprint != same.fingerprint
    names = files_of("abcd")
    by_file = Split(images, labels, names)
    assert by_file[np.array([2, 0, 3, 1])].fingerprint == by_file.fingerprint, "the order does not matter"
    assert Split(images, labels[::-1], names).fingerprint != by_file.fingerprint


@pytest.mark.parametrize(
    ("by", "kept", "held"),
    [
        (NAME, "18 2 1 3 23 13 14 21 11 10 9 0 20 16 15 26 19 5 24", "4 6 7 8 12 17 22 25 27 28 29"),
        (PLACE, "26 4 6 23 25 18 2 13 27 7 0 29 1 15 8 16 9 11 28 12 5", "17 21 10 19 14 3 20 24 22"),
    ],
)
def test_what_is_held_out_is_that_of_earlier_versions(by, kept, held):
    """Runs of before go on with the same images, in the same order, and are evaluated on the same ones."""
    labels = np.arange(30, dtype=np.int32) % 3
    names = [f"{'abc'[label]}/{index}.png" for index, label in enumerate(labels)]
    split = Split(np.zeros((30, 1, 1, 1), np.uint8), labels, files_of(names))
    found = hold_out(split, 0.3, 1, by)
    assert [" ".join(map(str, each)) for each in found] == [kept, held]


# What misleads


def test_images_that_are_trained_on_too_are_counted(tmp_path, monkeypatch):
    root, lines = two_classes(tmp_path), noted(monkeypatch)
    save(root / "test" / "cat" / "again.png", color=(0, 3, 0))  # the pixels of train/cat/3.png
    load(root, validation=0.0)
    assert lines == [
        "1 of 5 test images are training images too, pixel for pixel: scores on them tell what was learnt by "
        "heart"
    ]


def test_a_class_without_validation_images_is_named(tmp_path, monkeypatch):
    root, lines = two_classes(tmp_path), noted(monkeypatch)
    data = load(root, validation=0.01)
    assert len(data.validation) == 1
    absent = data.class_names[1 - data.validation.labels[0]]
    assert lines == [f"no validation image is of class {absent}"]
