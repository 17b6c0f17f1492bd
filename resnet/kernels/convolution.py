"""Two-dimensional convolution, formulated for the platform that a program is lowered for.

XLA's own convolution is used on GPU and TPU. For the CPU, forward and both gradients are written out:

| case          | formulation for the CPU                                                        |
|---------------|--------------------------------------------------------------------------------|
| one group     | see formulations.py                                                            |
| grouped       | our own (native) where groups fill blocks of 16 channels, in float32; dense    |
|               | convolutions over chunks of groups, their kernels block-diagonal, elsewhere    |
| under `vmap`  | one convolution after the other, since XLA would make them one grouped one     |
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching
from jaxtyping import Array, Float

from resnet.kernels import formulations
from resnet.kernels.backend import by_platform, xla_alone
from resnet.kernels.formulations import Window, input_shape, kernel_shape, plain, result_shape, transposed

# Channels of a chunk. Group by group, the gradient to a kernel took up to 933 times as long as PyTorch's; in
# chunks of 16 to 32 channels, twice as long.
CHUNK_CHANNELS = 32


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k l i o"],
    stride: int,
    padding: int,
    groups: int,
) -> Float[Array, "b y x o"]:
    """Convolution with a square kernel, `padding` zeros on each side, and `stride` in both directions.

    ValueError where the shapes do not fit; of an image smaller than the kernel the result is empty.
    """
    _check(x, kernel, stride, padding, groups)
    if xla_alone():
        return plain(x, kernel, stride, padding, groups)
    window = Window(kernel.shape[0], stride, padding, groups, (x.shape[1], x.shape[2]))
    return FORWARD.bind(x, kernel, window=window)


def _check(x: Array, kernel: Array, stride: int, padding: int, groups: int) -> None:
    """Raises ValueError for shapes that do not fit, as native code reads and writes by them."""
    told = f"; got x {x.shape} {x.dtype}, kernel {kernel.shape} {kernel.dtype}"
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError("x must be [b, h, w, c], and the kernel [k, k, i, o]" + told)
    if kernel.shape[0] != kernel.shape[1] or not kernel.shape[0]:
        raise ValueError("the kernel must be a square of one pixel or more" + told)
    if stride < 1 or padding < 0 or groups < 1:
        raise ValueError(
            "stride and groups must be at least 1, padding at least 0; "
            f"got stride {stride}, groups {groups}, padding {padding}"
        )
    if x.shape[3] != groups * kernel.shape[2]:
        raise ValueError(f"x must have the channels of the kernel's inputs, times {groups} groups" + told)
    if kernel.shape[3] % groups:
        raise ValueError(f"{groups} groups must divide the outputs of the kernel" + told)
    if x.dtype != kernel.dtype:
        raise ValueError("x and the kernel must have one type" + told)


# Forward and both gradients, as they are lowered for the CPU; none of their arrays is empty.


def _forward(x: Array, kernel: Array, window: Window) -> Array:
    if window.groups == 1 or formulations.native_serves_forward(x, kernel, window):
        return formulations.cpu_forward(x, kernel, window)
    return _grouped(x, kernel, window)


def _input_gradient(g: Array, kernel: Array, window: Window) -> Array:
    if window.groups == 1 or formulations.native_serves_input_gradient(g, kernel, window):
        return formulations.cpu_input_gradient(g, kernel, window)
    return transposed(lambda x: _grouped(x, kernel, window), input_shape(g, kernel, window), g)


def _kernel_gradient(x: Array, g: Array, window: Window) -> Array:
    if window.groups == 1 or formulations.native_serves_kernel_gradient(x, g, window):
        return formulations.cpu_kernel_gradient(x, g, window)
    return transposed(lambda kernel: _grouped(x, kernel, window), kernel_shape(x, g, window), g)


def _grouped(x: Array, kernel: Array, window: Window) -> Array:
    """Dense convolutions over chunks of groups; a chunk's kernel is zero outside its groups' blocks."""
    size, _, inputs, outputs = kernel.shape
    groups = window.groups
    per_chunk = max(
        n for n in range(1, groups + 1) if groups % n == 0 and n * inputs <= max(inputs, CHUNK_CHANNELS)
    )
    blocks = kernel.reshape(size, size, inputs, groups // per_chunk, per_chunk, outputs // groups)
    # (k, k, i, chunk, group, o) -> (chunk, k, k, group, i, group, o), zero where the two groups differ.
    diagonal = jnp.einsum("hwicgo,gf->chwgifo", blocks, jnp.eye(per_chunk, dtype=kernel.dtype))
    dense = diagonal.reshape(-1, size, size, per_chunk * inputs, per_chunk * (outputs // groups))
    parts = jnp.split(x, len(dense), axis=3)
    ungrouped = window._replace(groups=1)
    return jnp.concatenate(
        [FORWARD.bind(part, k, window=ungrouped) for part, k in zip(parts, dense, strict=True)], axis=3
    )


# The same three as XLA's own operations.


def _xla_forward(x: Array, kernel: Array, window: Window) -> Array:
    return plain(x, kernel, window.stride, window.padding, window.groups)


def _xla_input_gradient(g: Array, kernel: Array, window: Window) -> Array:
    shape = input_shape(g, kernel, window)
    return transposed(lambda x: _xla_forward(x, kernel, window), shape, g)


def _xla_kernel_gradient(x: Array, g: Array, window: Window) -> Array:
    shape = kernel_shape(x, g, window)
    return transposed(lambda kernel: _xla_forward(x, kernel, window), shape, g)


def _bilinear(
    shape: Callable[..., tuple[int, ...]], cpu: Callable[..., Array], elsewhere: Callable[..., Array]
) -> Primitive:
    """A function of two arrays as a primitive; `shape` gives its result's from the same arguments."""

    def of_terms(f: Callable[..., Array]) -> Callable[..., Array]:
        def filled(a: Array, b: Array, *, window: Window) -> Array:
            result = shape(a, b, window)
            if any(0 in array for array in (a.shape, b.shape, result)):
                return jnp.zeros(result, a.dtype)  # sums of no terms
            return f(a, b, window)

        return filled

    primitive = by_platform(
        f"convolution{cpu.__name__}",
        lambda a, b, *, window: ShapedArray(shape(a, b, window), a.dtype),
        cpu=of_terms(cpu),
        elsewhere=of_terms(elsewhere),
        static=("window",),
    )
    batching.primitive_batchers[primitive] = functools.partial(_batched, primitive, of_terms(elsewhere))
    return primitive


def _batched(
    primitive: Primitive,
    elsewhere: Callable[..., Array],
    arrays: tuple[Array, ...],
    axes: tuple[int | None, ...],
    *,
    window: Window,
) -> tuple[Array, int]:
    """The batching rule: one call for each mapped element on the CPU; elsewhere one grouped convolution."""
    found = lax.platform_dependent(
        *arrays,
        cpu=functools.partial(_unrolled, primitive, axes, window),
        default=jax.vmap(functools.partial(elsewhere, window=window), axes),
    )
    return found, 0


def _unrolled(primitive: Primitive, axes: tuple[int | None, ...], window: Window, *arrays: Array) -> Array:
    """Calls the primitive once for each mapped element."""
    count = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)

    def element(a: Array, axis: int | None, i: int) -> Array:
        if axis is None:
            return a
        # Of no elements, zeros stand for one, whose result has the shape.
        mapped = a if count else jnp.zeros_like(a, shape=(*a.shape[:axis], 1, *a.shape[axis + 1 :]))
        return lax.index_in_dim(mapped, i, axis, keepdims=False)

    each = [
        primitive.bind(*(element(a, axis, i) for a, axis in zip(arrays, axes, strict=True)), window=window)
        for i in range(count or 1)
    ]
    return jnp.stack(each) if count else jnp.stack(each)[:0]


FORWARD = _bilinear(result_shape, _forward, _xla_forward)
_INPUT_GRADIENT = _bilinear(input_shape, _input_gradient, _xla_input_gradient)
KERNEL_GRADIENT = _bilinear(kernel_shape, _kernel_gradient, _xla_kernel_gradient)
# Each is linear in both arrays, and its gradient to either (from the gradient g to its result) is
# another of the three: so derivatives of every order, forward and reverse, take the same paths.
ad.defbilinear(
    FORWARD,
    lambda g, x, kernel, *, window: _INPUT_GRADIENT.bind(g, kernel, window=window),
    lambda g, x, kernel, *, window: KERNEL_GRADIENT.bind(x, g, window=window),
)
ad.defbilinear(
    _INPUT_GRADIENT,
    lambda dx, g, kernel, *, window: FORWARD.bind(dx, kernel, window=window),
    lambda dx, g, kernel, *, window: KERNEL_GRADIENT.bind(dx, g, window=window),
)
ad.defbilinear(
    KERNEL_GRADIENT,
    lambda dkernel, x, g, *, window: _INPUT_GRADIENT.bind(g, dkernel, window=window),
    lambda dkernel, x, g, *, window: FORWARD.bind(x, dkernel, window=window),
)
