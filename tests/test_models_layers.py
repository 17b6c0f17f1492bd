"""Initial kernels, standardised kernels, activations, dropout: each by the moments it is defined by."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.models.branches import SqueezeExcitation
from resnet.models.config import BlockSpec
from resnet.models.layers import ACTIVATIONS, HEAD_INIT, KERNEL_INITS, Conv, Dropout
from resnet.models.resnet import Block
from resnet.models.scanning import BlockArrays, block_arrays, survival_probability
from tests.models_cases import images, net

SHAPE = 3, 3, 32, 64
VARIANCES = {
    "he_fan_in": 2 / (9 * 32),
    "he_fan_out": 2 / (9 * 64),
    "glorot": 2 / (9 * 32 + 9 * 64),
    "lecun": 1 / (9 * 32),
}
OTHERS = {"orthogonal", "delta_orthogonal", "scaled_delta_orthogonal", "identity", "zero"}


def drawn(name, shape=SHAPE):
    return np.asarray(KERNEL_INITS[name](jax.random.key(0), shape))


def test_every_initialiser_has_its_test():
    assert set(KERNEL_INITS) == set(VARIANCES) | OTHERS


@pytest.mark.parametrize("name", VARIANCES)
def test_variances_of_initial_kernels(name):
    """Within five standard errors of 18,432 draws."""
    kernel = drawn(name)
    assert abs(kernel.mean()) < 5 * math.sqrt(VARIANCES[name] / kernel.size)
    assert kernel.var() == pytest.approx(VARIANCES[name], rel=5 * math.sqrt(2 / kernel.size))
    if name == "glorot":
        assert np.abs(kernel).max() <= math.sqrt(3 * VARIANCES[name])


def test_the_head_starts_as_pytorch_leaves_it():
    kernel = np.asarray(HEAD_INIT(jax.random.key(0), (64, 100)))
    assert 0.99 / 8 < np.abs(kernel).max() <= 1 / 8
    assert kernel.var() == pytest.approx(1 / (3 * 64), rel=0.05)


def test_orthogonal_kernels():
    """Columns of length 1 at right angles; delta: at the kernel's centre, all singular values 1."""
    matrix = drawn("orthogonal").reshape(-1, 64)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(64), atol=1e-5)
    for inputs, outputs in ((32, 64), (64, 32)):
        kernel = drawn("delta_orthogonal", (3, 3, inputs, outputs))
        np.testing.assert_allclose(np.linalg.svd(kernel[1, 1], compute_uv=False), 1, atol=1e-5)
        assert np.count_nonzero(kernel) == np.count_nonzero(kernel[1, 1])


@pytest.mark.parametrize("size", (1, 3, 5))
def test_an_identity_kernel_returns_its_input_bit_for_bit(size):
    x = images(2, 5, 5, 4)
    convolution = Conv(net(), outputs=6, size=size, kernel_init="identity")
    y = convolution.apply(convolution.init(jax.random.key(0), x), x)
    np.testing.assert_array_equal(y, jnp.pad(x, [(0, 0)] * 3 + [(0, 2)]))
    assert not drawn("zero").any()


@pytest.mark.thorough
@pytest.mark.parametrize("name", KERNEL_INITS)
def test_kernels_of_several_seeds_equal_one_by_one(name):
    keys = [jax.random.key(seed) for seed in range(2)]
    together = jax.vmap(lambda key: KERNEL_INITS[name](key, (3, 3, 4, 8)))(jnp.stack(keys))
    for kernel, key in zip(together, keys, strict=True):
        np.testing.assert_allclose(kernel, KERNEL_INITS[name](key, (3, 3, 4, 8)), atol=1e-6)


def standardized(kind, kernel, gain=1.0):
    """The kernel that the convolution uses, read off its answer to single pixels."""
    _, _, inputs, outputs = kernel.shape
    x = jnp.eye(9 * inputs).reshape(-1, 3, 3, inputs)
    convolution = Conv(net(weight_standardization=kind), outputs=outputs, size=3)
    params = {"kernel": kernel} | ({"gain": jnp.full(outputs, gain)} if kind == "scaled" else {})
    y = convolution.apply({"params": params}, x)
    return np.asarray(y)[:, 1, 1].reshape(3, 3, inputs, outputs)


def test_standardised_kernels():
    """Mean 0, and per output channel variance 1 (plain) or gain^2 / fan-in (scaled)."""
    kernel = 2 * images(3, 3, 4, 8) + 1
    np.testing.assert_allclose(standardized("none", kernel), kernel, rtol=1e-6)
    for kind, gain, variance in (("plain", 1.0, 1.0), ("scaled", 3.0, 9 / 36)):
        used = standardized(kind, kernel, gain).reshape(-1, 8)
        np.testing.assert_allclose(used.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(used.var(0), variance, rtol=1e-4)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_variance_gains(name):
    """The variance of gain * f(z) for z from N(0, 1) is 1, by the trapezium rule.

    Within 0.2 %: the published gains are estimates from samples.
    """
    z = np.linspace(-12, 12, 100001)
    weights = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    y = ACTIVATIONS[name].gain * np.asarray(ACTIVATIONS[name].function(jnp.float32(z)), np.float64)
    mean = (weights * y).sum()
    assert (weights * (y - mean) ** 2).sum() == pytest.approx(1, rel=2e-3)


@pytest.mark.parametrize("kind", ("inverted", "plain"))
def test_dropout_keeps_the_mean(kind):
    """Training and evaluation agree in expectation; what is kept is scaled where its kind says so."""
    x, dropout = jnp.full((100, 10, 10), 2.0), Dropout(0.25, kind)
    trained, evaluated = (dropout.apply({}, x, key) for key in (jax.random.key(0), None))
    scale = {"inverted": (2 / 0.75, 2.0), "plain": (2.0, 1.5)}[kind]
    np.testing.assert_allclose(np.unique(trained), (0, scale[0]), rtol=1e-6)
    np.testing.assert_allclose(evaluated, scale[1], rtol=1e-6)
    np.testing.assert_allclose(trained.mean(), scale[1], rtol=0.03)


def test_squeeze_and_excitation():
    x = images(2, 5, 5, 8)
    module = SqueezeExcitation(ratio=0.25)
    variables = module.init(jax.random.key(0), x)
    p = jax.tree.map(np.asarray, variables["params"])
    hidden = np.maximum(np.asarray(x).mean((1, 2)) @ p["reduce"]["kernel"] + p["reduce"]["bias"], 0)
    gate = 1 / (1 + np.exp(-(hidden @ p["expand"]["kernel"] + p["expand"]["bias"])))
    np.testing.assert_allclose(module.apply(variables, x), np.asarray(x) * gate[:, None, None], rtol=1e-5)


SPEC = BlockSpec(stage=2, block=1, index=1, inputs=8, width=8, outputs=8, stride=1)


@pytest.mark.thorough
def test_stochastic_depth_drops_the_whole_branch():
    """Training: x, or x + F(x), of all images; evaluation: x + p F(x)."""
    x, config = images(4, 5, 5, 8), net(activation_order="preactivation", stochastic_depth=0.5)
    block, plain = Block(config, SPEC), Block(net(activation_order="preactivation"), SPEC)
    own = block_arrays(config, SPEC, None)
    assert float(own.survival) == 0.5
    variables = block.init(jax.random.key(0), x, own, False)
    kept, _ = plain.apply(variables, x, BlockArrays(), True, mutable=["batch_stats"])
    seen = set()
    for seed in range(8):
        arrays = block_arrays(config, SPEC, jax.random.key(seed))
        y, _ = block.apply(variables, x, arrays, True, mutable=["batch_stats"])
        seen.add(dropped := bool((y == x).all()))
        np.testing.assert_allclose(y, x if dropped else kept, rtol=1e-6, atol=1e-6)
    assert seen == {False, True}
    expected = x + 0.5 * (plain.apply(variables, x, BlockArrays(), False) - x)
    np.testing.assert_allclose(block.apply(variables, x, own, False), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("each", "draws"), [("batch", 1), ("image", 4)])
def test_branches_survive_as_often_as_they_should(each, draws, dtype):
    """In bfloat16, too, where 0.998 would be 1; for each image apart, or for the batch."""
    arrays, keys = BlockArrays(survival=jnp.float32(0.998)), jax.random.split(jax.random.key(0), 20_000)
    kept = jax.vmap(lambda key: arrays.survive(jnp.ones((4, 1, 1, 2), dtype), key, each))(keys)
    weight = 1 if each == "batch" else 1 / 0.998
    assert set(np.unique(np.asarray(kept, np.float32))) == {0, np.float32(jnp.asarray(weight, dtype))}
    kept = np.asarray(kept) > 0
    assert (kept == kept[..., :1]).all()  # all channels of an image
    assert (kept == kept[:, :1]).all() == (each == "batch")
    spread = math.sqrt(0.998 * 0.002 / (20_000 * draws))
    assert float(kept.mean()) == pytest.approx(0.998, abs=5 * spread)


@pytest.mark.parametrize(("each", "known"), [("batch", 0.75), ("image", None)])
def test_drop_path_leaves_evaluation_as_it_is(each, known):
    config = net(stochastic_depth=0.25, stochastic_depth_each=each)
    assert block_arrays(config, SPEC, None).survival == known
    assert float(block_arrays(config, SPEC, jax.random.key(0)).survival) == 0.75


def test_survival_over_depth():
    """Huang 2016: from nearly 1 to 1 - stochastic_depth, linearly; or constant."""
    fields = {"family": "tiny", "blocks": (2, 2), "stochastic_depth": 0.5}
    blocks = [BlockSpec(1 + n // 2, 1 + n % 2, n, 8, 8, 8, 1) for n in range(4)]
    for rule, expected in (("linear", (0.875, 0.75, 0.625, 0.5)), ("constant", (0.5,) * 4)):
        config = net(**fields, stochastic_depth_rule=rule)
        assert tuple(survival_probability(config, block) for block in blocks) == pytest.approx(expected)
