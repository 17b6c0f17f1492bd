"""Operations and policies of augmentation, beside Pillow's on the same images with the same draws."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_sample_images

from resnet.data.augmentation.operations import PILLOW, Space
from resnet.data.augmentation.policies import AutoAugment, RandAugment, TimmRandAugment, TrivialAugmentWide
from resnet.kernels.backend import each_image
from scripts.peers.pillow import RESAMPLING, by_pillow, drawn, policy_by_pillow

REFERENCE = "Pillow"
ARGUMENTS = {"Posterize": 4.0, "Solarize": 128.0, "SolarizeAdd": 60.0, "Rotate": 21.0}
ARGUMENTS |= {"ShearX": 0.2, "ShearY": 0.2, "TranslateX": 7.3, "TranslateY": 7.3}
POLICIES = {
    "rand_augment": RandAugment(2, 9, "bilinear"),
    "timm_rand_augment": TimmRandAugment(2, 7, 0.5, interpolation="bicubic"),
    "trivial_augment": TrivialAugmentWide("bilinear"),
    "auto_augment": AutoAugment("imagenet", "bilinear"),
}


# Images of a batch, by their side in pixels.
BATCHES = {32: 128, 224: 16}
KINDS = {f"{kind}-{side}": kind for side in BATCHES for kind in (*POLICIES, *PILLOW)}


def augmentation_steps(kind: str, batch: int, side: int) -> dict[str, Callable[[], Any]]:
    """A batch through a policy or an operation, by Pillow on one thread and by ours on all processors."""
    images = _photographs(batch, side)
    if kind in POLICIES:
        pillow, ours = _of_policy(POLICIES[kind], images)
    else:
        pillow, ours = _of_operation(kind, images)
    return {REFERENCE: pillow, "ours": ours}


def _of_policy(policy: Any, images: np.ndarray) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The policy by Pillow, and by ours, which also draws."""
    keys = jax.vmap(jax.random.split)(jax.random.split(jax.random.key(0), len(images)))
    _, h, w, _ = images.shape
    draws = [drawn(policy, list(pair), h, w) for pair in keys]
    pillow = partial(_each, partial(policy_by_pillow, policy), draws, images)
    return pillow, _compiled(policy, keys, images)


def _of_operation(name: str, images: np.ndarray) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """One operation by Pillow, and by our program of all; bilinear where it moves pixels."""
    numbers, on_device = jnp.full(len(images), [*PILLOW].index(name), jnp.int32), jnp.asarray(images)

    def by_name(_, pixels):
        return by_pillow(name, ARGUMENTS.get(name, 0.6), pixels, RESAMPLING["bilinear"])

    ours = lambda: jax.block_until_ready(_operations()(numbers, on_device))  # noqa: E731
    return partial(_each, by_name, numbers, images), ours


@cache
def _operations() -> Callable[[Any, Any], Any]:
    """The program of all operations, which is compiled once for each shape of a batch."""
    space = Space(tuple(PILLOW), np.array([[ARGUMENTS.get(each, 0.6)] for each in PILLOW]), "bilinear")
    return jax.jit(partial(each_image, partial(_changed, space)))


def _changed(space: Space, which: Any, image: Any) -> Any:
    """The image after this operation of the space, at its one argument."""
    zero = jnp.zeros((), jnp.int32)
    return space.change(image, which, zero, zero)


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
