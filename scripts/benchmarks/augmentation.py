"""Operations and policies of augmentation, beside Pillow's on the same images with the same draws."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_sample_images

from resnet.data.augmentation.operations import PILLOW, Space
from resnet.data.augmentation.policies import AutoAugment, RandAugment, TimmRandAugment, TrivialAugmentWide
from resnet.kernels.each import each_image
from scripts.peers.pillow import RESAMPLING, by_pillow, drawn, policy_by_pillow
from scripts.peers.torch_nets import Case

REFERENCE = "Pillow, rand_augment"
ARGUMENTS = {"Posterize": 4.0, "Solarize": 128.0, "SolarizeAdd": 60.0, "Rotate": 21.0}
ARGUMENTS |= {"ShearX": 0.2, "ShearY": 0.2, "TranslateX": 7.3, "TranslateY": 7.3}
POLICIES = {
    "rand_augment": RandAugment(2, 9, "bilinear"),
    "timm_rand_augment": TimmRandAugment(2, 7, 0.5, interpolation="bicubic"),
    "trivial_augment": TrivialAugmentWide("bilinear"),
    "auto_augment": AutoAugment("imagenet", "bilinear"),
}


def augmentation_steps(case: Case) -> dict[str, Callable[[], Any]]:
    """A batch through each policy and operation, by Pillow on one thread and by ours on all processors."""
    images = _photographs(case.batch, case.side)
    steps: dict[str, Callable[[], Any]] = {}
    for name, policy in POLICIES.items():
        steps |= _pair(name, *_of_policy(policy, images))
    for name in PILLOW:
        steps |= _pair(name, *_of_operation(name, images))
    return steps


def _pair(name: str, pillow: Callable[[], Any], ours: Callable[[], Any]) -> dict[str, Callable[[], Any]]:
    return {f"Pillow, {name}": pillow, f"ours, {name}": ours}


def _of_policy(policy: Any, images: np.ndarray) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The policy by Pillow, and by ours, which also draws."""
    keys = jax.vmap(jax.random.split)(jax.random.split(jax.random.key(0), len(images)))
    _, h, w, _ = images.shape
    draws = [drawn(policy, list(pair), h, w) for pair in keys]
    pillow = partial(_each, partial(policy_by_pillow, policy), draws, images)
    return pillow, _compiled(policy, keys, images)


def _of_operation(name: str, images: np.ndarray) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """One operation by Pillow, and by ours; bilinear where it moves pixels."""
    argument = ARGUMENTS.get(name, 0.6)
    space, resample = Space((name,), np.array([[argument]]), "bilinear"), RESAMPLING["bilinear"]

    def changed(zero, image):
        return space.change(image, zero, zero, zero)

    def by_name(_, pixels):
        return by_pillow(name, argument, pixels, resample)

    zeros = jnp.zeros(len(images), jnp.int32)
    return partial(_each, by_name, zeros, images), _compiled(changed, zeros, images)


def _each(function: Callable, draws: Any, images: np.ndarray) -> list[np.ndarray]:
    return [function(draw, image) for draw, image in zip(draws, images, strict=True)]


def _compiled(function: Callable, draws: Any, images: np.ndarray) -> Callable[[], Any]:
    on_device = jnp.asarray(images)
    program = jax.jit(partial(each_image, function))
    return lambda: jax.block_until_ready(program(draws, on_device))


def _photographs(count: int, side: int) -> np.ndarray:
    """Squares of this side, cut out of scikit-learn's two photographs."""
    photographs = load_sample_images().images
    h, w, _ = photographs[0].shape
    corners = np.random.default_rng(0).integers(0, (h - side, w - side), (count, 2))
    cuts = ((photographs[i % 2], y, x) for i, (y, x) in enumerate(corners))
    return np.stack([image[y : y + side, x : x + side] for image, y, x in cuts])
