"""Two-dimensional convolution, formulated for the backend it runs on.

XLA's own convolution is used on GPU and TPU. On the CPU its gradients are slow: inside a loop they
leave the fast path, and outside one the producers of their operands are computed again for each
kernel gradient. There, forward and both gradients are written out as plain forward convolutions:

| case          | formulation on the CPU                                                         |
|---------------|--------------------------------------------------------------------------------|
| 1x1           | slice and matrix product; the kernel's gradient our own where pixels are many  |
| k x k         | our own (native) where the results have a multiple of 16 channels, in float32  |
| other k x k   | convolutions, the kernel's gradient behind a fence                             |
| grouped       | dense convolutions over chunks of groups, their kernels block-diagonal         |
| under `vmap`  | one convolution after the other, since XLA would make them one grouped one     |
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from resnet.kernels import native
from resnet.kernels.backend import written_for_cpu

NHWC = ("NHWC", "HWIO", "NHWC")
# Group by group a kernel gradient took up to 933 times as long as PyTorch, in chunks of 16 to 32 twice.
CHUNK_CHANNELS = 32
# From here on the kernel gradient of a 1x1 convolution was faster by our own than as a product of matrices.
PIXELS_PER_CHANNEL = 4


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
    if not written_for_cpu():
        return plain(x, kernel, stride, padding, groups)
    if groups > 1:
        return _grouped(x, kernel, stride, padding, groups)
    return _explicit(x, kernel, stride, padding)


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


def plain(x: Array, kernel: Array, stride: int, padding: int, groups: int = 1) -> Array:
    """The convolution as XLA's own operation; every other formulation is tested against it."""
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), ((padding, padding),) * 2, dimension_numbers=NHWC,
        feature_group_count=groups,
    )  # fmt: skip


def _grouped(x: Array, kernel: Array, stride: int, padding: int, groups: int) -> Array:
    """Dense convolutions over chunks of groups; a chunk's kernel is zero outside its groups' blocks."""
    size, _, inputs, outputs = kernel.shape
    per_chunk = max(
        n for n in range(1, groups + 1) if groups % n == 0 and n * inputs <= max(inputs, CHUNK_CHANNELS)
    )
    blocks = kernel.reshape(size, size, inputs, groups // per_chunk, per_chunk, outputs // groups)
    # (k, k, i, chunk, group, o) -> (chunk, k, k, group, i, group, o), zero where the two groups differ.
    diagonal = jnp.einsum("hwicgo,gf->chwgifo", blocks, jnp.eye(per_chunk, dtype=kernel.dtype))
    dense = diagonal.reshape(-1, size, size, per_chunk * inputs, per_chunk * (outputs // groups))
    parts = jnp.split(x, len(dense), axis=3)
    return jnp.concatenate(
        [_explicit(part, k, stride, padding) for part, k in zip(parts, dense, strict=True)], axis=3
    )


def _explicit(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    size = kernel.shape[0]
    # What packed images take grows with the stride: beyond this one, which leaves one result, XLA serves.
    fits = padding < size and stride <= size + max(x.shape[1:3])
    ours = fits and x.dtype == jnp.float32 and native.in_use()
    return _FORWARD.bind(x, kernel, stride=stride, padding=padding, size=size, extent=x.shape[1:3], ours=ours)


# The three that follow take two arrays, and as keywords the stride, padding and size of the kernel, the
# extent (height, width) of the input, which one of their shapes alone does not tell, and whether native
# convolutions are in use. None of their arrays is empty.


def _forward(x: Array, kernel: Array, *, stride: int, padding: int, size: int, extent, ours: bool) -> Array:
    if ours and size > 1 and kernel.shape[3] % native.BLOCK == 0:
        shape = _convolved_shape(x, kernel, stride=stride, padding=padding, size=size, extent=extent)
        return native.run_convolution("forward", x, kernel, shape, stride, padding)
    if size > 1 or padding:
        return plain(x, kernel, stride, padding)
    return lax.dot_general(x[:, ::stride, ::stride], kernel[0, 0], (((3,), (0,)), ((), ())))


def _input_gradient(
    g: Array, kernel: Array, *, stride: int, padding: int, size: int, extent, ours: bool
) -> Array:
    """Gradient to the input: g convolved with the turned kernel."""
    if ours and size > 1 and kernel.shape[2] % native.BLOCK == 0:
        shape = (g.shape[0], *extent, kernel.shape[2])
        return native.run_convolution("input_gradient", g, kernel, shape, stride, padding)
    low = size - 1 - padding
    highs = [n + padding - (m - 1) * stride - 1 for n, m in zip(extent, g.shape[1:3], strict=True)]
    turned = jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2)
    return lax.conv_general_dilated(
        g,
        turned,
        (1, 1),
        [(low, high) for high in highs],
        lhs_dilation=(stride, stride),
        dimension_numbers=NHWC,
    )


def _kernel_gradient(
    x: Array, g: Array, *, stride: int, padding: int, size: int, extent, ours: bool
) -> Array:
    """Gradient to the kernel, as a forward convolution of x with g over the batch."""
    # Of an image's three channels XLA's is as fast: ours takes 16 at once. A 1x1 kernel's is as a product of
    # matrices where the pixels are few against the channels.
    inputs, outputs = x.shape[3], g.shape[3]
    pointwise = size == 1 and not padding
    product = pointwise and math.prod(g.shape[:3]) < PIXELS_PER_CHANNEL * (inputs + outputs)
    if ours and outputs % native.BLOCK == 0 and inputs >= native.BLOCK and not product:
        return native.run_convolution("kernel_gradient", x, g, (size, size, inputs, outputs), stride, padding)
    if pointwise:
        return _fenced(_pointwise_kernel_gradient, x[:, ::stride, ::stride], g)
    highs = [size - 1 - n - padding + (m - 1) * stride + 1 for n, m in zip(extent, g.shape[1:3], strict=True)]

    def gradient(x: Array, g: Array) -> Array:
        by_channel = lax.conv_general_dilated(
            x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), (1, 1), [(padding, high) for high in highs],
            rhs_dilation=(stride, stride), dimension_numbers=NHWC,
        )  # fmt: skip
        return by_channel.transpose(1, 2, 0, 3)

    return _fenced(gradient, x, g)


def _pointwise_kernel_gradient(x: Array, g: Array) -> Array:
    return lax.dot_general(x, g, (((0, 1, 2), (0, 1, 2)), ((), ())))[None, None]


def _fenced(f: Callable[..., Array], x: Array, g: Array) -> Array:
    """f(x, g) with x and g computed once before it, not fused into it and computed again.

    XLA drops `optimization_barrier` on the CPU but keeps a conditional it cannot fold. The condition
    holds for every finite value, +inf and NaN; -inf gives NaN, so that divergence stays visible.
    """
    shape = jax.eval_shape(f, x, g)
    probe = x.reshape(-1)[0]
    return lax.cond(
        ~(probe < jnp.finfo(x.dtype).min),
        f,
        lambda *_: jnp.full(shape.shape, jnp.nan, shape.dtype),
        x,
        g,
    )


def _bilinear(f: Callable[..., Array], shape: Callable[..., tuple[int, ...]]) -> Primitive:
    """f as a primitive, whose result has the `shape` that is computed from the same arguments."""

    def filled(a: Array, b: Array, **window) -> Array:
        result = shape(a, b, **window)
        if any(0 in array for array in (a.shape, b.shape, result)):
            return jnp.zeros(result, a.dtype)  # sums of no terms
        return f(a, b, **window)

    primitive = Primitive(f"convolution{f.__name__}")
    primitive.def_impl(jax.jit(filled, static_argnames=("stride", "padding", "size", "extent", "ours")))
    primitive.def_abstract_eval(lambda a, b, **window: ShapedArray(shape(a, b, **window), a.dtype))
    batching.primitive_batchers[primitive] = functools.partial(_unrolled, primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(filled, multiple_results=False))
    return primitive


def _unrolled(primitive: Primitive, arrays: tuple[Array, ...], axes: tuple[int | None, ...], **window):
    """The batching rule: calls the primitive once for each mapped element."""
    count = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)

    def element(a: Array, axis: int | None, i: int) -> Array:
        if axis is None:
            return a
        # Of no elements, zeros stand for one, whose result has the shape.
        mapped = a if count else jnp.zeros_like(a, shape=(*a.shape[:axis], 1, *a.shape[axis + 1 :]))
        return lax.index_in_dim(mapped, i, axis, keepdims=False)

    each = [
        primitive.bind(*(element(a, axis, i) for a, axis in zip(arrays, axes, strict=True)), **window)
        for i in range(count or 1)
    ]
    return jnp.stack(each) if count else jnp.stack(each)[:0], 0


def _convolved_shape(x, kernel, *, stride: int, padding: int, size: int, extent, **_) -> tuple:
    """(b, y, x, o); b is an expression where a program is exported for any batch."""
    return x.shape[0], *(max(0, (n + 2 * padding - size) // stride + 1) for n in extent), kernel.shape[3]


_FORWARD = _bilinear(_forward, _convolved_shape)
_INPUT_GRADIENT = _bilinear(
    _input_gradient, lambda g, kernel, extent, **_: (g.shape[0], *extent, kernel.shape[2])
)
_KERNEL_GRADIENT = _bilinear(_kernel_gradient, lambda x, g, size, **_: (size, size, x.shape[3], g.shape[3]))
# Each is linear in both arrays, and its gradient to either (from the gradient g to its result) is
# another of the three: so derivatives of every order, forward and reverse, take the same paths.
ad.defbilinear(
    _FORWARD,
    lambda g, x, kernel, **window: _INPUT_GRADIENT.bind(g, kernel, **window),
    lambda g, x, kernel, **window: _KERNEL_GRADIENT.bind(x, g, **window),
)
ad.defbilinear(
    _INPUT_GRADIENT,
    lambda dx, g, kernel, **window: _FORWARD.bind(dx, kernel, **window),
    lambda dx, g, kernel, **window: _KERNEL_GRADIENT.bind(dx, g, **window),
)
ad.defbilinear(
    _KERNEL_GRADIENT,
    lambda dkernel, x, g, **window: _INPUT_GRADIENT.bind(g, dkernel, **window),
    lambda dkernel, x, g, **window: _FORWARD.bind(x, dkernel, **window),
)
