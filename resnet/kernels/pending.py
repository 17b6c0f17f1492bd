"""What a program has still to compute, so that one operation may do what the program does in several.

These are the values of `joining.py`: a convolution, or images whose norm, shortcut and ReLU wait for each
other, and the gradients to them.
"""

import abc
import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from resnet.kernels import native
from resnet.kernels.convolution import FORWARD
from resnet.kernels.formulations import Window, result_shape
from resnet.kernels.fused import COMBINATION, JOINED_FORWARD, MASKED_SUM, of_images


class Pending(abc.ABC):
    """An array that is computed at its first use, and kept."""

    @property
    @abc.abstractmethod
    def array(self) -> Array:
        """The array itself."""


@dataclasses.dataclass(frozen=True, eq=False)
class Zeros(Pending):
    """Images of zeros."""

    shape: tuple[Any, ...]
    dtype: Any

    @functools.cached_property
    def array(self) -> Array:
        return jnp.zeros(self.shape, self.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class OfParts(Pending):
    """Values [k, c] of channels, of k equal parts of so many images, for each of these."""

    values: Array
    images: int

    @functools.cached_property
    def array(self) -> Array:
        return of_images(self.values, self.images)


@dataclasses.dataclass(frozen=True, eq=False)
class Combination(Pending):
    """Norm, shortcut and ReLU, not yet computed: relu(x * scale + offset + added * added_scale).

    Scales and offset are [c], or [k, c] where k equal parts of the images have their own.
    Every part but x * scale may be missing. The gradient to the input of a norm has this form, too: x is the
    gradient to the norm's result, masked by that of the ReLU behind it, and `added` is the norm's input.
    """

    x: "Array | Masked"
    scale: Array
    offset: Array | None = None
    added: Array | None = None
    added_scale: Array | None = None
    relu: bool = False

    @functools.cached_property
    def array(self) -> Array:
        if self.added is None:
            images = self.shape[0]
            y = array_of(self.x) * of_images(self.scale, images)
            y = y if self.offset is None else y + of_images(self.offset, images)
            return jnp.maximum(y, 0.0) if self.relu else y
        first, *mask = self.x.by_norm_of(self.added) if isinstance(self.x, Masked) else (self.x,)
        scale = jnp.ones_like(self.scale) if self.added_scale is None else self.added_scale
        offset = jnp.zeros_like(self.scale) if self.offset is None else self.offset
        return COMBINATION.bind(first, self.added, self.scale, scale, offset, *mask, relu=self.relu)

    @functools.cached_property
    def rectified(self) -> "Combination":
        return dataclasses.replace(self, relu=True)

    @property
    def shape(self) -> tuple[Any, ...]:
        return self.x.shape

    @property
    def norm(self) -> tuple[Array, ...]:
        """(scale, offset) if the images are x * scale + offset or its ReLU; () if they are more."""
        if self.offset is None or self.added is not None or isinstance(self.x, Masked):
            return ()
        return self.scale, self.offset

    @property
    def whole(self) -> bool:
        """Whether it is what a convolution can take for its images."""
        return self.relu and bool(self.norm) and self.shape[3] % native.CHANNELS == 0

    def ending_in(self, operation: str, other: Any) -> "Combination | None":
        """Joins one more operation with `other`; returns the images after it, or None if it cannot be joined.

        `other` is an array, what is still to be computed, or a number that the program holds.
        """
        if self.relu:
            return None
        if operation == "max":
            return self.rectified if is_zero(other) else None
        if operation != "add":
            return None
        free, alike = self.added is None, np.shape(other) == self.shape
        if free and alike and isinstance(other, Combination) and (both := self.plus(other)):
            return both
        if self.offset is None and (values := of_channels(other, self.shape)) is not None:
            return dataclasses.replace(self, offset=values)
        other = array_of(other)
        if free and alike and isinstance(other, Array):
            return dataclasses.replace(self, added=other)
        return None

    def plus(self, other: "Combination") -> "Combination | None":
        """The sum of two without addends, a masked gradient as its x; None where they cannot be joined."""
        if other.added is not None or other.relu:
            return None
        one, other = (other, self) if isinstance(other.x, Masked) else (self, other)
        offset = other.offset if one.offset is None else one.offset
        if one.offset is not None and other.offset is not None:
            if one.offset.shape != other.offset.shape:  # of other parts of the images
                return None
            offset = one.offset + other.offset
        return dataclasses.replace(one, offset=offset, added=array_of(other.x), added_scale=other.scale)


@dataclasses.dataclass(frozen=True, eq=False)
class Positive(Pending):
    """Where images are positive: the mask of a ReLU."""

    images: Array | Combination

    @functools.cached_property
    def array(self) -> Array:
        return array_of(self.images) > 0


@dataclasses.dataclass(frozen=True, eq=False)
class Sum(Pending):
    """The sum of two images, such as the gradients from a branch and from its shortcut."""

    first: Array
    second: Array

    @functools.cached_property
    def array(self) -> Array:
        return self.first + self.second


@dataclasses.dataclass(frozen=True, eq=False)
class Masked(Pending):
    """The gradient `given` where the mask is true, and zero elsewhere."""

    given: Array | Sum
    mask: Positive

    @functools.cached_property
    def array(self) -> Array:
        if isinstance(self.given, Sum) and isinstance(self.mask.images, Array):
            return MASKED_SUM.bind(self.given.first, self.given.second, self.mask.images)
        return jnp.where(self.mask.array, array_of(self.given), 0.0)

    @property
    def shape(self) -> tuple[Any, ...]:
        return self.mask.images.shape

    def by_norm_of(self, x: Any) -> tuple[Array, ...]:
        """(g, scale, offset) if the mask is that of a norm x * scale + offset of this x; else (array,)."""
        images = self.mask.images
        norm = images.norm if isinstance(images, Combination) and images.x is x else ()
        return (array_of(self.given), *norm) if norm else (self.array,)


@dataclasses.dataclass(frozen=True, eq=False)
class Convolution(Pending):
    """relu(scale * convolution + offset + shortcut).

    A part that is None, and the ReLU where `relu` is false, is left out.
    """

    x: Array | Combination
    kernel: Array
    window: Window
    scale: Array | None = None
    offset: Array | None = None
    shortcut: Array | None = None
    relu: bool = False

    @functools.cached_property
    def array(self) -> Array:
        channels = self.kernel.shape[-1]
        after: tuple[Array, ...] = ()
        if self.relu or not (self.scale is self.offset is self.shortcut is None):
            scale = jnp.ones(channels, self.kernel.dtype) if self.scale is None else self.scale
            after = (scale, jnp.zeros_like(scale) if self.offset is None else self.offset)
        x, *before = (self.x.x, *self.x.norm) if isinstance(self.x, Combination) else (self.x,)
        if not (before or after):
            return FORWARD.bind(x, self.kernel, window=self.window)
        shortcut = () if self.shortcut is None else (self.shortcut,)
        static = {"window": self.window, "before": bool(before), "after": bool(after), "relu": self.relu}
        return JOINED_FORWARD.bind(x, self.kernel, *before, *after, *shortcut, **static)

    def ending_in(self, operation: str, other: Any) -> "Convolution | None":
        """Joins one more operation with `other`; returns both, or None if native code can't do both."""
        if self.relu:
            return None
        if operation == "max":
            return dataclasses.replace(self, relu=True) if is_zero(other) else None
        other = array_of(other)
        if not isinstance(other, Array) or self.shortcut is not None:
            return None
        if operation == "add" and other.shape == result_shape(self.x, self.kernel, self.window):
            return dataclasses.replace(self, shortcut=other)
        values = of_channels(other, (1, 1, 1, self.kernel.shape[-1]))
        if self.offset is not None or values is None:
            return None
        if operation == "add":
            return dataclasses.replace(self, offset=values)
        if operation == "mul" and self.scale is None:
            return dataclasses.replace(self, scale=values)
        return None


def array_of(value: Any) -> Any:
    """The array, if `value` is pending; else the value."""
    return value.array if isinstance(value, Pending) else value


def is_zero(value: Any) -> bool:
    """Whether `value` is zero, as a constant of the program."""
    return not isinstance(value, Array | Pending) and np.ndim(value) == 0 and bool(value == 0)


def is_images(value: Any) -> bool:
    """Whether `value` is an array of images in float32."""
    return isinstance(value, Array) and value.ndim == 4 and value.dtype == jnp.float32


def of_channels(value: Any, shape: tuple[Any, ...]) -> Array | None:
    """The values [c], or [k, c] of equal parts, if `value` has one for each channel of such images."""
    if isinstance(value, OfParts) and (value.images, value.values.shape[-1]) == (shape[0], shape[-1]):
        return value.values
    if isinstance(value, Array) and value.shape == (1, 1, 1, shape[-1]):
        return value[0, 0, 0]
    return None
