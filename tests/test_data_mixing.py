"""Mixup and CutMix, and what every operation of augmentation promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.data.augment import OPERATIONS, augment, normalize, parse_operation
from resnet.data.augmentation.erasing import MODES, RandomErasing
from resnet.data.augmentation.mixing import Mixing, mixed, partners

KEY, IMAGES = jax.random.key(3), jax.random.normal(jax.random.key(1), (16, 8, 6, 3))
MIXINGS = [Mixing(0.4, 0), Mixing(0, 1.0), Mixing(0.4, 1.0), Mixing(0.4, 1.0, each="pair")]


@pytest.mark.thorough
@pytest.mark.parametrize("mixing", MIXINGS)
def test_a_part_of_a_batch_is_mixed_as_in_the_whole(mixing):
    """Also each pixel is the image's or its partner's, in the share that the label has."""
    images, share = mixing(KEY, jnp.arange(16), IMAGES)
    part, of_part = mixing(KEY, jnp.arange(4, 8), IMAGES[4:8])
    np.testing.assert_array_equal(part, images[4:8])
    np.testing.assert_array_equal(of_part, share[4:8])
    assert (share == partners(share)).all() and (len(set(share.tolist())) > 1) == (mixing.each == "pair")
    assert share.min() < 1
    for mixed_image, image, other, own in zip(images, IMAGES, partners(IMAGES), share, strict=True):
        even = np.allclose(mixed_image, own * image + (1 - own) * other, atol=1e-5)
        kept = (mixed_image == image).all(-1)
        cut = (kept | (mixed_image == other).all(-1)).all() and np.isclose(kept.mean(), own)
        assert (mixing.mixup and even) or (mixing.cutmix and cut)


@pytest.mark.thorough
def test_draws_are_those_of_the_papers():
    """Shares of mixup follow Beta(a, a), CutMix's boxes have its mean area but for the clipping."""
    keys = jax.random.split(KEY, 2000)
    draws = {
        name: jax.vmap(lambda key, m=mixing: m._mask(key, 32, 32)[1])(keys)
        for name, mixing in (
            ("mixup", Mixing(0.2, 0)),
            ("cutmix", Mixing(0, 1.0)),
            ("half", Mixing(0.2, 0, 0.5, 0.5)),
            ("switch", Mixing(1e3, 1e-3, 0.25)),
        )
    }
    assert abs(draws["mixup"].mean() - 0.5) < 0.03
    assert abs(draws["mixup"].var() - 0.25 / 1.4) < 0.01
    assert 0.55 < draws["cutmix"].mean() < 0.72  # boxes over the border are smaller
    assert abs((draws["half"] == 1).mean() - 0.5) < 0.1
    # Three in four are mixup, whose shares are halves; so are some of CutMix's, of boxes over the border.
    assert 0.72 < (jnp.abs(draws["switch"] - 0.5) < 0.1).mean() < 0.85


def test_labels_are_mixed_as_images_are():
    labels = jnp.eye(4)[jnp.array([0, 1, 2, 2])]
    found = mixed(labels, jnp.array([0.75, 0.75, 0.2, 0.2]))
    np.testing.assert_allclose(found[0], [0.75, 0.25, 0, 0])
    np.testing.assert_allclose(found[1], [0.25, 0.75, 0, 0])
    np.testing.assert_allclose(found[2], [0, 0, 1, 0])


ARGUMENTS = {
    "random_crop": "2",
    "cutout": "3",
    "rand_augment": "2 9 bilinear",
    "timm_rand_augment": "2 7 0.5",
    "auto_augment": "cifar10",
    "color_jitter": "0.4 0.4 0.4",
    "lighting": "1.0",
    "grey": "0.5",
    "random_erasing": "0.9 pixel",
}


@pytest.fixture(scope="module")
def photographs():
    from sklearn.datasets import load_sample_images

    image = load_sample_images().images[0]
    return jnp.asarray(
        np.stack([image[y : y + 16, x : x + 12] for y in (0, 100, 200, 300) for x in (0, 200)])
    )


@pytest.mark.thorough
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_of_the_list_keeps_its_promises(name, photographs):
    """It changes some images, follows their keys, treats a part as the whole, and checks its arguments."""
    field, operation = parse_operation("data.augmentation", f"{name} {ARGUMENTS.get(name, '')}")
    operation.check(field, (16, 12, 3))
    images, keys = jnp.concatenate([photographs] * 4), jax.random.split(jax.random.key(5), 32)
    mean, std = np.full(3, 100, np.float32), np.full(3, 50, np.float32)
    apply = jax.jit(lambda keys, images: augment(keys, images, [operation], mean, std))
    whole, plain = apply(keys, images), normalize(images, mean, std)
    assert whole.shape == images.shape and whole.dtype == jnp.float32
    changed = (jnp.abs(whole - plain) > 1e-3).any((1, 2, 3))
    assert changed.mean() > 0.1 and len(np.unique(whole, axis=0)) > len(photographs)
    np.testing.assert_array_equal(apply(keys[8:16], images[8:16]), whole[8:16])
    if operation.on_pixels:
        values = np.asarray(whole) * 50 + 100
        np.testing.assert_allclose(values, np.round(values), atol=1e-3)
        assert values.min() > -0.5 and values.max() < 255.5


def test_no_two_operations_draw_from_one_key():
    used = [operation.stream for operation in OPERATIONS.values()]
    assert len(set(used)) == len(used)
    assert all(number % 2 == 0 or name == "flip" for name, number in zip(OPERATIONS, used, strict=True))


@pytest.mark.thorough
@pytest.mark.parametrize(("interpolation", "share"), [("nearest", 0.0), ("either", 0.002)])
def test_an_accelerator_and_the_cpu_take_the_same_pixels(interpolation, share, photographs, monkeypatch):
    """All images at once, and all branches, as on an accelerator; or one after the other.

    What is interpolated in float32 and lies between two levels may be rounded to either.
    """
    _, operation = parse_operation("x", f"timm_rand_augment 2 7 0.5 increasing 0.5 {interpolation}")
    keys = jax.random.split(jax.random.key(5), len(photographs))
    mean, std = np.zeros(3, np.float32), np.ones(3, np.float32)
    one_by_one = augment(keys, photographs, [operation], mean, std)
    monkeypatch.setattr("resnet.kernels.backend.xla_alone", lambda: True)
    off = np.abs(np.asarray(augment(keys, photographs, [operation], mean, std) - one_by_one))
    assert (off > 0).mean() <= share and off.max() <= 1


def test_an_erased_rectangle_has_the_mean_one_colour_or_noise():
    keys, image = jax.random.split(jax.random.key(0)), jnp.full((16, 16, 3), 9.0)
    erased = {mode: np.asarray(RandomErasing(1.0, mode)(keys, image)) for mode in MODES}
    colours = {mode: np.unique(x[(x != 9).any(-1)], axis=0) for mode, x in erased.items()}
    assert [len(colours[mode]) for mode in ("const", "rand")] == [1, 1] and len(colours["pixel"]) > 9
    assert not colours["const"].any() and len(set(colours["rand"][0])) == 3
