"""Convolutions that end in what follows them: the norm's scale and offset, the shortcut, the ReLU.

For programs that only predict, in which a batch norm is a scale and an offset for each channel. On the CPU
our own convolution (native) applies them, adds the shortcut and takes the ReLU while it writes a result; as
operations of their own they would read and write all of it once more. Nets stay as they are written: `ended`
finds in the traced program what follows a convolution.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var
from jax.interpreters import ad, batching
from jaxtyping import Array

from resnet.kernels import native
from resnet.kernels.backend import by_platform
from resnet.kernels.convolution import FORWARD
from resnet.kernels.formulations import Window, native_ends, result_shape

# Calls whose program is read as if it stood in their place, and the parameter that holds it.
CALLS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "remat2": "jaxpr"}
ENDINGS = ("mul", "add", "max")


def ended(function: Callable[..., Array]) -> Callable[..., Array]:
    """The function with its convolutions joined to what follows them; results differ by rounding alone."""

    def same(*arrays: Array) -> Array:
        closed = jax.make_jaxpr(function)(*arrays)
        return _array(_results(closed.jaxpr, closed.consts, arrays)[0])

    return same


@dataclasses.dataclass(frozen=True, eq=False)
class Convolution:
    """relu(scale * convolution + offset + shortcut) that is still to be computed; None: without that part."""

    x: Array
    kernel: Array
    window: Window
    scale: Array | None = None
    offset: Array | None = None
    shortcut: Array | None = None
    relu: bool = False

    @functools.cached_property
    def array(self) -> Array:
        """The result, computed at the first call and kept."""
        if self.scale is self.offset is self.shortcut is None and not self.relu:
            return FORWARD.bind(self.x, self.kernel, window=self.window)
        channels = self.kernel.shape[-1]
        scale = jnp.ones(channels) if self.scale is None else self.scale
        offset = jnp.zeros(channels) if self.offset is None else self.offset
        arrays = [self.x, self.kernel, scale, offset]
        arrays += [] if self.shortcut is None else [self.shortcut]
        return _AFFINE.bind(*arrays, window=self.window, relu=self.relu)

    def ending_in(self, operation: str, other: Any) -> "Convolution | None":
        """With this operation, on its result and `other`, as its last part; None where it has no such part.

        `other` is an array, or a number that the program holds.
        """
        if self.relu:
            return None
        if not isinstance(other, Array):
            zero = np.ndim(other) == 0 and other == 0
            return dataclasses.replace(self, relu=True) if operation == "max" and zero else None
        if self.shortcut is not None:
            return None
        if operation == "add" and other.shape == result_shape(self.x, self.kernel, self.window):
            return dataclasses.replace(self, shortcut=other)
        if self.offset is not None or other.shape != (1, 1, 1, self.kernel.shape[-1]):
            return None
        if operation == "add":
            return dataclasses.replace(self, offset=other[0, 0, 0])
        if operation == "mul" and self.scale is None:
            return dataclasses.replace(self, scale=other[0, 0, 0])
        return None


def _array(value: Any) -> Any:
    return value.array if isinstance(value, Convolution) else value


def _results(jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """The results of a program: arrays, and convolutions that are still to be computed."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))
    readers = [*(each for equation in jaxpr.eqns for each in equation.invars), *jaxpr.outvars]
    times_read = collections.Counter(each for each in readers if isinstance(each, Var))

    def read(atom: Any) -> Any:
        if isinstance(atom, Literal):
            return atom.val
        # What is read twice is computed once, as it is.
        return _array(values[atom]) if times_read[atom] > 1 else values[atom]

    for equation in jaxpr.eqns:
        found = _of_equation(equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _of_equation(equation: Any, operands: list[Any]) -> Sequence[Any]:
    """The results of one operation of a program, of the same two kinds."""
    primitive, params, name = equation.primitive, equation.params, equation.primitive.name
    if name in CALLS:
        called = params[CALLS[name]]
        return _results(getattr(called, "jaxpr", called), getattr(called, "consts", ()), operands)
    if name in ENDINGS:
        for one, other in (operands, operands[::-1]):
            found = isinstance(one, Convolution) and one.ending_in(name, _array(other))
            if found:
                return [found]
    arrays = [_array(operand) for operand in operands]
    if primitive is FORWARD and arrays[0].dtype == jnp.float32:
        return [Convolution(*arrays, **params)]
    if name == "scan":
        params = params | {"jaxpr": _ended_program(params["jaxpr"])}
    found = primitive.bind(*arrays, **primitive.get_bind_params(params))
    return found if primitive.multiple_results else [found]


def _ended_program(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The body of a loop with its convolutions joined to what follows them."""

    def body(*arrays: Array) -> list[Array]:
        return [_array(value) for value in _results(closed.jaxpr, closed.consts, arrays)]

    return jax.make_jaxpr(body)(*closed.in_avals)


# The convolution with its ending as one operation.


def _composed(*arrays: Array, window: Window, relu: bool) -> Array:
    """Computes the same by separate operations; derivatives and `vmap` are those of this form."""
    x, kernel, scale, offset, *shortcut = arrays
    y = FORWARD.bind(x, kernel, window=window) * scale[None, None, None] + offset[None, None, None]
    y = y + shortcut[0] if shortcut else y
    return jax.nn.relu(y) if relu else y


def _on_cpu(*arrays: Array, window: Window, relu: bool) -> Array:
    x, kernel = arrays[:2]
    if native_ends(x, kernel, window):
        return native.run_affine(arrays, result_shape(x, kernel, window), window, relu)
    return _composed(*arrays, window=window, relu=relu)


_AFFINE = by_platform(
    "convolution_affine",
    lambda x, kernel, *ending, window, relu: ShapedArray(result_shape(x, kernel, window), x.dtype),
    cpu=_on_cpu,
    elsewhere=_composed,
    static=("window", "relu"),
)


def _batched(arrays: Sequence[Array], axes: Sequence[int | None], **static: Any) -> tuple[Array, int]:
    return jax.vmap(functools.partial(_composed, **static), axes)(*arrays), 0


def _derived(primals: Sequence[Array], tangents: Sequence[Any], **static: Any) -> tuple[Array, Array]:
    dense = tuple(ad.instantiate_zeros(tangent) for tangent in tangents)
    return jax.jvp(functools.partial(_composed, **static), tuple(primals), dense)


batching.primitive_batchers[_AFFINE] = _batched
ad.primitive_jvps[_AFFINE] = _derived
