"""Shortcuts since 2016: the answers that their papers give, or that follow from their formulas."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.models.chain import flow, noise_like, parts
from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.counts import count_parts, totals
from resnet.models.geometry import FAMILIES, block_specs
from resnet.models.layers import Conv
from resnet.models.resnet import Block, make_model
from resnet.models.scanning import BlockArrays, block_arrays
from resnet.models.shortcuts.sums import decayed
from resnet.models.shortcuts.table import ShortcutPath
from tests.models_cases import NUM_OUTPUTS, TINY, images, net, start

SPEC = BlockSpec(stage=1, block=2, index=1, inputs=8, width=8, outputs=8, stride=1)
IMAGE = (8, 8, 3)
CHAIN = {"family": "chain", "norm": "none", "padding": "circular", "after_sum": "identity"}


def joined(shortcut, x, f, **fields):
    """The sum of a block that keeps its shape, at the start, and the shortcut's parameters."""
    config = net(shortcut=shortcut, **fields)
    path, number = ShortcutPath(config, SPEC), block_arrays(config, SPEC, None).number
    variables = path.init(jax.random.key(0), x, f, False, None, number)
    return path.apply(variables, x, f, False, None, number), variables.get("params", {})


def vectors(seed):
    """Signals of eight channels."""
    return images(2, 3, 3, 8, seed=seed)


# Decayed identity (2404.10947).


@pytest.mark.parametrize(
    ("blocks", "end", "product"), [(24, 0.6, 2.83e-3), (27, 0.6, 1.41e-3), (9, 0.6, 9.4e-2)]
)
def test_what_is_left_of_x_behind_decayed_identities(blocks, end, product):
    """The product of all factors, as computed from the paper's formula; the last factor is a itself."""
    config = ModelConfig(family="chain", blocks=(blocks,), shortcut="decayed_identity", shortcut_scale=end)
    factors = [decayed(config, spec) for spec in block_specs(config)]
    assert math.prod(factors) == pytest.approx(product, rel=5e-3)
    assert factors[-1] == pytest.approx(end)
    np.testing.assert_allclose(np.diff(factors), (end - 1) / blocks)


@pytest.mark.thorough
def test_signal_and_gradient_through_decayed_identities():
    """Branches of zeros leave the product of the factors, up the chain and down."""
    config = ModelConfig(
        **CHAIN, blocks=(3,), branch_init_scale=0.0, shortcut="decayed_identity", shortcut_scale=0.4
    )
    found = flow(parts(config, NUM_OUTPUTS, start(config)[1]), images(), noise_like)
    factors = [0.8, 0.6, 0.4]
    np.testing.assert_allclose(np.exp(np.diff(found.x)), factors, rtol=1e-5)
    np.testing.assert_allclose(np.exp(-np.diff(found.gradient)), factors, rtol=1e-5)


def test_no_decay_is_the_identity_bit_for_bit():
    x, f = vectors(0), vectors(1)
    np.testing.assert_array_equal(joined("decayed_identity", x, f, shortcut_scale=1.0)[0], x + f)


# Branches scaled by depth (2309.16620, 2310.02244).


LINEAR = CHAIN | {"width": 4.0, "branch": "single", "kernel_init": "lecun"}
LINEAR |= {"activation": "identity", "activation_order": "preactivation"}


@pytest.mark.thorough
@pytest.mark.parametrize("blocks", (4, 16))
def test_the_signal_grows_to_the_same_size_at_any_depth(blocks):
    """(1 + 1 / L)^L of its variance, of linear blocks with kernels of variance 1 / fan-in."""
    config = ModelConfig(**LINEAR, blocks=(blocks,), shortcut="depth_scaled")
    grown = []
    for seed in range(3):
        found = flow(parts(config, NUM_OUTPUTS, start(config, seed)[1]), images(), noise_like)
        grown.append(np.exp(2 * (found.x[-1] - found.x[0])))
    assert np.mean(grown) == pytest.approx((1 + 1 / blocks) ** blocks, rel=0.08)


@pytest.mark.thorough
@pytest.mark.parametrize("blocks", (4, 16))
@pytest.mark.parametrize("power", (0.0, 0.5, 1.0))
def test_what_all_branches_add(blocks, power):
    """Over L blocks x + F / L^k, the mean square of x grows by (1 + L^-2k)^L - 1 times its first value."""
    scaled = {"shortcut": "constant_scaling", "shortcut_scale": 1.0, "branch_scale": blocks**-power}
    shortcut = {"shortcut": "depth_scaled"} if power == 0.5 else scaled
    config = ModelConfig(**LINEAR, blocks=(blocks,), **shortcut)
    added = []
    for seed in range(3):
        chain = parts(config, NUM_OUTPUTS, start(config, seed)[1])
        first = last = chain[0](images())
        for block in chain[1:-1]:
            last = block(last)
        added.append(float(((last - first) ** 2).sum() / (first**2).sum()))
    assert np.mean(added) == pytest.approx((1 + blocks ** (-2 * power)) ** blocks - 1, rel=0.15)


@pytest.mark.thorough
def test_a_step_of_sgd_moves_each_block_by_one_over_the_root_of_the_depth():
    """The squared gradient of a linear block grows with the depth L as (1 + 1 / L)^(L - 1) / L does."""

    def over_theory(blocks: int) -> float:
        config = ModelConfig(**LINEAR, blocks=(blocks,), shortcut="depth_scaled")
        model, variables = start(config)
        gradient = jax.jit(jax.grad(lambda v: model.apply(v, images())[0][:, 0].sum()))(variables)
        kernels = jax.tree.leaves(gradient["params"]["stage1"])
        of_a_block = sum(float((leaf**2).sum()) for leaf in kernels) / blocks
        return of_a_block / ((1 + 1 / blocks) ** (blocks - 1) / blocks)

    assert over_theory(16) == pytest.approx(over_theory(4), rel=0.15)


# Orthogonal update (2505.11881).


@pytest.mark.parametrize(("shortcut", "axes"), [("orthogonal", 3), ("orthogonal_image", (1, 2, 3))])
def test_what_is_added_is_orthogonal_to_x(shortcut, axes):
    """<x, y - x> = 0, |y|^2 = |x|^2 + |y - x|^2, F + c x adds what F does, and c x adds nothing."""
    x, f = vectors(0), vectors(1)
    added = joined(shortcut, x, f)[0] - x
    np.testing.assert_allclose((x * added).sum(axes), 0, atol=1e-4)
    square = (joined(shortcut, x, f)[0] ** 2).sum(axes)
    np.testing.assert_allclose(square, (x**2).sum(axes) + (added**2).sum(axes), rtol=1e-5)
    np.testing.assert_allclose(joined(shortcut, x, f + 3 * x)[0] - x, added, atol=1e-4)
    np.testing.assert_allclose(joined(shortcut, x, 3 * x)[0], x, atol=1e-5)


def test_pixel_and_image_differ():
    x, f = vectors(0), vectors(1)
    assert not np.allclose(joined("orthogonal", x, f)[0], joined("orthogonal_image", x, f)[0], atol=1e-2)


# ShakeDrop (1802.02375).


def shaken(rate, x, f, key, block=SPEC):
    config = net(shortcut="shake_drop", shortcut_dropout=rate)
    number = block_arrays(config, block, None).number
    return ShortcutPath(config, block).apply({}, x, f, True, key, number)


@pytest.mark.thorough
def test_shake_drop_multiplies_forward_and_backward_by_different_numbers():
    """Means over 40,000 values: p in the forward pass, (1 + p) / 2 in the gradient; p = 0.75 here."""
    first = dataclasses.replace(SPEC, index=0)
    x, f = jnp.zeros((4, 3, 3, 8)), jnp.ones((4, 3, 3, 8))

    def one(key):
        return jax.vjp(lambda f: shaken(0.5, x, f, key, first), f)

    keys = jax.random.split(jax.random.key(0), 400)
    forward = jax.vmap(lambda key: one(key)[0])(keys)
    backward = jax.vmap(lambda key: one(key)[1](f)[0])(keys)
    assert forward.mean() == pytest.approx(0.75, abs=0.07)
    assert backward.mean() == pytest.approx(0.875, abs=0.05)
    dropped = forward.reshape(400, -1).min(1) < 1
    assert dropped.mean() == pytest.approx(0.25, abs=0.07)
    assert (forward[~dropped] == 1).all() and (backward[~dropped] == 1).all()
    assert forward[dropped].min() < -0.9 and 0 <= backward[dropped].min() < 0.1


def test_shake_drop_that_keeps_all_is_the_identity_bit_for_bit():
    x, f = vectors(0), vectors(1)
    np.testing.assert_array_equal(shaken(0.0, x, f, jax.random.key(0)), x + f)
    np.testing.assert_array_equal(shaken(0.5, x, f, None), x + 0.5 * f)


# LayerScale (2103.17239) and LAuReL (2411.07501).


def test_layer_scale_starts_near_the_identity():
    x, f = vectors(0), vectors(1)
    y, params = joined("layer_scale", x, f, layer_scale=1e-6)
    assert params["lambda"].shape == (8,)
    assert 0 < jnp.abs(y - x).max() <= 1.3e-6 * jnp.abs(f).max()


@pytest.mark.parametrize(
    ("shortcut", "count"), [("laurel_weights", 2), ("laurel_low_rank", 2 * 3 * 8), ("laurel", 50)]
)
def test_parameters_of_laurel(shortcut, count):
    """2 of the weights, 2 r C of the map."""
    x = vectors(0)
    params = joined(shortcut, x, x, low_rank=3)[1]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_laurel_starts_as_a_mean_and_as_the_identity():
    x, f = vectors(0), vectors(1)
    np.testing.assert_allclose(joined("laurel_weights", x, f)[0], (x + f) / 2, rtol=1e-6)
    np.testing.assert_array_equal(joined("laurel_low_rank", x, f)[0], x + f)


# RepVGG (2101.03697).


def test_parameters_and_operations_of_a_repvgg_block():
    """9 C^2 + C^2 + 6 C in training, 9 C^2 + C folded; 10 C^2 multiplications a pixel against 9 C^2."""
    trained = ModelConfig(**TINY | {"blocks": (2, 1)}, branch="single", shortcut="repvgg")
    folded = dataclasses.replace(trained, shortcut="none", norm="none")
    (a, b), c, pixels = ([count_parts(config, NUM_OUTPUTS, IMAGE)[2] for config in (trained, folded)]), 4, 64
    assert (a.parameters, b.parameters) == (10 * c**2 + 6 * c, 9 * c**2 + c)
    assert (a.macs, b.macs) == (10 * c**2 * pixels, 9 * c**2 * pixels)


def test_parameters_of_repvgg_b0(monkeypatch):
    """Counted from its code: 15,817,960. Its stem is a block, and its first stage has stride 2."""
    monkeypatch.setitem(FAMILIES, "repvgg", (64, 128, 256, 1280))
    config = ModelConfig(family="repvgg", blocks=(4, 6, 16, 1), branch="single", shortcut="repvgg")
    ours = totals(count_parts(config, 1000, (32, 32, 3)))[0]
    matrix_of_stem, norm_that_stride_removes = 3 * 64 + 2 * 64, 2 * 64
    assert ours + matrix_of_stem - norm_that_stride_removes == 15_817_960


@pytest.mark.thorough
@pytest.mark.parametrize(("shortcut", "variance"), [("repvgg", 3), ("projection", 2), ("normed_identity", 2)])
def test_variance_of_a_repvgg_block_at_its_start(shortcut, variance):
    """Each of its normed addends has variance 1, and they have little to do with each other."""
    config = net(shortcut=shortcut, branch="single", after_sum="identity")
    spec = dataclasses.replace(SPEC, inputs=32, width=32, outputs=32)
    block, x = Block(config, spec), images(8, 8, 8, 32)
    variables = block.init(jax.random.key(0), x, BlockArrays(), False)
    y = block.apply(variables, x, BlockArrays(), True, mutable=["batch_stats"])[0]
    assert y.var() == pytest.approx(variance, rel=0.08)


# DiracNet (1706.00388).


@pytest.mark.parametrize(
    ("depth", "width", "count"), [(28, 5, 9_124_250), (28, 10, 36_450_090), (34, 2, 1_854_378)]
)
def test_parameters_of_dirac_nets(depth, width, count):
    """Counted from its code, which makes 25 convolutions of "28 layers", as Wide ResNets do."""
    config = ModelConfig(
        family="wide", depth=depth, width=width, branch="dirac", shortcut="none",
    )  # fmt: skip
    assert totals(count_parts(config, 10, (32, 32, 3)))[0] == count


def test_the_kernel_of_a_dirac_net():
    """b = 0 returns the input; the scale of W changes nothing; a and b start at 1 and 0.1."""
    x, conv = images(2, 5, 5, 4), Conv(net(), outputs=4, size=3, dirac=True)
    params = conv.init(jax.random.key(0), x)["params"]
    np.testing.assert_array_equal(params["a"], np.ones(4))
    np.testing.assert_allclose(params["b"], 0.1)
    off = params | {"b": jnp.zeros(4)}
    np.testing.assert_array_equal(conv.apply({"params": off}, x), x)
    scaled = params | {"kernel": 7 * params["kernel"]}
    y = conv.apply({"params": params}, x)
    np.testing.assert_allclose(conv.apply({"params": scaled}, x), y, rtol=1e-5, atol=1e-6)
    kernel = params["kernel"].reshape(-1, 4)
    assert 0 < jnp.abs(y - x).max() <= 0.1 * 6 * jnp.abs(x).max() and kernel.std() > 0


def test_a_dirac_net_pools_where_the_stride_is():
    """The maximum of 2x2 pixels, then a convolution of stride 1."""
    config = ModelConfig(**TINY, branch="dirac", shortcut="none")
    model = make_model(config, NUM_OUTPUTS)
    _, features = jax.eval_shape(lambda x: model.apply(start(config)[1], x), images())
    assert features["stage2/block1"].shape == (4, 4, 4, 8)
    _, odd = jax.eval_shape(lambda x: model.apply(start(config)[1], x), images(1, 9, 7, 3))
    assert odd["stage2/block1"].shape == (1, 5, 4, 8)
    with_stride = dataclasses.replace(config, branch="single")
    more, fewer = (totals(count_parts(c, NUM_OUTPUTS, IMAGE))[1] for c in (config, with_stride))
    assert more == fewer
