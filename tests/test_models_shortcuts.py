"""What shortcuts promise, in every order: the input returned, the branch removed, gates open and shut."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.models.branches import ORDERS
from resnet.models.config import BlockSpec
from resnet.models.geometry import block_specs
from resnet.models.resnet import Block
from resnet.models.scanning import block_arrays
from resnet.models.shortcuts.table import SHORTCUTS, ShortcutPath, starts_inside
from tests import models_reference as reference
from tests.few import few
from tests.models_cases import CHOICES, PLAIN, PLAIN_PARAMS, images, net, split

FIRST = BlockSpec(stage=1, block=1, index=0, inputs=8, width=8, outputs=8, stride=1)
SAME = BlockSpec(stage=2, block=2, index=3, inputs=8, width=8, outputs=8, stride=1)
CHANGE = BlockSpec(stage=2, block=1, index=2, inputs=4, width=8, outputs=8, stride=2)


def initial(config, spec=SAME):
    """(the block in training as a function of (variables, x), its initial variables)."""
    block, own = Block(config, spec), block_arrays(config, spec, None)

    def apply(variables, x):
        return block.apply(variables, x, own, True, mutable=["batch_stats"])[0]

    x = jax.ShapeDtypeStruct((2, 6, 6, spec.inputs), jnp.float32)
    return apply, jax.tree.map(jnp.asarray, block.lazy_init(jax.random.key(0), x, own, False))


def shaken(tree):
    """Parameters off their initial values, so that no term of a formula is 0 or 1."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.3 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, moved)


def without_branch(params):
    """The parameters with the kernels of the branch at zero."""
    zeros = {name: jax.tree.map(jnp.zeros_like, params[name]) for name in params if name.startswith("conv")}
    return params | zeros


def test_every_shortcut_and_order_has_a_formula():
    remedy = "give each the formula of its sum in NumPy, in tests/models_reference.py; without one:"
    sums = {name for name, shortcut in SHORTCUTS.items() if not shortcut.streams}
    assert set(reference.MERGES) == sums, f"{remedy} {sums ^ set(reference.MERGES)} of `MERGES`"
    assert set(reference.ORDERS) == set(ORDERS), f"{remedy} {set(ORDERS) ^ set(reference.ORDERS)} of `ORDERS`"


@pytest.mark.parametrize("order", ORDERS)
def test_where_the_shortcut_starts(order):
    """Behind the first activation in a pre-activation net: in its first block, and before a matrix."""
    preactivation = ORDERS[order].preactivation
    for kind in CHOICES["transition"]:
        for shortcut in ("identity", "projection"):
            config = net(activation_order=order, transition=kind, shortcut=shortcut)
            by_matrix = shortcut == "projection" or config.transition != "pad"
            shared = [starts_inside(config, spec) for spec in (FIRST, SAME, CHANGE)]
            assert shared == [preactivation, False, preactivation and by_matrix]
    fixup = net(shortcut="fixup", activation_order="postactivation")
    assert [starts_inside(fixup, spec) for spec in (FIRST, SAME, CHANGE)] == [False, False, True]


@pytest.mark.parametrize("order", [name for name, order in ORDERS.items() if order.preactivation])
@pytest.mark.parametrize("shortcut", ("identity", "projection", "exclusive_gating"))
def test_the_first_block_of_a_preactivation_net_shares_its_activation(shortcut, order):
    apply, variables = initial(net(shortcut=shortcut, activation_order=order), FIRST)
    params, state = split(variables)
    params, x = shaken(params), images(2, 6, 6, 8)
    expected = reference.block(params, np.asarray(x, np.float64), order=order, shortcut=shortcut, shared=True)
    y = apply({"params": params, **state}, x)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_what_enters_a_normaliser_free_branch_has_variance_1():
    """Brock 2021: 1 over the root of a variance that each block adds 0.04 to, from 1 in each stage."""
    config = net(shortcut="normalizer_free", activation_order="preactivation", blocks=(3, 2))
    scales = [SHORTCUTS["normalizer_free"].input_scale(config, spec) for spec in block_specs(config)]
    variances = [1, 1.04, 1.08, 1.12, 1.04]
    np.testing.assert_allclose(scales, np.power(variances, -0.5), rtol=1e-12)
    arrays = [block_arrays(config, spec, None) for spec in block_specs(config)]
    np.testing.assert_allclose([float(own.input_scale) for own in arrays], scales, rtol=1e-6)


@pytest.mark.parametrize(("branch", "scale"), [("basic", 5**-0.5), ("bottleneck", 5**-0.25)])
def test_fixups_kernels_start_smaller_with_the_depth(branch, scale):
    """He's deviation times L^(-1/(2m-2)) for m convolutions in each of L blocks, the last at 0 (Zhang 2019).

    Within five standard errors of the kernels' draws.
    """
    config = net(shortcut="fixup", branch=branch, blocks=(3, 2))
    outputs = 64 * (4 if branch == "bottleneck" else 1)
    spec = BlockSpec(stage=1, block=2, index=1, inputs=outputs, width=64, outputs=outputs, stride=1)
    params = initial(config, spec)[1]["params"]
    *others, last = (params[name]["kernel"] for name in sorted(params) if name.startswith("conv"))
    assert not last.any() and len(others) == {"basic": 1, "bottleneck": 2}[branch]
    for kernel in others:
        he = (2 / (kernel.shape[0] * kernel.shape[1] * kernel.shape[3])) ** 0.5
        assert float(kernel.std()) == pytest.approx(he * scale, rel=5 / (2 * kernel.size) ** 0.5)


@pytest.mark.thorough
@pytest.mark.parametrize("config", PLAIN_PARAMS)
def test_without_its_branch_a_block_is_its_shortcut(config):
    """Convolutions at zero: the shortcut joined with nothing, then what follows the sum."""
    apply, variables = initial(config, CHANGE)
    params, state = split(variables)
    params = without_branch(params | {"shortcut": shaken(params.get("shortcut", {}))})
    x = images(2, 6, 6, 4)
    y = apply({"params": params, **state}, x)
    begin = np.asarray(x, np.float64)
    by_matrix = SHORTCUTS[config.shortcut].changes_shape and config.shortcut != "none"
    if by_matrix and ORDERS[config.activation_order].preactivation:
        begin = reference.ORDERS[config.activation_order][0](params, begin)
    own = {"params": params["shortcut"], "batch_stats": state.get("batch_stats", {}).get("shortcut", {})}
    path = ShortcutPath(config, CHANGE)
    given = (jnp.float32(begin), jnp.zeros_like(y), True, None, block_arrays(config, CHANGE, None).number)
    joined, _ = path.apply(own, *given, mutable=["batch_stats"])
    expected = reference.ORDERS[config.activation_order][2](params, np.asarray(joined, np.float64))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def starts_at_identity():
    """Nets that promise it, by name; zero_gamma in the orders where a branch can start at zero."""
    for order in ORDERS:
        for shortcut in ("rezero", "skipinit", "fixup", "normalizer_free"):
            if f"{shortcut}-{order}" in PLAIN:
                yield f"{shortcut}-{order}", PLAIN[f"{shortcut}-{order}"]
        for branch in ("basic", "bottleneck", "single"):
            if order != "activation_before_sum":
                yield (
                    f"zero_gamma-{order}-{branch}",
                    net(activation_order=order, branch=branch, zero_gamma=True),
                )


PROMISED = dict(starts_at_identity())
ZEROED = {f"identity-{order}": PLAIN[f"identity-{order}"] for order in ORDERS}
# A norm of the sum changes what it is given.
CHAINS = {
    name: config
    for name, config in (PROMISED | ZEROED).items()
    if config.activation_order != "norm_after_sum" or config.norm == "none"
}


@pytest.mark.parametrize("after_sum", ("identity", pytest.param("relu", marks=pytest.mark.thorough)))
@pytest.mark.parametrize("name", few(6, CHAINS))
def test_a_chain_of_identities_returns_its_input_bit_for_bit(name, after_sum):
    """Forward, and backward: the gradient at the input is the gradient at the output, nothing added.

    `identity` with the branch's kernels at zero, the others as they start. relu after the sum returns
    x where x is not negative.
    """
    own = {
        key: getattr(CHAINS[name], key)
        for key in ("shortcut", "activation_order", "branch", "norm", "zero_gamma")
    }
    apply, variables = initial(net(**own, after_sum=after_sum))
    if name in ZEROED:
        variables = variables | {"params": without_branch(variables["params"])}
    x = images(2, 4, 4, 8)
    x = jnp.abs(x) if after_sum == "relu" else x
    y, pull = jax.vjp(lambda x: apply(variables, apply(variables, x)), x)
    np.testing.assert_array_equal(y, x)
    cotangent = images(2, 4, 4, 8, seed=1)
    np.testing.assert_array_equal(pull(cotangent)[0], cotangent)


ALLOWED = {
    f"zero_gamma-{order}-{shortcut}": config
    for order in ORDERS
    for shortcut in SHORTCUTS
    if not SHORTCUTS[shortcut].streams
    and (config := net(activation_order=order, shortcut=shortcut, zero_gamma=True))
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", PROMISED | ALLOWED)
def test_a_branch_that_starts_at_zero_can_leave_it(name):
    """Some parameter of the branch or of the sum has a gradient, without which it would never train.

    A norm before an activation must not start at 0, for example: ReLU passes no gradient there.
    """
    config = (PROMISED | ALLOWED)[name]
    apply, variables = initial(config, dataclasses.replace(SAME, index=1))  # the last of two blocks
    params, state = split(variables)
    x = images(2, 4, 4, 8)
    gradients = jax.grad(lambda p: (images(2, 4, 4, 8, seed=1) * apply({"params": p, **state}, x)).sum())(
        params
    )
    # The norm before the first convolution, or after the sum, learns in any case.
    own = [leaf for name, leaf in gradients.items() if name.startswith("conv") or name == "shortcut"]
    if ORDERS[config.activation_order].after:
        own += [leaf for name, leaf in gradients.items() if name.startswith("norm")]
    least = 1e-3 * (config.layer_scale if config.shortcut == "layer_scale" else 1)
    assert any(jnp.abs(leaf).max() > least for leaf in jax.tree.leaves(own))


def test_the_dropout_shortcut_drops_x_and_keeps_the_branch():
    path = ShortcutPath(net(shortcut="dropout", shortcut_dropout=0.25), SAME)
    x, branch = jnp.full((4, 6, 6, 8), 3.0), jnp.full((4, 6, 6, 8), 100.0)
    y = path.apply({}, x, branch, True, jax.random.key(0))
    np.testing.assert_allclose(np.unique(y), [100, 104], rtol=1e-6)  # 3 / 0.75
    assert float((y == 100).mean()) == pytest.approx(0.25, abs=0.06)


def test_dropout_in_a_branch_is_before_its_last_convolution():
    """The kernels are identities, so F(x) is 0 where a value was dropped, and 1 / 0.75 elsewhere."""
    config = net(
        branch_dropout=0.25, norm="none", kernel_init="identity", after_sum="identity", activation="identity"
    )
    block, own = Block(config, SAME), block_arrays(config, SAME, jax.random.key(1))
    x = jnp.ones((4, 6, 6, 8))
    variables = block.init(jax.random.key(0), x, own, False)
    branch = block.apply(variables, x, own, True) - x
    np.testing.assert_allclose(np.unique(branch), [0, 1 / 0.75], rtol=1e-6)
    assert float((branch == 0).mean()) == pytest.approx(0.25, abs=0.06)


@pytest.mark.thorough
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shortcut", ("exclusive_gating", "highway", "shortcut_only_gating"))
def test_gates_open_and_shut_in_every_order(shortcut, order):
    """Bias to +inf: F(x) alone, bit for bit. To -inf: x alone, or x + F(x) where F(x) has no gate."""
    x = images(2, 6, 6, 8)

    def output(kind, **fields):
        apply, variables = initial(net(shortcut=kind, activation_order=order, **fields))
        branch = initial(net(activation_order=order))[1]["params"]
        return apply({**variables, "params": variables["params"] | branch}, x)

    np.testing.assert_array_equal(output(shortcut, gate_bias=1e4), output("none"))
    expected = output("identity")
    if shortcut != "shortcut_only_gating":
        expected = reference.ORDERS[order][2](
            initial(net(activation_order=order))[1]["params"], np.asarray(x, np.float64)
        )
    np.testing.assert_allclose(output(shortcut, gate_bias=-1e4), expected, rtol=1e-5, atol=1e-6)
