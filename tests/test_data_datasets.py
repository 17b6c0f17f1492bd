"""Splits are stratified and fixed by their seeds; statistics are of the training images."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet.data import datasets
from resnet.data.config import DataConfig
from resnet.data.datasets import load_dataset
from resnet.data.embedded import MAX_ANGLE, load_digits, rotate
from resnet.data.splits import Source, Split, stratified_order
from resnet.data.statistics import channel_statistics
from resnet.errors import InputError


def make_split(labels, side=4, seed=0):
    random = np.random.RandomState(seed)
    images = random.randint(0, 256, (len(labels), side, side, 3)).astype(np.uint8)
    return Split(images, np.asarray(labels, np.int32))


def use(monkeypatch, source):
    """Makes `source` what data.name=synthetic loads."""
    monkeypatch.setitem(datasets.DATASETS, "synthetic", lambda config, only: source)


def rows(split):
    return {image.tobytes() for image in split.images}


# Splits


@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=5), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_every_stretch_of_a_stratified_order_is_balanced(counts, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    order = stratified_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    for start in range(0, len(labels), 7):
        for stop in range(start, len(labels) + 1, 5):
            found = np.bincount(labels[order[start:stop]], minlength=len(counts))
            share = np.array(counts) * (stop - start) / len(labels)
            assert (np.abs(found - share) <= 2).all()


def test_digits_are_the_whole_set_split_once_for_all():
    source = load_digits()
    assert (len(source.train), len(source.test)) == (1437, 360)
    assert source.train.images.shape[1:] == (8, 8, 1)
    assert (source.train.images.min(), source.train.images.max()) == (0, 255)
    assert set(np.bincount(source.test.labels)) <= {34, 35, 36, 37, 38}
    digest = hashlib.sha256(source.test.images.tobytes() + source.test.labels.tobytes())
    assert digest.hexdigest()[:16] == "5b088f07aad86402", "results on other test digits are not comparable"


def test_validation_is_held_out_of_train_by_seed():
    data = load_dataset(DataConfig())
    assert (len(data.train), len(data.validation), len(data.test)) == (1293, 144, 360)
    assert set(np.bincount(data.validation.labels)) <= {13, 14, 15, 16}
    assert not rows(data.train) & rows(data.validation)
    assert rows(data.train) | rows(data.validation) == rows(load_digits().train)

    again, other = load_dataset(DataConfig()), load_dataset(DataConfig(split_seed=1))
    np.testing.assert_array_equal(again.validation.images, data.validation.images)
    assert rows(other.validation) != rows(data.validation)
    assert rows(other.test) == rows(data.test)


def test_nothing_is_held_out_at_zero():
    data = load_dataset(DataConfig(validation=0.0))
    assert (len(data.train), len(data.validation)) == (1437, 0)


def test_train_limit_keeps_a_balanced_part_and_leaves_validation_alone():
    whole, part = load_dataset(DataConfig()), load_dataset(DataConfig(train_limit=100))
    assert set(np.bincount(part.train.labels)) <= {9, 10, 11}
    assert rows(part.train) < rows(whole.train)
    np.testing.assert_array_equal(part.validation.images, whole.validation.images)


def test_own_validation_split_takes_the_place_of_holding_out(monkeypatch):
    train, own = make_split([0, 1] * 8), make_split([0, 1] * 3, seed=1)
    use(monkeypatch, Source(train, make_split([0, 1]), ("a", "b"), own))
    data = load_dataset(DataConfig(name="synthetic"))
    assert data.validation is own
    assert rows(data.train) == rows(train)


# Data sets


def test_classification_describes_itself():
    data = load_dataset(DataConfig())
    assert (data.task, data.num_outputs, data.image_shape) == ("classification", 10, (8, 8, 1))
    assert data.class_names == tuple("0123456789")


def test_synthetic_classes_can_be_learned_and_are_no_give_away():
    data = load_dataset(DataConfig(name="synthetic"))
    assert (len(data.train) + len(data.validation), len(data.test)) == (1024, 256)
    assert data.image_shape == (32, 32, 3)
    train = data.train.images.reshape(len(data.train), -1) / 255
    centres = np.stack([train[data.train.labels == label].mean(axis=0) for label in range(10)])
    test = data.test.images.reshape(256, 1, -1) / 255
    nearest = np.square(test - centres[None]).sum(axis=-1).argmin(axis=-1)
    assert (nearest == data.test.labels).mean() > 0.95


def test_rotation_is_a_regression_in_degrees():
    data = load_dataset(DataConfig(name="digits_rotation"))
    assert (data.task, data.num_outputs, data.image_shape) == ("regression", 1, (16, 16, 1))
    assert (data.unit, data.target_scale, data.class_names) == ("degrees", 45.0, ())
    assert data.train.labels.dtype == np.float32
    assert -1 <= data.train.labels.min() < -0.95
    assert 0.95 < data.train.labels.max() <= 1
    assert (len(data.train), len(data.validation), len(data.test)) == (1293, 144, 360)


def test_rotation_is_fixed_by_split_seed():
    first, again = (load_dataset(DataConfig(name="digits_rotation")) for _ in range(2))
    other = load_dataset(DataConfig(name="digits_rotation", split_seed=1))
    np.testing.assert_array_equal(first.test.images, again.test.images)
    np.testing.assert_array_equal(first.test.labels, again.test.labels)
    assert (first.test.labels != other.test.labels).mean() > 0.9


def test_rotated_digits_are_turned_by_their_labels():
    data, digits = load_dataset(DataConfig(name="digits_rotation")), load_digits()
    degrees = data.test.labels * MAX_ANGLE
    np.testing.assert_array_equal(rotate(digits.test.images, degrees), data.test.images)


@pytest.mark.parametrize(("degrees", "quadrant"), [(45, "top"), (-45, "bottom"), (135, "left top")])
def test_rotation_is_counter_clockwise(degrees, quadrant):
    image = np.zeros((1, 8, 8, 1), np.uint8)
    image[0, 3:5, 6:8] = 255  # in the middle of the right edge
    turned = rotate(image, np.array([degrees], np.float32))[0, ..., 0].astype(float)
    row, column = (np.average(index, weights=turned) - 7.5 for index in np.indices((16, 16)))
    assert (row < 0) == ("top" in quadrant)
    assert (column < 0) == ("left" in quadrant)
    assert abs(row) == pytest.approx(abs(column), abs=0.1)
    # Magnified by √2: 3 pixels from the centre become 3√2, along the diagonal.
    assert np.hypot(row, column) == pytest.approx(3 * np.sqrt(2), abs=0.1)


def test_rotation_keeps_the_whole_image_in_view():
    image = np.full((1, 8, 8, 1), 255, np.uint8)
    sums = [rotate(image, np.array([angle], np.float32)).sum() / 255 for angle in (0, 30, 45)]
    assert sums == pytest.approx([128, 128, 128], rel=0.05)  # 64 pixels, magnified twofold


# Normalisation


def test_statistics_are_of_the_training_images():
    data = load_dataset(DataConfig(name="synthetic"))
    pixels = data.train.images.astype(np.float64)
    np.testing.assert_allclose(data.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data.std, pixels.std(axis=(0, 1, 2)), rtol=1e-6)


def test_a_constant_channel_divides_by_one():
    mean, std = channel_statistics(np.full((3, 2, 2, 1), 7, np.uint8))
    assert (mean, std) == ([7.0], [1.0])


def test_pixel_mean_and_none():
    data = load_dataset(DataConfig(name="synthetic", normalization="pixel_mean"))
    np.testing.assert_allclose(data.mean, data.train.images.mean(axis=0), rtol=1e-6)
    assert data.std.tolist() == [255.0] * 3
    data = load_dataset(DataConfig(name="synthetic", normalization="none"))
    assert (data.mean.tolist(), data.std.tolist()) == ([0.0] * 3, [255.0] * 3)


def test_given_statistics_replace_the_datas_own():
    data = load_dataset(DataConfig(name="synthetic", mean=(0.5, 0.4, 0.2)))
    np.testing.assert_allclose(data.mean, [127.5, 102, 51], rtol=1e-6)
    assert 30 < data.std[0] < 60
    data = load_dataset(DataConfig(name="synthetic", std=(0.5, 0.4, 0.2)))
    np.testing.assert_allclose(data.std, [127.5, 102, 51], rtol=1e-6)


def test_chosen_classes_are_labelled_by_their_place():
    every, chosen = load_dataset(DataConfig()), load_dataset(DataConfig(classes=("7", "2")))
    assert chosen.class_names == ("7", "2") and chosen.num_outputs == 2
    assert rows(chosen.test) == rows(every.test[np.flatnonzero(np.isin(every.test.labels, (7, 2)))])
    sevens = every.test.images[every.test.labels == 7]
    np.testing.assert_array_equal(chosen.test.images[chosen.test.labels == 0], sevens)
    assert datasets.shapes_of(DataConfig(name="cifar10", classes=("cat", "dog"))) == ((32, 32, 3), 2)


# Bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "imagenet"}, "`data.name` must be one of digits, .*; got 'imagenet'"),
        ({"random_crop_fill": "wrap"}, "`data.random_crop_fill` must be one of zero, reflect; got 'wrap'"),
        ({"normalization": "z"}, "`data.normalization` must be one of channel, .*; got 'z'"),
        ({"classes": ("7",)}, r"`data.classes` must be two or more, each once; got \('7',\)"),
        ({"classes": ("7", "7")}, "`data.classes` must be two or more, each once"),
        ({"classes": ("7", "x")}, "`data.classes`: digits has no class 'x'; those of digits are 0, 1"),
        ({"name": "digits_rotation", "classes": ("7", "2")}, "has no class '7'; it is a regression"),
        ({"validation": -0.1}, "`data.validation` must be at least 0; got -0.1"),
        ({"validation": 1.0}, "`data.validation` must be a share below 1; got 1.0"),
        ({"validation": 1e-4}, "`data.validation` must leave images on both sides; 0.0001 of 1437"),
        ({"validation": 0.9999}, "`data.validation` must leave .* 1437 images holds out 1437"),
        ({"split_seed": -1}, "`data.split_seed` must be at least 0; got -1"),
        ({"split_seed": 2**32}, r"`data.split_seed` must be below 2\*\*32; got 4294967296"),
        ({"train_limit": -1}, "`data.train_limit` must be at least 0; got -1"),
        ({"train_limit": 1294}, "`data.train_limit` must be at most 1293, .* of digits; got 1294"),
        ({"image_size": -1}, "`data.image_size` must be at least 0; got -1"),
        ({"image_size": 32}, "`data.image_size` is for image_folder and tfds:NAME, .* digits; got 32"),
        ({"random_crop": -1}, "`data.random_crop` must be at least 0; got -1"),
        ({"cutout": -1}, "`data.cutout` must be at least 0; got -1"),
        ({"name": "image_folder"}, "`data.dir` must name the folder of image_folder; got ''"),
        ({"name": "digits_rotation", "flip": True}, "`data.flip` must not mirror or turn digits_rotation"),
        (
            {"name": "digits_rotation", "eval_flip": True},
            "`data.eval_flip` must not mirror or turn digits_rotation",
        ),
        ({"flip": True, "alternate_flip": True}, "`data.alternate_flip` takes the place of `data.flip`"),
        ({"mean": (0.5,), "normalization": "none"}, "need `data.normalization` channel; got 'none'"),
        ({"mean": (0.5, 0.5)}, r"`data.mean` must have one value for each of 1 channels; got \(0.5,"),
        ({"std": (0.5, 0.5)}, r"`data.std` must have one value for each of 1 channels; got \(0.5,"),
        ({"mean": (123.675,)}, r"`data.mean` must be in units of 0..1; got \(123.675,"),
        ({"dir": "/images"}, "`data.dir` is for data in files, and must be '' for digits; got '/images'"),
        (
            {"random_crop_fill": "reflect", "augmentation": ("random_crop 1",)},
            "`data.random_crop_fill` is that of `data.random_crop`; that in `data.augmentation` has its own",
        ),
        (
            {"name": "digits_rotation", "augmentation": ("rand_augment",)},
            "`data.augmentation: rand_augment` must not mirror or turn digits_rotation",
        ),
        ({"std": (0.0,)}, r"`data.std` must be positive; got \(0.0,\)"),
    ],
)
def test_bad_field(fields, message):
    with pytest.raises(InputError, match=message) as raised:
        load_dataset(DataConfig(**fields))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("label", [2, -1])
@pytest.mark.parametrize("field", ["train", "validation", "test"])
def test_label_out_of_range(monkeypatch, field, label):
    splits = {name: make_split([0, 1] * 8) for name in ("train", "validation", "test")}
    splits[field].labels[5] = label
    train, validation, test = splits.values()
    use(monkeypatch, Source(train, test, ("a", "b"), validation))
    message = f"synthetic: label {label} of {field} image 5 is out of range; 2 classes have .* 0 to 1"
    with pytest.raises(InputError, match=message):
        load_dataset(DataConfig(name="synthetic"))
