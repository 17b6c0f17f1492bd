"""At the borders of shapes: what is no convolution is refused, and empty arrays give what XLA's give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_kernels_convolution import value_and_gradients

from resnet.kernels import native
from resnet.kernels.backend import by_xla_alone
from resnet.kernels.convolution import convolve, plain
from resnet.kernels.formulations import Window
from resnet.kernels.moments import moments, projections
from resnet.kernels.pooling import _by_xla, max_pool

compiled = pytest.mark.skipif(not native.in_use(), reason="no C++ compiler")
X, KERNEL = (2, 8, 8, 16), (3, 3, 16, 16)

WRONG = {
    "more inputs than channels": (
        X,
        (3, 3, 32, 16),
        (1, 1, 1),
        "must have the channels of the kernel's inputs",
    ),
    "fewer inputs": (X, (3, 3, 8, 16), (1, 1, 1), "must have the channels of the kernel's inputs"),
    "not square": (X, (3, 5, 16, 16), (1, 1, 1), "must be a square of one pixel or more"),
    "no pixels": (X, (0, 0, 16, 16), (1, 0, 1), "must be a square of one pixel or more"),
    "inputs of other groups": (X, (3, 3, 16, 16), (1, 1, 2), "times 2 groups"),
    "outputs that groups do not divide": (X, (3, 3, 4, 18), (1, 1, 4), "4 groups must divide the outputs"),
    "stride": (X, KERNEL, (0, 1, 1), "stride and groups must be at least 1"),
    "padding": (X, KERNEL, (1, -1, 1), "padding at least 0"),
    "groups": (X, KERNEL, (1, 1, 0), "stride and groups must be at least 1"),
}


@pytest.mark.parametrize("alone", (False, True))
@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_convolution_is_refused(case, alone):
    """By the same error whichever implementation serves, traced or not."""
    x, kernel, window, message = WRONG[case]
    x, kernel = jnp.ones(x), jnp.ones(kernel)
    for f in (convolve, jax.jit(convolve, static_argnums=(2, 3, 4))):
        with pytest.raises(ValueError, match=message):
            if alone:
                with by_xla_alone():
                    f(x, kernel, *window)
            else:
                f(x, kernel, *window)


def test_other_arrays_are_refused():
    with pytest.raises(ValueError, match="one type; got x .* float32, kernel .* bfloat16"):
        convolve(jnp.ones(X), jnp.ones(KERNEL, jnp.bfloat16), 1, 1, 1)
    for g, mean in (((2, 8, 8, 32), 16), ((1, 8, 8, 16), 16), (X, 32)):
        with pytest.raises(ValueError, match="g must have the shape of x, and a mean for each channel"):
            projections.__wrapped__(jnp.ones(g), jnp.ones(X), jnp.ones(mean))


NATIVE = {
    "forward": (X, KERNEL, X),
    "input_gradient": (X, KERNEL, X),
    "kernel_gradient": (X, X, KERNEL),
}


@pytest.mark.thorough
@compiled
@pytest.mark.parametrize("target", NATIVE)
def test_the_kernels_refuse_what_does_not_fit(target):
    """A second time, in C++: any one number of the shapes or of the window that is another."""
    shapes = NATIVE[target]
    assert native.in_use(native.CHANNELS)  # registers what 15 channels would ask for too

    def call(a, b, result, stride=1, padding=1, groups=1):
        a, b = map(jnp.asarray, (np.ones(a, np.float32), np.ones(b, np.float32)))
        window = Window(a.shape[0], stride, padding, groups, a.shape[1:3])
        return jax.block_until_ready(getattr(native, f"run_{target}")(a, b, result, window))

    call(*shapes)
    for i, j in np.ndindex(3, 4):
        for n in (shapes[i][j] - 1, shapes[i][j] + 16, 0):
            wrong = [list(shape) for shape in shapes]
            wrong[i][j] = n
            if n or i < 2:  # XLA leaves out what has an empty result
                with pytest.raises(jax.errors.JaxRuntimeError, match="no native convolution takes"):
                    call(*map(tuple, wrong))
    for groups in (0, -1, 2):
        with pytest.raises(jax.errors.JaxRuntimeError, match="no native convolution takes"):
            call(*shapes, groups=groups)
    for window in ((0, 1), (-1, 1), (2, 1), (1, 0), (1, 3), (1, -1), (2**62, 1), (1, 2**62), (-(2**63), 1)):
        with pytest.raises(jax.errors.JaxRuntimeError, match="no native convolution takes"):
            call(*shapes, *window)


@compiled
@pytest.mark.parametrize(
    "shapes",
    (
        [(0, 16)], [(4, 7)], [(16,)], [()], [(4, 16), (5, 16), (16,), (0,), (0,)],
        [(4, 16), (4, 32), (16,), (0,), (0,)], [(4, 16), (4, 16), (32,), (0,), (0,)],
        [(4, 16), (4, 16), (), (0,), (0,)], [(4, 16), (4, 16), (16,), (16,), (0,)],
        [(4, 16), (4, 16), (16,), (32,), (16,)],
    ),
)  # fmt: skip
def test_the_sums_refuse_what_does_not_fit(shapes):
    result = jax.ShapeDtypeStruct(shapes[0][-1:], np.float32)
    target = "moments" if len(shapes) == 1 else "projections"
    with pytest.raises(jax.errors.JaxRuntimeError, match="no native sums over the rows of"):
        call = jax.ffi.ffi_call(f"resnet_{target}", (result, result))
        jax.block_until_ready(call(*(jnp.ones(shape) for shape in shapes)))


PASSES = {
    "combination": [X, X, (1, 16), (1, 16), (1, 16), (1, 16), (1, 16)],
    "masked_sum": [X, X, X],
}


@compiled
@pytest.mark.parametrize("target", PASSES)
def test_the_passes_refuse_what_does_not_fit(target):
    """Any one number of the shapes that is another, a scale of the mask without an offset among them."""
    flags = {"relu": True} if target == "combination" else {}

    def call(shapes, result=X):
        function = jax.ffi.ffi_call(f"resnet_{target}", jax.ShapeDtypeStruct(result, np.float32))
        return jax.block_until_ready(function(*(jnp.ones(shape) for shape in shapes), **flags))

    assert native.in_use()
    call(PASSES[target])
    for place, shape in enumerate(PASSES[target]):
        for axis, size in enumerate(shape):
            wrong = [*PASSES[target]]
            for n in (0, size - 1, size + 16):
                wrong[place] = (*shape[:axis], n, *shape[axis + 1 :])
                with pytest.raises(jax.errors.JaxRuntimeError, match="no native pass takes images of"):
                    call(wrong)
    with pytest.raises(jax.errors.JaxRuntimeError, match="no native pass takes images of"):
        call(PASSES[target], (*X[:3], 32))


EMPTY = {
    "no images": ((0, 8, 8, 16), KERNEL, (1, 1, 1)),
    "no images, 1x1": ((0, 8, 8, 16), (1, 1, 16, 16), (1, 0, 1)),
    "no input channels": ((2, 8, 8, 0), (3, 3, 0, 16), (1, 1, 1)),
    "no output channels": ((2, 8, 8, 16), (3, 3, 16, 0), (1, 1, 1)),
    "no channels, 1x1": ((2, 8, 8, 0), (1, 1, 0, 0), (1, 0, 1)),
    "no rows": ((2, 0, 8, 16), KERNEL, (1, 1, 1)),
    "no columns, but padding": ((2, 3, 0, 16), KERNEL, (1, 2, 1)),
    "smaller than the kernel": ((2, 2, 2, 16), KERNEL, (1, 0, 1)),
    "smaller on one side": ((2, 9, 2, 16), (5, 5, 16, 16), (2, 1, 1)),
    "no images, groups": ((0, 8, 8, 16), (3, 3, 4, 16), (1, 1, 4)),
    "more padding than kernel": ((2, 3, 4, 16), KERNEL, (2, 4, 1)),
    "padding of 1x1": ((2, 3, 4, 16), (1, 1, 16, 16), (2, 1, 1)),
    "a stride beyond the image": ((2, 3, 4, 16), KERNEL, (1000000, 1, 1)),
}


@pytest.mark.thorough
@pytest.mark.parametrize("case", EMPTY)
def test_empty_arrays_give_what_xla_gives(case):
    x, kernel, window = EMPTY[case]
    x, kernel = (jax.random.normal(jax.random.key(0), shape) for shape in (x, kernel))
    ours, theirs = (value_and_gradients(f, x, kernel, *window) for f in (convolve, plain))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype
        np.testing.assert_allclose(mine, other, atol=2e-5)


@pytest.mark.parametrize("shape", ((0, 3, 3, 16), (2, 0, 3, 16), (2, 3, 3, 0)))
def test_sums_and_pools_of_empty_arrays(shape):
    x = jnp.ones(shape)

    def results(x, pool):
        mean, variance = moments(x, jnp.zeros(x.shape[-1]))
        return mean, variance, *projections(x, x, mean), *jax.value_and_grad(lambda x: pool(x).sum())(x)

    with by_xla_alone():
        theirs = jax.jit(lambda x: results(x, functools.partial(_by_xla, border=-np.inf)))(x)
    for mine, other in zip(jax.jit(lambda x: results(x, max_pool))(x), theirs, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_no_seeds_under_vmap():
    x, kernel = jnp.ones((0, *X)), jnp.ones((0, *KERNEL))
    for f in (convolve, plain):
        y, *gradients = jax.vmap(functools.partial(value_and_gradients, f), (0, 0, None, None, None))(
            x, kernel, 1, 1, 1
        )
        assert y.shape == (0, *X) and [g.shape for g in gradients] == [x.shape, kernel.shape]
