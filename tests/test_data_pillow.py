"""What changes uint8 images gives Pillow's pixels, on photographs, for every magnitude of every policy."""

import collections
import dataclasses
import functools
import hashlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps
from sklearn.datasets import load_sample_images

from resnet.data.augmentation import pixels
from resnet.data.augmentation.operations import FILLS, PILLOW, Move, Space, change
from resnet.data.augmentation.policies import (
    AutoAugment,
    RandAugment,
    TimmRandAugment,
    TrivialAugmentWide,
)
from resnet.data.augmentation.published import PAIRS
from scripts.peers.pillow import RESAMPLING, by_pillow, drawn, policy_by_pillow
from tests.few import few

H, W = 48, 40
POLICIES = {
    "rand_augment": RandAugment(),
    "trivial_augment": TrivialAugmentWide(),
    "auto_augment": AutoAugment("cifar10"),
    "timm": TimmRandAugment(),
    "timm, original": TimmRandAugment(scale="original"),
}


@functools.cache
def photographs():
    """Parts of two photographs, one of them dark, one of few values, one flat, and one near white."""
    china, flower = load_sample_images().images
    cuts = [
        image[y : y + H, x : x + W] for image in (china, flower) for y, x in ((0, 0), (200, 300), (370, 90))
    ]
    dark, few = cuts[1] // 5 + 3, cuts[4] // 64 * 40
    flat = np.full((H, W, 3), (7, 7, 200), np.uint8)
    return np.stack([*cuts, dark, few, flat, 255 - cuts[2] // 9]).astype(np.uint8)


@functools.cache
def compiled(name):
    """The operation on all images, by argument."""
    return jax.jit(
        lambda images, argument: jax.vmap(lambda image: change([name], image, jnp.int32(0), argument))(images)
    )


@pytest.mark.parametrize("policy", few(1, POLICIES))
@pytest.mark.parametrize("name", [name for name, kind in PILLOW.items() if not isinstance(kind, Move)])
def test_colours_are_pillows_at_every_magnitude(name, policy):
    space = POLICIES[policy].space(H, W)
    if name not in space.names:
        pytest.skip("the policy has no such operation")
    arguments = np.unique(space.arguments[space.names.index(name)])
    images = photographs()
    for argument in arguments[:: 1 if len(arguments) < 70 else 7]:
        found = compiled(name)(images, jnp.float32(argument))
        expected = [by_pillow(name, float(argument), image) for image in images]
        np.testing.assert_array_equal(found, expected, err_msg=f"{name} {argument}")


@pytest.mark.parametrize("name", [name for name, kind in PILLOW.items() if not isinstance(kind, Move)])
def test_grey_images_are_pillows_too(name):
    images = photographs()[:4, :, :, :1]
    for argument in {"Posterize": (3.0, 8.0), "Solarize": (77.0,), "SolarizeAdd": (50.0,)}.get(
        name, (0.4, 1.7)
    ):
        found = compiled(name)(images, jnp.float32(argument))[..., 0]
        np.testing.assert_array_equal(found, [by_pillow(name, argument, image[..., 0]) for image in images])


@functools.cache
def moved(policy, interpolation, fill):
    """What the policy's space makes of images by (operation, entry)."""
    space = Space(policy.space(H, W).names, policy.space(H, W).arguments, interpolation, fill)
    return jax.jit(
        lambda images, which, entry: jax.vmap(lambda image: space.change(image, which, entry, jnp.int32(0)))(
            images
        )
    )


def on_edge(map):
    """The pixels whose source lies within a thousandth of a pixel of the image's edge."""
    y, x = np.mgrid[:H, :W]
    sources = np.stack([x, y, np.ones_like(x)], -1) @ map.T
    gaps = np.concatenate([sources, sources - [W, H]], -1)
    return (np.abs(gaps) < 1e-3).any(-1)


@pytest.mark.parametrize("fill", few(1, ["imagenet", "black"]))
@pytest.mark.parametrize("interpolation", few(1, RESAMPLING))
@pytest.mark.parametrize("policy", few(1, ["timm", "rand_augment", "trivial_augment"]))
def test_geometry_is_pillows(policy, interpolation, fill):
    """To the bit for the nearest pixel; else within one level, in less than a twentieth of the values."""
    if fill == "imagenet" and policy != "timm":
        pytest.skip("they fill with black")
    policy, images = POLICIES[policy], photographs()[:3]
    space = policy.space(H, W)
    for name in [name for name in space.names if isinstance(PILLOW[name], Move)]:
        which = space.names.index(name)
        stride = 23 if space.arguments.shape[1] > 70 else 1 if interpolation == "bicubic" else 3
        for entry in range(0, space.arguments.shape[1], stride):
            argument = space.arguments[which, entry]
            found = np.asarray(moved(policy, interpolation, fill)(images, which, entry), int)
            expected = np.stack(
                [by_pillow(name, argument, image, RESAMPLING[interpolation], FILLS[fill]) for image in images]
            )
            off = np.abs(found - expected)
            if interpolation != "nearest":  # in float32, what lies on the edge falls on either side
                off[:, on_edge(space.maps(H, W)[which, entry])] = 0
            assert off.max() <= (interpolation != "nearest"), f"{name} {argument}: {off.max()}"
            assert (off > 0).mean() < 0.05, f"{name} {argument}"


@pytest.mark.thorough
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_interpolation_in_float64_is_pillows_to_the_bit(interpolation):
    image = photographs()[0]
    with jax.enable_x64(True):
        for name, argument in (("Rotate", -8.5), ("ShearX", 0.21), ("TranslateY", 3.3), ("Rotate", 135.0)):
            maps = Space((name,), np.array([[argument]])).maps(H, W)[0, 0]
            fill = jnp.zeros(3, jnp.uint8)
            found = getattr(pixels, interpolation)(jnp.asarray(image), jnp.asarray(maps), fill)
            np.testing.assert_array_equal(found, by_pillow(name, argument, image, RESAMPLING[interpolation]))


@pytest.mark.thorough
@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_applies_what_it_draws(policy):
    """In the drawn order; to the bit, as the nearest pixel is taken."""
    policy = dataclasses.replace(POLICIES[policy], interpolation="nearest")
    images = photographs()
    for i, key in enumerate(jax.random.split(jax.random.key(1), len(images))):
        keys = jax.random.split(key)
        expected = policy_by_pillow(policy, drawn(policy, keys, H, W), images[i])
        np.testing.assert_array_equal(policy(keys, jnp.asarray(images[i])), expected)


@pytest.mark.parametrize("policy", few(1, POLICIES))
def test_a_policy_draws_all_that_it_has(policy):
    """Each operation, and of a magnitude that is drawn many; both signs."""
    policy = POLICIES[policy]
    keys = jax.vmap(jax.random.split)(jax.random.split(jax.random.key(0), 2000))
    which, entry = jax.vmap(policy.draw)(keys)
    names = policy.space(H, W).names
    assert {*np.unique(which)} == {*range(len(names))} or isinstance(policy, AutoAugment)
    assert abs((entry % 2).mean() - 0.5) < 0.05
    if isinstance(policy, TimmRandAugment):
        assert abs((which == len(names) - 1).mean() - 0.5) < 0.05


# Of the pairs in torchvision's tables.
DIGESTS = {"imagenet": "c402f0382727652a", "cifar10": "d787769f9cf7f771", "svhn": "43612224d7ba353f"}


@pytest.mark.parametrize("name", PAIRS)
def test_autoaugment_draws_its_pairs_as_published(name):
    """Each outcome of both halves is drawn as often as its probability says, within 5 standard errors."""
    assert hashlib.sha256(repr(PAIRS[name]).encode()).hexdigest()[:16] == DIGESTS[name]
    chances = collections.Counter()
    for pair in PAIRS[name]:
        halves = [[(operation, p, level), ("Identity", 1 - p, 0)] for operation, p, level in pair]
        for (first, p, level), (second, q, other) in itertools.product(*halves):
            chances[first, level, second, other] += p * q / len(PAIRS[name])
    policy, n = AutoAugment(name), 50_000
    keys = jax.vmap(jax.random.split)(jax.random.split(jax.random.key(0), n))
    which, entry = jax.device_get(jax.jit(jax.vmap(policy.draw))(keys))
    names = np.array(policy.space(H, W).names)[which]
    levels = np.where(names == "Identity", 0, entry // 2)
    outcomes = np.stack([names, levels.astype(object)], -1).reshape(n, 4)
    counts = collections.Counter(map(tuple, outcomes.tolist()))
    assert counts.keys() <= chances.keys()
    for outcome, p in chances.items():
        assert abs(counts[outcome] / n - p) <= 5 * np.sqrt(p * (1 - p) / n), outcome


@pytest.mark.parametrize("policy", few(1, ["timm", "rand_augment", "trivial_augment"]))
def test_the_filter_is_drawn_apart_from_the_sign(policy, monkeypatch):
    def shown(space, image, which, entry, either):
        return image.at[0, 0, :2].set(jnp.stack([entry % 2, either]).astype(image.dtype))

    monkeypatch.setattr(Space, "change", shown)
    keys = jax.vmap(jax.random.split)(jax.random.split(jax.random.key(0), 2000))
    policy = dataclasses.replace(POLICIES[policy], interpolation="either")
    signs, filters = np.array(jax.vmap(policy, (0, None))(keys, jnp.zeros((4, 4, 3), jnp.uint8)))[
        :, 0, 0, :2
    ].T
    assert all(abs(np.mean(each) - 0.5) < 0.05 for each in (signs, filters, signs == filters))


@pytest.mark.thorough
def test_timms_magnitudes_spread_as_asked():
    keys = jax.vmap(jax.random.split)(jax.random.split(jax.random.key(0), 2000))
    level = lambda policy: jax.vmap(policy.draw)(keys)[1] // 2 / 20  # noqa: E731
    normal, even = level(TimmRandAugment(2, 7, 0.5)), level(TimmRandAugment(2, 8, 101.0))
    assert abs(normal.mean() - 7) < 0.05 and abs(normal.std() - 0.5) < 0.05
    assert abs(even.mean() - 4) < 0.2 and even.max() > 7.5 and even.min() < 0.5


def test_timms_arguments_at_magnitude_7():
    """As its table has them: rand-m7-inc1, and the original scale."""
    increasing, original = (TimmRandAugment(scale=s).space(100, 200) for s in ("increasing", "original"))

    def arguments(space, name):
        return space.arguments[space.names.index(name), 280:282].round(6).tolist()

    expected = {"Rotate": 21, "ShearX": 0.21, "TranslateX": 63.0, "TranslateY": 31.5}
    for name, value in expected.items():
        assert arguments(increasing, name) == arguments(original, name) == [value, -value]
    assert arguments(increasing, "Color") == [1.63, 0.37] and arguments(original, "Color") == [1.36, 1.36]
    assert arguments(increasing, "Posterize") == [2, 2] == arguments(original, "Posterize")
    assert arguments(increasing, "Solarize") == [77, 77] and arguments(original, "Solarize") == [179, 179]
    assert arguments(increasing, "SolarizeAdd") == [77, 77] == arguments(original, "SolarizeAdd")
    assert increasing.arguments[increasing.names.index("Color")].min() == 0.1


def test_torchvisions_arguments():
    """Magnitude 9 of 0 to 30, and the widest of TrivialAugment."""
    space, wide = RandAugment().space(100, 331), TrivialAugmentWide().space(100, 331)
    at = lambda space, name, entry: round(float(space.arguments[space.names.index(name), entry]), 6)  # noqa: E731
    assert [at(space, name, 18) for name in ("Rotate", "ShearY", "TranslateX")] == [9.0, 0.09, 45.0]
    assert [at(space, name, 19) for name in ("Color", "TranslateX")] == [0.73, -45.0]
    assert [at(space, name, 18) for name in ("Posterize", "Solarize")] == [7, 178.5]
    assert [at(wide, name, 60) for name in ("Rotate", "TranslateY", "Color")] == [135.0, 32.0, 1.99]
    assert [at(wide, name, 60) for name in ("Posterize", "Solarize")] == [2, 0]


def test_smooth_is_pillows_filter():
    for image in photographs():
        expected = np.asarray(Image.fromarray(image).filter(ImageFilter.SMOOTH))
        np.testing.assert_array_equal(pixels.smoothed(jnp.asarray(image)), expected)


@pytest.mark.thorough
def test_stretching_is_exact_for_all_extremes():
    """The list of roundings is needed: without it, some of these tables differ by one."""
    table = jax.jit(lambda low, high: pixels.stretching_table(jnp.stack([low, high]).reshape(1, 2, 1)))
    for low in range(0, 255, 7):
        for high in range(low + 1, 256, 3):
            image = np.array([[low, high]], np.uint8)
            known = np.asarray(Image.fromarray(np.arange(low, high + 1, dtype=np.uint8)[None]))
            expected = np.asarray(ImageOps.autocontrast(Image.fromarray(known)))[0]
            found = np.asarray(table(jnp.uint8(low), jnp.uint8(high)))[0, low : high + 1]
            np.testing.assert_array_equal(found, expected, err_msg=f"{image}")


def test_every_operation_is_of_a_known_kind_and_in_some_policy():
    used = {name for policy in POLICIES.values() for name in policy.space(H, W).names}
    assert used == set(PILLOW)
