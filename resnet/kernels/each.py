"""A function of one image, for each image of a batch."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from resnet.kernels.backend import written_for_cpu


def each_image(function: Callable, *arguments: Any) -> Array:
    """The results of `function` for each entry of the leading axis of the arguments.

    The CPU takes image by image, and of a `lax.switch` in the function only the branch that an image needs.
    An accelerator takes all images, and all branches, at once.
    """
    if written_for_cpu():
        return jax.lax.map(lambda entry: function(*entry), arguments)
    return jax.vmap(function)(*arguments)
