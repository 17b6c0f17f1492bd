"""Sums over images and pixels: ours are as near to the exact ones as XLA's, and so are all derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.kernels import native
from resnet.kernels.backend import by_xla_alone, computed_once
from resnet.kernels.moments import _one_pass, _plain_projections, _two_passes, moments, projections
from tests.few import few

compiled = pytest.mark.skipif(not native.in_use(), reason="no C++ compiler")
BOTH = (moments, projections), (_two_passes, _plain_projections)
SHAPES = (
    *((2, 3, 3, 16), (128, 16, 16, 16), (3, 5, 7, 48), (3, 5, 7, 8)),
    *((8, 7, 7, 512), (2, 1, 1, 2048), (1, 1, 1, 16)),
)


def operands(shape, center=0.0):
    draw = np.random.default_rng(0).normal
    x = draw(center, 1.0, shape).astype(np.float32)
    return tuple(map(jnp.asarray, (draw(size=shape).astype(np.float32), x, x.mean((0, 1, 2)))))


@pytest.mark.thorough
@compiled
@pytest.mark.parametrize("center", (0.0, 1000.0))
@pytest.mark.parametrize("shape", SHAPES)
def test_as_near_to_the_exact_sums_as_xla(shape, center):
    g, x, mean = operands(shape, center)
    with jax.enable_x64(True):
        wide = [jnp.asarray(array, np.float64) for array in (g, x, mean)]
        exact = jax.device_get((*_two_passes(wide[1], wide[2]), *_plain_projections(*wide)))
    ours, theirs = (
        jax.jit(lambda g, x, mean, m=m, p=p: (*m(x, mean), *p(g, x, mean)))(g, x, mean) for m, p in BOTH
    )
    sizes = 1.0 + abs(center), 1.0, *(np.sqrt(np.prod(shape[:3])),) * 2
    for mine, other, true, size in zip(ours, theirs, exact, sizes, strict=True):
        error, known = (np.abs(np.asarray(array) - true).max() / size for array in (mine, other))
        assert error <= 2 * known + 1e-6


@compiled
def test_where_they_serve():
    _, x, mean = operands((2, 3, 3, 16))

    def program(x, mean):
        return jax.jit(lambda x, mean: (moments(x, mean), projections(x, x, mean))).lower(x, mean).as_text()

    assert all(f"resnet_{target}" in program(x, mean) for target in native.SUMS)
    assert "resnet_" not in program(x[..., :4], mean[:4])
    assert "resnet_" in program(x.astype("bfloat16"), mean)  # widened first
    with by_xla_alone():
        assert "resnet_" not in program(x, mean)


@compiled
def test_mapped_as_one_by_one():
    """Over seeds and ghost batches: to the same bits, whatever is mapped beside them."""
    g, x, _ = operands((2, 3, 4, 5, 6, 16))
    shift = jnp.zeros(16)
    twice = jax.vmap(jax.vmap(moments, (0, None)), (0, None))(x, shift)
    sums = jax.vmap(jax.vmap(projections))(g, x, twice[0])
    for i, j in np.ndindex(2, 3):
        alone = moments(x[i, j], shift)
        for found, expected in zip(
            (*twice, *sums), (*alone, *projections(g[i, j], x[i, j], alone[0])), strict=True
        ):
            np.testing.assert_array_equal(found[i, j], expected)
    shared = jax.vmap(projections, (0, None, None))(g[0], x[0, 0], twice[0][0, 0])
    np.testing.assert_array_equal(shared[1][2], projections(g[0, 2], x[0, 0], twice[0][0, 0])[1])


@compiled
def test_derivatives_of_second_order():
    g, x, _ = operands((2, 3, 3, 16))

    def loss(m, p):
        def value(x, g):
            center, variance = m(x, jnp.zeros(x.shape[-1]))
            return (jnp.sin(center) * variance).sum() + jnp.square(p(g, x, center)[1]).sum()

        return value

    def curvature(value):
        gradient = jax.grad(value, (0, 1))
        return jax.jit(lambda x, g: jax.jvp(gradient, (x, g), (g, x)))(x, g)

    found, expected = (curvature(loss(*pair)) for pair in BOTH)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), found, expected)


EXTREMES = (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e20, -2e19)


@pytest.mark.parametrize("shape", ((2, 3, 3, 32), (40, 8, 8, 32)))
@pytest.mark.parametrize("row", (0, 1, 17))
def test_what_is_not_finite_is_what_xla_gives(shape, row):
    """inf, -inf or NaN, of one extreme value in a channel, and of a channel that has no other values."""
    g, x, mean = operands(shape)
    rows = x.reshape(-1, shape[-1])
    for channel, value in enumerate(EXTREMES):
        rows = rows.at[row, channel].set(value)
    x, filled = rows.reshape(shape), jnp.broadcast_to(jnp.resize(jnp.array(EXTREMES), shape[-1]), shape)
    ours, theirs = (
        jax.jit(lambda g, x, mean, m=m, p=p: (*m(x, mean), *m(filled, mean), *p(g, x, mean), *p(x, g, mean)))(
            g, x, mean
        )
        for m, p in BOTH
    )
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(*(np.where(np.isfinite(a), 0, a) for a in (mine, other)))


@compiled
def test_a_channel_that_is_not_finite_changes_no_other():
    g, x, mean = operands((5, 6, 7, 32))
    found, expected = (
        (*moments(x, mean), *projections(g, x, mean)) for x in (x.at[0, 0, 0, 5].set(np.inf), x)
    )
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.delete(mine, 5), np.delete(other, 5))


@pytest.mark.parametrize("shape", few(2, SHAPES))
def test_one_pass_about_a_shift_does_not_cancel(shape):
    """Of a mean 1000 deviations from zero, as near as two passes; about zero, it loses the variance."""
    _, x, mean = operands(shape, center=1000.0)
    with jax.enable_x64(True):
        exact_mean, exact = jax.device_get(_two_passes(jnp.asarray(x, np.float64), mean))
    near = mean + np.linspace(-1.0, 1.0, shape[-1], dtype=np.float32)  # as a mean of earlier batches is

    def error(variance):
        return np.abs(np.asarray(variance) - exact).max()

    known = error(_two_passes(x, mean)[1])
    center, variance = _one_pass(x, near)
    assert error(variance) <= 4 * known + 1e-5
    np.testing.assert_allclose(center, exact_mean, rtol=1e-6)
    assert shape == SHAPES[-1] or error(_one_pass(x, jnp.zeros_like(mean))[1]) > 1e-3
    assert (_one_pass(jnp.full(shape, 3.0), mean)[1] >= 0).all()


@pytest.mark.parametrize("platform", ("cpu", "cuda", "tpu"))
def test_lowered_by_platform(platform):
    """On any machine, one pass for accelerators; what is native, for the CPU alone."""
    _, x, mean = operands((2, 3, 3, 16))
    program = jax.jit(moments).trace(x, mean).lower(lowering_platforms=(platform,)).as_text()
    assert ("resnet_moments" in program) == (platform == "cpu" and native.in_use())
    assert platform == "cpu" or "custom_call" not in program


@pytest.mark.parametrize("platform, barriers", (("cpu", 0), ("tpu", 0), ("cuda", 1)))
def test_numbers_of_channels_are_computed_once_on_gpus_alone(platform, barriers):
    arrays = jnp.arange(3.0), jnp.arange(4.0)
    for found, expected in zip(computed_once(*arrays), arrays, strict=True):
        np.testing.assert_array_equal(found, expected)
    text = jax.jit(computed_once).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("optimization_barrier") == barriers
