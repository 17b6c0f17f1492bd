"""A function of one image, for each image of a batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from resnet.kernels.backend import xla_alone


def each_image(function: Callable, *arguments: Any) -> Array:
    """The results of `function` for each entry of the leading axis of the arguments.

    The CPU takes image by image, and of a `lax.switch` in the function only the branch that an image needs.
    An accelerator takes all images, and all branches, at once.
    """
    if xla_alone():
        return _together(function, *arguments)
    one_by_one, together = (functools.partial(each, function) for each in (_one_by_one, _together))
    return jax.lax.platform_dependent(*arguments, cpu=one_by_one, default=together)


def _one_by_one(function: Callable, *arguments: Any) -> Array:
    return jax.lax.map(lambda entry: function(*entry), arguments)


def _together(function: Callable, *arguments: Any) -> Array:
    return jax.vmap(function)(*arguments)
