"""Joins the convolutions of a traced program to the operations before and after them.

On the CPU our own convolution (native) applies what stands before it while it reads its images: a scale, an
offset and a ReLU, the last part of a batch norm and its activation. So the gradient to a kernel keeps none of
that. Where nets predict, it applies what stands behind it, the same and a shortcut, while it writes its
result. As operations of their own they would read and write all images once more. Nets stay as they are
written: `joined` finds in the program what a convolution can do as well.
"""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Primitive, Var
from jax.interpreters import ad, batching
from jaxtyping import Array

from resnet.kernels import native
from resnet.kernels.backend import by_platform
from resnet.kernels.convolution import FORWARD, KERNEL_GRADIENT
from resnet.kernels.formulations import (
    Window,
    kernel_shape,
    native_serves_forward,
    native_serves_kernel_gradient,
    result_shape,
)

# Calls whose program is read as if it stood in their place, and the parameter that holds it.
CALLS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "remat2": "jaxpr"}


def joined(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its convolutions joined to what is around them; results differ by rounding alone."""

    return lambda *arguments: run_joined(jax.make_jaxpr(function, return_shape=True)(*arguments), arguments)


def run_joined(program: tuple[ClosedJaxpr, Any], arguments: tuple[Any, ...]) -> Any:
    """Runs a program that `jax.make_jaxpr(…, return_shape=True)` traced, and joins its convolutions."""
    closed, shapes = program
    results = _results(closed.jaxpr, closed.consts, jax.tree.leaves(arguments))
    return jax.tree.unflatten(jax.tree.structure(shapes), map(_array, results))


@dataclasses.dataclass(frozen=True, eq=False)
class Normalised:
    """Images relu(x * scale + offset), which are computed when they are needed.

    An offset that is None, and the ReLU where `relu` is false, is left out.
    """

    x: Array
    scale: Array
    offset: Array | None = None
    relu: bool = False

    @functools.cached_property
    def array(self) -> Array:
        y = self.x * self.scale[None, None, None]
        y = y if self.offset is None else y + self.offset[None, None, None]
        return jnp.maximum(y, 0.0) if self.relu else y

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape

    @property
    def whole(self) -> bool:
        """Whether it is what a convolution can take for its images."""
        return self.offset is not None and self.relu and self.x.shape[3] % native.CHANNELS == 0

    def ending_in(self, operation: str, other: Any) -> "Normalised | None":
        """The images after one more operation with `other`; None if no convolution can read them so."""
        if self.relu:
            return None
        if operation == "max" and _is_zero(other):
            return dataclasses.replace(self, relu=True)
        fits = operation == "add" and self.offset is None and _of_channels(other, self.x.shape[3])
        return dataclasses.replace(self, offset=other[0, 0, 0]) if fits else None


@dataclasses.dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution that is still to be computed: relu(scale * convolution + offset + shortcut).

    A part that is None, and the ReLU where `relu` is false, is left out.
    """

    x: Array | Normalised
    kernel: Array
    window: Window
    scale: Array | None = None
    offset: Array | None = None
    shortcut: Array | None = None
    relu: bool = False

    @functools.cached_property
    def array(self) -> Array:
        """The result, computed at the first call and kept."""
        channels = self.kernel.shape[-1]
        after: tuple[Array, ...] = ()
        if self.relu or not (self.scale is self.offset is self.shortcut is None):
            scale = jnp.ones(channels) if self.scale is None else self.scale
            after = (scale, jnp.zeros(channels) if self.offset is None else self.offset)
        before = (self.x.scale, self.x.offset) if isinstance(self.x, Normalised) else ()
        x = self.x.x if isinstance(self.x, Normalised) else self.x
        if not (before or after):
            return FORWARD.bind(x, self.kernel, window=self.window)
        shortcut = () if self.shortcut is None else (self.shortcut,)
        static = {"window": self.window, "before": bool(before), "after": bool(after), "relu": self.relu}
        return _FORWARD.bind(x, self.kernel, *before, *after, *shortcut, **static)

    def ending_in(self, operation: str, other: Any) -> "Convolution | None":
        """The convolution followed by an operation with `other`; None if no native convolution can do both.

        `other` is an array, what is still to be computed, or a number that the program holds.
        """
        if self.relu:
            return None
        if operation == "max":
            return dataclasses.replace(self, relu=True) if _is_zero(other) else None
        other = _array(other)
        if not isinstance(other, Array) or self.shortcut is not None:
            return None
        if operation == "add" and other.shape == result_shape(self.x, self.kernel, self.window):
            return dataclasses.replace(self, shortcut=other)
        if self.offset is not None or not _of_channels(other, self.kernel.shape[-1]):
            return None
        if operation == "add":
            return dataclasses.replace(self, offset=other[0, 0, 0])
        if operation == "mul" and self.scale is None:
            return dataclasses.replace(self, scale=other[0, 0, 0])
        return None


def _is_zero(other: Any) -> bool:
    known = not isinstance(other, Array | Convolution | Normalised)
    return known and np.ndim(other) == 0 and bool(other == 0)


def _of_channels(other: Any, channels: int) -> bool:
    return isinstance(other, Array) and other.shape == (1, 1, 1, channels)


def _array(value: Any) -> Any:
    return value.array if isinstance(value, Convolution | Normalised) else value


def _results(jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Runs a program. Returns arrays, or a Normalised or Convolution that is computed when needed."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))
    readers = [*(each for equation in jaxpr.eqns for each in equation.invars), *jaxpr.outvars]
    times_read = collections.Counter(each for each in readers if isinstance(each, Var))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        scope = str(equation.source_info.name_stack)
        with jax.named_scope(scope) if scope else contextlib.nullcontext():
            found = _of_equation(equation, [read(atom) for atom in equation.invars])
            for variable, value in zip(equation.outvars, found, strict=True):
                # A convolution that is read twice is computed once, as it is.
                once = isinstance(value, Convolution) and times_read[variable] > 1
                values[variable] = value.array if once else value
    return [read(atom) for atom in jaxpr.outvars]


def _of_equation(equation: Any, operands: list[Any]) -> Sequence[Any]:
    """Runs one operation. Returns arrays, or a Normalised or Convolution that is computed when needed."""
    primitive, params, name = equation.primitive, equation.params, equation.primitive.name
    if name in CALLS and not params.get("differentiated"):  # what a gradient recomputes stays as it is
        called = params[CALLS[name]]
        return _results(getattr(called, "jaxpr", called), getattr(called, "consts", ()), operands)
    if name in ("mul", "add", "max"):
        orders = sorted((operands, operands[::-1]), key=lambda order: not isinstance(order[0], Convolution))
        for one, other in orders:
            found = _ending(one, name, other)
            if found:
                return [found]
    if primitive in (FORWARD, KERNEL_GRADIENT) and isinstance(operands[0], Normalised) and operands[0].whole:
        images, other = operands[0], _array(operands[1])
        if primitive is FORWARD:
            return [Convolution(images, other, **params)]
        return [_KERNEL_GRADIENT.bind(images.x, other, images.scale, images.offset, **params)]
    arrays = [_array(operand) for operand in operands]
    if primitive is FORWARD and arrays[0].dtype == jnp.float32:
        return [Convolution(*arrays, **params)]
    if name == "scan":
        params = params | {"jaxpr": _joined_program(params["jaxpr"])}
    found = primitive.bind(*arrays, **primitive.get_bind_params(params))
    return found if primitive.multiple_results else [found]


def _ending(one: Any, operation: str, other: Any) -> Any:
    """The operation on `one` and `other`, still to be computed; None if it is nothing for a convolution."""
    if isinstance(one, Convolution | Normalised):
        return one.ending_in(operation, other)
    images = isinstance(one, Array) and one.ndim == 4 and one.dtype == jnp.float32
    if images and operation == "mul" and _of_channels(other, one.shape[3]) and one.shape != other.shape:
        return Normalised(one, other[0, 0, 0])
    return None


def _joined_program(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The body of a loop with its convolutions joined."""

    def body(*arrays: Array) -> list[Array]:
        return [_array(value) for value in _results(closed.jaxpr, closed.consts, arrays)]

    return jax.make_jaxpr(body)(*closed.in_avals)


# A convolution with what is joined to it as one operation, and the gradient to its kernel.


def _normalised(x: Array, scale: Array, offset: Array) -> Array:
    return jax.nn.relu(x * scale[None, None, None] + offset[None, None, None])


def _composed(*arrays: Array, window: Window, before: bool, after: bool, relu: bool) -> Array:
    """Computes the same by separate operations; derivatives and `vmap` are those of this form."""
    x, kernel, *rest = arrays
    if before:
        scale, offset, *rest = rest
        x = _normalised(x, scale, offset)
    y = FORWARD.bind(x, kernel, window=window)
    if after:
        scale, offset, *shortcut = rest
        y = y * scale[None, None, None] + offset[None, None, None]
        y = y + shortcut[0] if shortcut else y
    return jax.nn.relu(y) if relu else y


def _on_cpu(*arrays: Array, window: Window, before: bool, after: bool, relu: bool) -> Array:
    x, kernel, *rest = arrays
    reads = not before or native.serves(x.shape[3])
    if not (reads and native_serves_forward(x, kernel, window)):
        return _composed(*arrays, window=window, before=before, after=after, relu=relu)
    first, rest = ((rest[0], rest[1]), rest[2:]) if before else (None, rest)
    last, shortcut = ((rest[0], rest[1]), rest[2:]) if after else (None, rest)
    return native.run_forward(
        x, kernel, result_shape(x, kernel, window), window, before=first, after=last,
        shortcut=shortcut[0] if shortcut else None, relu=relu,
    )  # fmt: skip


def _composed_gradient(x: Array, g: Array, scale: Array, offset: Array, *, window: Window) -> Array:
    return KERNEL_GRADIENT.bind(_normalised(x, scale, offset), g, window=window)


def _gradient_on_cpu(x: Array, g: Array, scale: Array, offset: Array, *, window: Window) -> Array:
    if not (native.serves(x.shape[3]) and native_serves_kernel_gradient(x, g, window)):
        return _composed_gradient(x, g, scale, offset, window=window)
    return native.run_kernel_gradient(x, g, kernel_shape(x, g, window), window, before=(scale, offset))


def _operation(
    name: str, shape: Callable[..., tuple], composed: Callable, cpu: Callable, static: tuple
) -> Primitive:
    """A primitive lowered as `cpu` or `composed`, which gives its derivatives and batching rule."""
    primitive = by_platform(
        name,
        lambda a, b, *rest, window, **flags: ShapedArray(shape(a, b, window), a.dtype),
        cpu=cpu,
        elsewhere=composed,
        static=("window", *static),
    )

    def batched(arrays: Sequence[Array], axes: Sequence[int | None], **static: Any) -> tuple[Array, int]:
        return jax.vmap(functools.partial(composed, **static), axes)(*arrays), 0

    def derived(primals: Sequence[Array], tangents: Sequence[Any], **static: Any) -> tuple[Array, Array]:
        dense = tuple(ad.instantiate_zeros(tangent) for tangent in tangents)
        return jax.jvp(functools.partial(composed, **static), tuple(primals), dense)

    batching.primitive_batchers[primitive] = batched
    ad.primitive_jvps[primitive] = derived
    return primitive


_FORWARD = _operation(
    "convolution_joined", result_shape, _composed, _on_cpu, static=("before", "after", "relu")
)
_KERNEL_GRADIENT = _operation(
    "convolution_joined_kernel_gradient", kernel_shape, _composed_gradient, _gradient_on_cpu, static=()
)
