"""Augmentation is drawn per image, and does what its fields say and no more."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from resnet.data.augment import OPERATIONS, augment, normalize, shrunk
from resnet.data.augmentation import colour
from resnet.data.augmentation.colour import ColorJitter, Grey, Lighting
from resnet.data.augmentation.erasing import RandomErasing
from resnet.data.config import DataConfig
from resnet.data.images import shrunk_shape
from resnet.errors import InputError, check_at_least

KEYS = jax.random.split(jax.random.key(0), 64)
IMAGES = jax.random.normal(jax.random.key(1), (64, 8, 6, 3))
AS_THEY_ARE = np.zeros(1, np.float32), np.ones(1, np.float32)  # the mean and the standard deviation
ALL = DataConfig(random_crop=2, flip=True, cutout=3)


def operations_of(config):
    return [operation for _, operation in config.operations()]


@functools.partial(jax.jit, static_argnames="config")
def augmented(keys, images, config):
    return augment(keys, images, operations_of(config), *AS_THEY_ARE)


@pytest.mark.parametrize("side", [20, 37])
def test_small_images_are_pillows(side):
    """Within one level, as Pillow rounds its weights; the longer side keeps its share."""
    image = load_sample_images().images[0][:64, :96]
    h, w, _ = shrunk_shape(image.shape, side)
    assert (h, w) == (side, round(1.5 * side))
    expected = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR), int)
    assert np.abs(np.asarray(shrunk(jnp.asarray(image[None]), side)[0], int) - expected).max() <= 1


def test_nothing_asked_is_the_identity():
    np.testing.assert_array_equal(augmented(KEYS, IMAGES, DataConfig()), IMAGES)


@pytest.mark.thorough
def test_a_part_of_a_batch_is_treated_as_in_the_whole():
    whole = augmented(KEYS, IMAGES, ALL)
    np.testing.assert_array_equal(augmented(KEYS[16:32], IMAGES[16:32], ALL), whole[16:32])


def test_draws_follow_the_keys():
    whole = augmented(KEYS, IMAGES, ALL)
    np.testing.assert_array_equal(augmented(KEYS, IMAGES, ALL), whole)
    assert (augmented(KEYS[::-1], IMAGES, ALL) != whole).any()


@pytest.mark.parametrize(("fill", "mode"), [("zero", "constant"), ("reflect", "reflect")])
def test_a_random_crop_takes_every_window_of_the_padded_image(fill, mode):
    config = DataConfig(random_crop=1, random_crop_fill=fill)
    image = np.asarray(IMAGES[0])
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode)
    windows = [padded[y : y + 8, x : x + 6] for y in range(3) for x in range(3)]
    shifted = augmented(KEYS, jnp.broadcast_to(IMAGES[0], IMAGES.shape), config)
    found = {
        next(index for index, window in enumerate(windows) if (window == one).all())
        for one in np.asarray(shifted)
    }
    assert found == set(range(9))


def test_flip_mirrors_about_half():
    flipped = augmented(KEYS, IMAGES, DataConfig(flip=True))
    same = (flipped == IMAGES).all((1, 2, 3))
    mirrored = (flipped == IMAGES[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 16 < mirrored.sum() < 48


@pytest.mark.parametrize("side", [1, 4])
def test_cutout_erases_one_square(side):
    keys, images = jax.random.split(jax.random.key(0), 512), jnp.ones((512, 8, 6, 1))
    erased = np.asarray(augmented(keys, images, DataConfig(cutout=side)))[..., 0] == 0
    whole = 0
    for one in erased:
        rows, columns = one.any(axis=1), one.any(axis=0)
        np.testing.assert_array_equal(one, np.outer(rows, columns))
        assert 0 < rows.sum() <= side
        assert 0 < columns.sum() <= side
        whole += one.sum() == side**2
    assert whole > 8
    assert erased.any(axis=0).all()  # every pixel has its turn


@functools.cache
def rectangles():
    """[rows, columns, top, left] of what is erased, of those of 2000 images of 32 x 32 that have any."""
    keys = jax.vmap(jax.random.split)(jax.random.split(jax.random.key(0), 2000))
    erase = jax.jit(jax.vmap(RandomErasing(0.8), in_axes=(0, None)))
    erased = np.asarray(erase(keys, jnp.ones((32, 32, 1))))[..., 0] == 0
    rows, columns = erased.any(2), erased.any(1)
    np.testing.assert_array_equal(erased, rows[:, :, None] & columns[:, None, :])
    each = np.stack([rows.sum(1), columns.sum(1), rows.argmax(1), columns.argmax(1)])
    return each[:, rows.any(1)]


def assert_uniform(values, low, high, rel=0.06):
    """Checks that the quartiles of values are those of a uniform distribution, within `rel` of its width."""
    expected = np.linspace(low, high, 5)
    np.testing.assert_allclose(
        np.quantile(values, (0, 0.25, 0.5, 0.75, 1)), expected, atol=rel * (high - low)
    )


def test_what_is_erased_has_the_areas_and_shapes_of_the_paper():
    """Of four images in five: 2 to 33 % of the area; the log of height over width is even about 0."""
    rows, columns, _, _ = rectangles()
    assert abs(len(rows) / 2000 - 0.8) < 0.04
    assert_uniform(rows * columns / 32**2, 0.02, 1 / 3)
    assert_uniform(np.log(rows / columns), np.log(0.3), -np.log(0.3), 0.12)  # of whole pixels


def test_what_is_erased_lies_anywhere():
    """From one border to the other, in both directions, for whatever size."""
    rows, columns, top, left = rectangles()
    for size, first in ((rows, top), (columns, left)):
        assert first.min() == 0 and (first + size).max() == 32
        assert_uniform(first / (32 - size), 0, 1)
    assert abs(np.corrcoef(top / (32 - rows), left / (32 - columns))[0, 1]) < 0.1


@pytest.mark.parametrize("strength", (0.4, 1.5))
@pytest.mark.parametrize(
    ("field", "image", "places"),
    [
        ("brightness", [[0] * 3, [100] * 3], (3, 0)),
        ("contrast", [[80] * 3, [160] * 3], (3, 0)),
        ("saturation", [[160, 120, 80]] * 2, (0, 2)),
    ],
)
def test_jitter_scales_differences_by_factors_about_1(field, image, places, strength):
    """Between two pixels or two channels: from 1 - strength, but not below 0, to 1 + strength."""
    image = jnp.asarray([image], jnp.uint8)
    keys = jax.vmap(jax.random.split)(jax.random.split(jax.random.key(0), 1000))
    jitter = ColorJitter(**{"brightness": 0.0, "contrast": 0.0, "saturation": 0.0} | {field: strength})
    found = np.asarray(jax.jit(jax.vmap(jitter, in_axes=(0, None)))(keys, image), int).reshape(1000, -1)
    first, second = places
    before = np.asarray(image, int).ravel()
    factors = (found[:, first] - found[:, second]) / (before[first] - before[second])
    assert_uniform(factors, max(1 - strength, 0), 1 + strength)


def test_grey_takes_the_colour_out_of_a_share_of_the_images():
    image = np.asarray(load_sample_images().images[0][:8, :8])
    keys = jax.vmap(jax.random.split)(jax.random.split(jax.random.key(0), 2000))
    made = np.asarray(jax.jit(jax.vmap(Grey(0.2), in_axes=(0, None)))(keys, jnp.asarray(image)))
    grey = np.asarray(Image.fromarray(image).convert("L"))[..., None].repeat(3, -1)
    changed = (made != image).any((1, 2, 3))
    assert abs(changed.mean() - 0.2) < 0.045 and (made[changed] == grey).all()


def test_jitter_has_every_order(monkeypatch):
    seen = []
    monkeypatch.setattr(
        colour, "change", lambda names, image, which, factor: seen.append(int(which)) or image
    )
    image = jnp.zeros((2, 2, 3), jnp.uint8)
    for keys in jax.vmap(jax.random.split)(jax.random.split(jax.random.key(0), 60)):
        ColorJitter(0.4, 0.4, 0.4)(keys, image)
    orders = {tuple(seen[i : i + 3]) for i in range(0, len(seen), 3)}
    assert orders == set(itertools.permutations(range(3)))


def test_lighting_varies_along_the_axes_of_imagenets_colours():
    """The standard deviation along each axis is the one in fb.resnet.torch, and largest for brightness."""
    keys = jax.vmap(jax.random.split)(jax.random.split(jax.random.key(0), 2000))
    image = jnp.full((1, 1, 3), 128, jnp.uint8)
    lit = np.asarray(jax.jit(jax.vmap(Lighting(0.8), in_axes=(0, None)))(keys, image), float)
    moved = lit[:, 0, 0] - 128
    brightness, blue_to_red, green = np.array(
        [(-0.5675, -0.5808, -0.5836), (0.7192, -0.0045, -0.6948), (0.4009, -0.8140, 0.4203)]
    )
    for axis, root in ((brightness, 0.2175), (blue_to_red, 0.0188), (green, 0.0045)):
        assert np.std(moved @ axis) == pytest.approx(255 * 0.8 * root, rel=0.1)


def test_padding_is_the_mean_colour():
    """What a random crop brings in is what the mean image becomes: zero, in normalised units."""
    raw = np.full((64, 8, 6, 3), 200, np.uint8)
    mean, std = np.full(3, 200, np.float32), np.ones(3, np.float32)
    images = normalize(raw, mean, std)
    np.testing.assert_array_equal(augmented(KEYS, images, ALL), jnp.zeros_like(images))


def test_normalize_by_channel_and_by_pixel():
    raw = np.random.RandomState(0).randint(0, 256, (5, 8, 6, 3)).astype(np.uint8)
    for shape in [(3,), (8, 6, 3)]:
        mean = np.random.RandomState(1).uniform(0, 255, shape).astype(np.float32)
        std = np.random.RandomState(2).uniform(10, 99, shape).astype(np.float32)
        expected = (raw.astype(np.float32) - mean) / std
        np.testing.assert_allclose(normalize(raw, mean, std), expected, rtol=1e-6, atol=1e-6)


def test_each_field_changes_the_program():
    def program(**fields):
        operations = operations_of(DataConfig(**fields))
        return str(jax.make_jaxpr(lambda *each: augment(*each, operations, *AS_THEY_ARE))(KEYS, IMAGES))

    variants = [
        program(),
        program(random_crop=2),
        program(random_crop=2, random_crop_fill="reflect"),
        program(flip=True),
        program(cutout=2),
        program(random_crop=2, augmentation=("cutout 2",)),
    ]
    assert len(set(variants)) == len(variants)


def test_draws_are_those_of_earlier_versions():
    """Runs of before go on with the same images: the keys of an image are the four that it was split into."""

    def expected(key, image):
        shift_key, flip_key, row_key, column_key = jax.random.split(key, 4)
        top, left = jax.random.randint(shift_key, (2,), 0, 5)
        padded = jnp.pad(image, ((2, 2), (2, 2), (0, 0)))
        image = jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)
        image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        rows, columns = (
            jnp.arange(n) - jax.random.randint(key, (), 0, n) + 1
            for key, n in ((row_key, 8), (column_key, 6))
        )
        erased = ((rows >= 0) & (rows < 3))[:, None, None] & ((columns >= 0) & (columns < 3))[None, :, None]
        return jnp.where(erased, 0, image)

    np.testing.assert_array_equal(augmented(KEYS, IMAGES, ALL), jax.jit(jax.vmap(expected))(KEYS, IMAGES))


@pytest.mark.parametrize(
    ("operations", "fields"),
    [
        (("random_crop 2", "flip", "cutout 3"), {"random_crop": 2, "flip": True, "cutout": 3}),
        (("shift 1 reflect",), {"random_crop": 1, "random_crop_fill": "reflect"}),  # its name before
        (("random_crop 1 reflect",), {"random_crop": 1, "random_crop_fill": "reflect"}),
    ],
)
def test_an_operation_is_the_same_by_name_and_by_field(operations, fields):
    by_name, by_field = DataConfig(augmentation=operations), DataConfig(**fields)
    assert operations_of(by_name) == operations_of(by_field)
    by_name.check()


def test_a_new_operation_is_an_entry_of_the_list(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Brightness:
        spread: float
        stream = 100
        on_pixels = False

        def check(self, field, sides):
            check_at_least(field, self.spread, 0)

        def __call__(self, keys, image):
            return image + self.spread * jax.random.normal(keys[0])

    monkeypatch.setitem(OPERATIONS, "brightness", Brightness)
    config = DataConfig(augmentation=("brightness 0.5",))
    config.check()
    moved = (augmented(KEYS, IMAGES, config) - IMAGES).reshape(64, -1)
    assert np.ptp(moved, axis=1).max() < 1e-5 and 0.3 < moved[:, 0].std() < 0.7
    with pytest.raises(InputError, match=r"`data.augmentation: brightness` must be at least 0; got -1"):
        DataConfig(augmentation=("brightness -1",)).check()


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (("rotate 3",), r"`data.augmentation` must be one of random_crop, flip, cutout, .*; got 'rotate'"),
        (("random_crop",), r"`data.augmentation` must be random_crop pixels \[fill\]; got 'random_crop'"),
        (("random_crop 1.5",), r"must be random_crop pixels \[fill\]; got 'random_crop 1.5'"),
        (("flip 3",), r"must be flip; got 'flip 3'"),
        (
            ("random_crop 2 wrap",),
            r"`data.augmentation: random_crop_fill` must be one of zero, reflect; got 'wrap'",
        ),
        (("flip", "flip"), r"must have each operation once; got \('flip', 'flip'\)"),
        (("cutout 2",), "`data.cutout` and `data.augmentation: cutout` ask for the same operation: keep one"),
        (("",), r"must be one of random_crop, flip, cutout, .*; got ''"),
    ],
)
def test_what_is_no_operation_is_refused(operations, message):
    with pytest.raises(InputError, match=message):
        DataConfig(augmentation=operations, cutout=2).check()
