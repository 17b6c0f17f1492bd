"""PyramidNet and Shake-Shake: widths, counts, and what two branches that are mixed at random give."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.models.branches import shake
from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.geometry import block_specs
from resnet.models.resnet import Block
from resnet.models.scanning import block_arrays
from tests.models_cases import images, net, split

SPEC = BlockSpec(stage=1, block=2, index=1, inputs=4, width=4, outputs=4, stride=1)


# PyramidNet (1610.02915).


@pytest.mark.parametrize(("widening", "last"), [(48, 64), (84, 100), (270, 286)])
def test_widths_of_a_pyramid(widening, last):
    """16 + alpha k / 54, from the unrounded sum; stages begin where He 2015's do."""
    specs = block_specs(ModelConfig(depth=110, widening=widening))
    widths = [spec.outputs for spec in specs]
    assert widths == [int(16 + widening * k / 54 + 0.5) for k in range(1, 55)]
    assert widths[-1] == last
    assert [spec.stride for spec in specs].count(2) == 2 and specs[18].stride == specs[36].stride == 2
    assert specs[0].inputs == 16 and [spec.inputs for spec in specs[1:]] == widths[:-1]


def test_halves_are_rounded_up():
    """As the authors' code has it: 4.5 to 5 and 5.5 to 6, where Python rounds to even."""
    config = ModelConfig(family="chain", blocks=(3,), width=0.25, widening=1.5)
    assert [spec.outputs for spec in block_specs(config)] == [5, 5, 6]


def test_new_channels_are_of_the_branch_alone():
    """The shortcut adds zeros to them."""
    config = net(activation_order="pyramid", widening=4.0)
    spec = dataclasses.replace(SPEC, outputs=6)
    block, x, own = Block(config, spec), images(2, 4, 4, 4), block_arrays(config, spec, None)
    variables = block.init(jax.random.key(0), x, own, False)
    zeros = {name: jax.tree.map(jnp.zeros_like, leaf) for name, leaf in variables["params"].items()}
    y = block.apply(variables | {"params": zeros}, x, own, False)
    np.testing.assert_array_equal(y[..., :4], x)
    np.testing.assert_array_equal(y[..., 4:], 0)


# Shake-Shake (1705.07485).


def test_two_branches_are_mixed_forward_and_backward_by_different_numbers():
    """u F1 + (1 - u) F2 forward, (v, 1 - v) backward; u and v are U(0, 1), one of each for an image."""
    one, other = jnp.ones((4000, 2, 2, 3)), jnp.zeros((4000, 2, 2, 3))
    both = jnp.concatenate([one, other], axis=-1)
    y, pull = jax.vjp(lambda branches: shake(branches, jax.random.key(0)), both)
    u = y[:, 0, 0, 0]
    np.testing.assert_allclose(y, jnp.broadcast_to(u[:, None, None, None], y.shape))
    gradient = pull(jnp.ones_like(y))[0]
    v = gradient[:, 0, 0, 0]
    np.testing.assert_allclose(gradient[..., :3], jnp.broadcast_to(v[:, None, None, None], y.shape))
    np.testing.assert_allclose(gradient[..., 3:], 1 - gradient[..., :3], atol=1e-6)
    for drawn in (u, v):
        assert drawn.mean() == pytest.approx(0.5, abs=0.02)
        assert drawn.var() == pytest.approx(1 / 12, rel=0.05)
    assert abs(np.corrcoef(u, v)[0, 1]) < 0.05


def test_evaluation_takes_the_mean_of_both_branches():
    """Of two branches on their own, with the same kernels and norms."""
    config = net(branch="shake_shake", activation_order="shake_shake")
    block, x, own = Block(config, SPEC), images(2, 4, 4, 4), block_arrays(config, SPEC, None)
    variables = block.init(jax.random.key(0), x, own, False)
    params, state = split(variables)

    def alone(tree, half):
        """Output channels of one branch; its second kernel has its own inputs already."""
        return jax.tree.map(lambda leaf: jnp.split(leaf, 2, axis=-1)[half], tree)

    single = Block(dataclasses.replace(config, branch="basic"), SPEC)
    sums = [single.apply({"params": alone(params, i), **alone(state, i)}, x, own, False) for i in (0, 1)]
    y = block.apply(variables, x, own, False)
    np.testing.assert_allclose(y, (sums[0] + sums[1]) / 2, rtol=1e-5, atol=1e-5)


def test_both_branches_start_from_draws_of_their_own():
    """Each as wide as a single branch draws it."""
    config = net(branch="shake_shake", activation_order="shake_shake", width=8.0)
    spec = dataclasses.replace(SPEC, inputs=32, width=32, outputs=32)
    shape = jax.ShapeDtypeStruct((1, 4, 4, 32), jnp.float32)
    params = Block(config, spec).lazy_init(jax.random.key(0), shape, block_arrays(config, spec, None), False)
    kernel = params["params"]["conv1"]["kernel"]
    assert kernel.shape == (3, 3, 32, 64)
    assert kernel.var() == pytest.approx(2 / (9 * 32), rel=0.05)
    one, other = np.split(np.asarray(kernel), 2, axis=-1)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.05
