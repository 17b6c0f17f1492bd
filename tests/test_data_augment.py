"""Augmentation is drawn per image, and does what its fields say and no more."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.data.augment import augment, normalize
from resnet.data.datasets import DataConfig

KEYS = jax.random.split(jax.random.key(0), 64)
IMAGES = jax.random.normal(jax.random.key(1), (64, 8, 6, 3))
ALL = DataConfig(shift=2, flip=True, cutout=3)

augmented = jax.jit(augment, static_argnames="config")


def test_nothing_asked_is_the_identity():
    np.testing.assert_array_equal(augmented(KEYS, IMAGES, DataConfig()), IMAGES)


def test_a_part_of_a_batch_is_treated_as_in_the_whole():
    whole = augmented(KEYS, IMAGES, ALL)
    np.testing.assert_array_equal(augmented(KEYS[16:32], IMAGES[16:32], ALL), whole[16:32])


def test_draws_follow_the_keys():
    whole = augmented(KEYS, IMAGES, ALL)
    np.testing.assert_array_equal(augmented(KEYS, IMAGES, ALL), whole)
    assert (augmented(KEYS[::-1], IMAGES, ALL) != whole).any()


@pytest.mark.parametrize(("fill", "mode"), [("zero", "constant"), ("reflect", "reflect")])
def test_shift_takes_every_window_of_the_padded_image(fill, mode):
    config = DataConfig(shift=1, shift_fill=fill)
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


def test_padding_is_the_mean_colour():
    """What a shift brings in is what the mean image becomes: zero, in normalised units."""
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
        bound = functools.partial(augment, config=DataConfig(**fields))
        return str(jax.make_jaxpr(bound)(KEYS, IMAGES))

    variants = [
        program(),
        program(shift=2),
        program(shift=2, shift_fill="reflect"),
        program(flip=True),
        program(cutout=2),
    ]
    assert len(set(variants)) == len(variants)
