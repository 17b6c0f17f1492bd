"""Policies: which of Pillow's operations change an image, and how much, drawn anew for each image.

A drawn magnitude is the number of an entry in a list, so that what follows from it is computed on the host,
in float64. A policy equals its source in distribution and, given what is drawn, in its pixels.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Int, Key

from resnet.data.augmentation.operations import FILLS, INTERPOLATIONS, Keys, Space
from resnet.data.augmentation.pixels import Image
from resnet.data.augmentation.published import PAIRS
from resnet.errors import check_at_least, check_choice, check_within

Draws = tuple[Int[Array, " layers"], Int[Array, " layers"]]
"""The operations, and for each the number of its argument."""

BINS = 31  # magnitudes of torchvision's RandAugment and TrivialAugmentWide
GRAIN = 20  # steps into which one unit of timm's magnitude is divided; timm draws real numbers
HIGHEST = 10  # timm's highest magnitude
FACTORS = ("Brightness", "Color", "Contrast", "Sharpness")
MOVES = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
TORCHVISION = ("Identity", *MOVES, *FACTORS, "Posterize", "Solarize", "AutoContrast", "Equalize")


class Policy:
    """Operations of Pillow, of which each image draws its own."""

    on_pixels: ClassVar[bool] = True

    def space(self, h: int, w: int) -> Space:
        """The operations to draw from, with their arguments, for images of this size."""
        raise NotImplementedError

    def draw(self, keys: Keys) -> Draws:
        """Draws the operations, and the number of each one's argument."""
        raise NotImplementedError

    def __call__(self, keys: Keys, image: Image) -> Image:
        """Applies the operations that are drawn, one after the other."""
        h, w, _ = image.shape
        space = self.space(h, w)
        which, entry = self.draw(keys)
        # Not 1, which gives the second of the keys that `draw` may split this one into.
        either = _coins(jax.random.fold_in(keys[1], 2), len(which))
        for layer in range(len(which)):
            image = space.change(image, which[layer], entry[layer], either[layer])
        return image


@dataclasses.dataclass(frozen=True)
class RandAugment(Policy):
    """torchvision's RandAugment: in each layer one of 14 operations, at the same magnitude of 0 to 30."""

    layers: int = 2
    magnitude: int = 9
    interpolation: str = "nearest"
    fill: str = "black"

    stream: ClassVar[int] = 4

    def check(self, field: str, shape: tuple[int, int, int] | None) -> None:
        """The magnitude has an entry, and interpolation and fill are known."""
        check_at_least(f"{field} layers", self.layers, 1)
        check_within(f"{field} magnitude", self.magnitude, 0, BINS - 1)
        _check_geometry(field, self.interpolation, self.fill)

    def space(self, h: int, w: int) -> Space:
        """The operations, each with its argument and the negative one."""
        return _torchvision_space(TORCHVISION, h, w, BINS, self.interpolation, self.fill)

    def draw(self, keys: Keys) -> Draws:
        """Draws operations and signs uniformly."""
        which = jax.random.randint(keys[0], (self.layers,), 0, len(TORCHVISION))
        return which, 2 * self.magnitude + _coins(keys[1], self.layers)


@dataclasses.dataclass(frozen=True)
class TrivialAugmentWide(Policy):
    """One of 14 operations at a magnitude drawn evenly from wide ranges (Müller 2021, arXiv 2103.10158)."""

    interpolation: str = "nearest"
    fill: str = "black"

    stream: ClassVar[int] = 6

    def check(self, field: str, shape: tuple[int, int, int] | None) -> None:
        """Interpolation and fill are known."""
        _check_geometry(field, self.interpolation, self.fill)

    def space(self, h: int, w: int) -> Space:
        """The operations, each with 31 arguments and the negative ones."""
        moves = dict(zip(MOVES, (0.99, 0.99, 32.0, 32.0, 135.0), strict=True))
        highest = dict.fromkeys(FACTORS, 0.99) | moves
        arguments = _torchvision_arguments(TORCHVISION, highest, BINS, most=6)
        return Space(TORCHVISION, arguments, self.interpolation, self.fill)

    def draw(self, keys: Keys) -> Draws:
        """Draws operation, magnitude and sign uniformly."""
        which = jax.random.randint(keys[0], (1,), 0, len(TORCHVISION))
        return which, jax.random.randint(keys[1], (1,), 0, 2 * BINS)


@dataclasses.dataclass(frozen=True)
class AutoAugment(Policy):
    """One of 25 pairs of operations that were found for a data set (Cubuk 2019, arXiv 1805.09501)."""

    policy: str
    interpolation: str = "nearest"
    fill: str = "black"

    stream: ClassVar[int] = 8
    bins: ClassVar[int] = 10

    def check(self, field: str, shape: tuple[int, int, int] | None) -> None:
        """The policy, interpolation and fill are known."""
        check_choice(f"{field} policy", self.policy, PAIRS)
        _check_geometry(field, self.interpolation, self.fill)

    def space(self, h: int, w: int) -> Space:
        """The operations of torchvision, each with ten arguments and the negative ones."""
        names = (*TORCHVISION, "Invert")
        return _torchvision_space(names, h, w, self.bins, self.interpolation, self.fill)

    def draw(self, keys: Keys) -> Draws:
        """Draws a pair uniformly; each of the two takes place with its own probability."""
        names = self.space(1, 1).names
        pairs = PAIRS[self.policy]
        which = np.array([[names.index(name) for name, _, _ in pair] for pair in pairs])
        chance = np.array([[chance for _, chance, _ in pair] for pair in pairs], np.float32)
        level = np.array([[level for _, _, level in pair] for pair in pairs])
        pair_key, chance_key = jax.random.split(keys[0])
        pair = jax.random.randint(pair_key, (), 0, len(pairs))
        happens = jax.random.uniform(chance_key, (2,)) < jnp.asarray(chance)[pair]
        chosen = jnp.where(happens, jnp.asarray(which)[pair], names.index("Identity"))
        return chosen, 2 * jnp.asarray(level)[pair] + _coins(keys[1], 2)


@dataclasses.dataclass(frozen=True)
class TimmRandAugment(Policy):
    """timm's RandAugment: "timm_rand_augment 2 7 0.5" is its rand-m7-mstd0.5-inc1.

    Each layer takes one of 15 operations and applies it with a probability, at a magnitude of 0 to 10 from a
    normal distribution of this spread. A spread above 100 stands for evenly drawn ones of 0 to `magnitude`.
    """

    layers: int = 2
    magnitude: float = 9.0
    spread: float = 0.0
    scale: str = "increasing"
    probability: float = 0.5
    interpolation: str = "either"
    fill: str = "imagenet"

    stream: ClassVar[int] = 10

    def check(self, field: str, shape: tuple[int, int, int] | None) -> None:
        """The magnitude lies in 0..10, and the other arguments are what they must be."""
        check_at_least(f"{field} layers", self.layers, 1)
        check_within(f"{field} magnitude", self.magnitude, 0, HIGHEST)
        check_at_least(f"{field} spread", self.spread, 0)
        check_choice(f"{field} scale", self.scale, ("increasing", "original"))
        check_within(f"{field} probability", self.probability, 0, 1)
        _check_geometry(field, self.interpolation, self.fill)

    def space(self, h: int, w: int) -> Space:
        """The operations, each with arguments from magnitude 0 to 10 and the negative ones; last, none."""
        return _timm_space(h, w, self.scale == "increasing", self.interpolation, self.fill)

    def draw(self, keys: Keys) -> Draws:
        """Draws operations uniformly, each with its own magnitude and sign."""
        which_key, happens_key = jax.random.split(keys[0])
        level_key, sign_key = jax.random.split(keys[1])
        none = len(self.space(1, 1).names) - 1
        which = jax.random.randint(which_key, (self.layers,), 0, none)
        happens = jax.random.bernoulli(happens_key, self.probability, (self.layers,))
        if self.spread > 100:
            level = self.magnitude * jax.random.uniform(level_key, (self.layers,))
        else:
            level = self.magnitude + self.spread * jax.random.normal(level_key, (self.layers,))
        entry = jnp.round(GRAIN * jnp.clip(level, 0, HIGHEST)).astype(jnp.int32)
        return jnp.where(happens, which, none), 2 * entry + _coins(sign_key, self.layers)


def _coins(key: Key[Array, ""], count: int) -> Int[Array, " count"]:
    """So many zeros and ones."""
    return jax.random.randint(key, (count,), 0, 2)


def _check_geometry(field: str, interpolation: str, fill: str) -> None:
    check_choice(f"{field} interpolation", interpolation, INTERPOLATIONS)
    check_choice(f"{field} fill", fill, FILLS)


def _with_signs(values: Float64[np.ndarray, " n"], centre: float = 0.0) -> Float64[np.ndarray, " m"]:
    """Each value after and before the centre, one after the other."""
    return np.stack([centre + values, centre - values], -1).reshape(-1)


def _torchvision_arguments(
    names: Sequence[str], highest: Mapping[Any, float], bins: int, most: int
) -> Float64[np.ndarray, "operations n"]:
    """Those of magnitude 0 to bins - 1, each with both signs; at most so many bits are cut off."""
    steps = np.arange(bins)
    special = {"Posterize": 8 - np.round(steps / ((bins - 1) / most)), "Solarize": np.linspace(255, 0, bins)}

    def arguments(name):
        if name in special:
            return np.repeat(special[name], 2)
        values = np.linspace(0, highest.get(name, 0.0), bins)
        return _with_signs(np.trunc(values) if "Translate" in name else values, float(name in FACTORS))

    return np.stack([arguments(name) for name in names])


def _torchvision_space(
    names: tuple[str, ...], h: int, w: int, bins: int, interpolation: str, fill: str
) -> Space:
    """That of RandAugment and AutoAugment."""
    moves = dict(zip(MOVES, (0.3, 0.3, 150 / 331 * w, 150 / 331 * h, 30.0), strict=True))
    highest = dict.fromkeys(FACTORS, 0.9) | moves
    return Space(names, _torchvision_arguments(names, highest, bins, most=4), interpolation, fill)


def _timm_space(h: int, w: int, increasing: bool, interpolation: str, fill: str) -> Space:
    """The 15 operations and, last, none."""
    share = np.arange(GRAIN * HIGHEST + 1) / (GRAIN * HIGHEST)
    # A grain of rounding is added, so that 4 * 0.75 is not cut to 2.
    bits, threshold = np.trunc(4 * share + 1e-9), np.trunc(256 * share + 1e-9)
    if increasing:
        factors = np.maximum(_with_signs(0.9 * share, 1.0), 0.1)
        bits, threshold = 4 - bits, 256 - threshold
    else:
        factors = np.repeat(0.1 + 1.8 * share, 2)
    moves = dict(zip(MOVES, (0.3, 0.3, 0.45 * w, 0.45 * h, 30.0), strict=True))
    arguments = dict.fromkeys(("AutoContrast", "Equalize", "Invert"), np.zeros(2 * len(share)))
    arguments |= {"Posterize": np.repeat(bits, 2), "Solarize": np.repeat(threshold, 2)}
    arguments |= {"SolarizeAdd": np.repeat(np.minimum(np.trunc(110 * share + 1e-9), 128), 2)}
    arguments |= dict.fromkeys(FACTORS, factors)
    arguments |= {name: _with_signs(high * share) for name, high in moves.items()}
    arguments["Identity"] = np.zeros(2 * len(share))
    return Space(tuple(arguments), np.stack(list(arguments.values())), interpolation, fill)
