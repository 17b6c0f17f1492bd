"""Reversible blocks (RevNet, arXiv 1707.04585): their inverses, gradients without stored inputs, counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.counts import count_parts, totals
from resnet.models.geometry import FAMILIES
from resnet.models.resnet import Block, make_model
from resnet.models.scanning import BlockArrays
from resnet.models.shortcuts.reversible import invert
from tests.models_cases import FAST_COMPILE, NUM_OUTPUTS, images, loss, net, split, start

SPEC = BlockSpec(stage=1, block=2, index=1, inputs=4, width=4, outputs=4, stride=1)


def reversible_block(spec=SPEC):
    """(block in training as a function of (state, params), the state, the parameters)."""
    config = net(shortcut="reversible", activation_order="preactivation")
    block, x = Block(config, spec), images(2, 5, 5, spec.inputs)
    variables = block.init(jax.random.key(0), x, BlockArrays(), False)
    params, others = split(variables)

    def apply(x, params):
        return block.apply({"params": params, **others}, x, BlockArrays(), True, mutable=["batch_stats"])

    return apply, x, params


@pytest.mark.thorough
def test_a_block_gives_back_its_input_and_its_pullback():
    """The inverse by one application of the block; the gradient as at the input."""
    apply, x, params = reversible_block()
    (y, _), cotangent = apply(x, params), images(*x.shape, seed=1)
    found, pull = invert(apply, y, params)
    np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(y[..., :2], x[..., 2:])
    expected = jax.vjp(lambda x, params: apply(x, params)[0], x, params)[1](cotangent)
    for a, b in zip(jax.tree.leaves(pull(cotangent)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_a_block_keeps_volumes():
    """The determinant of its Jacobian is 1 or -1."""
    apply, x, params = reversible_block()
    one = x[:1, :1, :1]
    jacobian = jax.jacobian(lambda v: apply(v.reshape(one.shape), params)[0].ravel())(one.ravel())
    assert abs(np.linalg.det(jacobian)) == pytest.approx(1, abs=1e-4)


def test_the_error_of_the_inverse_grows_as_rounding_does():
    """Through 32 blocks and back: below the machine's epsilon times depth times the largest value."""
    apply, x, params = reversible_block()
    forward = jax.jit(lambda x: apply(x, params)[0])
    inverse = jax.jit(lambda y: invert(apply, y, params)[0])
    depth, states = 32, [x]
    for _ in range(depth):
        states.append(forward(states[-1]))
    back = states[-1]
    for _ in range(depth):
        back = inverse(back)
    largest = max(float(jnp.abs(state).max()) for state in states)
    assert 0 < jnp.abs(back - x).max() < depth * largest * np.finfo(np.float32).eps


@pytest.mark.parametrize(
    ("depth", "widths", "parameters"), [(38, (32, 64, 112), 464_890), (110, (32, 64, 128), 1_729_194)]
)
def test_parameters_of_revnets(monkeypatch, depth, widths, parameters):
    """Counted from the definition of the authors' code."""
    monkeypatch.setitem(FAMILIES, "revnet", widths)
    config = ModelConfig(
        family="revnet", depth=depth, shortcut="reversible", activation_order="preactivation"
    )
    assert totals(count_parts(config, 10, (32, 32, 3)))[0] == parameters


def gradients(config, seeds=1):
    """Of every parameter, of two seeds of one program if there are two."""
    model, variables = start(config)
    params, state = split(variables)
    step = jax.grad(functools.partial(loss, model=model), has_aux=True)
    if seeds > 1:
        params, state = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), (params, state))
        step = jax.vmap(step, (0, 0, None, None))
    return jax.jit(step, compiler_options=FAST_COMPILE)(params, state, images(), jax.random.key(1))


@pytest.mark.thorough
@pytest.mark.parametrize("shortcut", ("reversible", "hyper_dynamic"))
def test_several_seeds_are_each_alone(shortcut):
    """Scanned and recomputed: the first of two seeds in one program has the numbers of a single one."""
    config = net(
        shortcut=shortcut, activation_order="preactivation", blocks=(1, 3), scan_blocks=True, remat=True
    )
    for alone, both in zip(
        jax.tree.leaves(gradients(config)), jax.tree.leaves(gradients(config, 2)), strict=True
    ):
        np.testing.assert_allclose(both[0], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_gradients_in_bfloat16_are_those_of_blocks_that_store_their_input():
    """Not those at inputs that are computed back from rounded sums, which drift from block to block."""
    fields = {"shortcut": "reversible", "activation_order": "preactivation", "blocks": (16, 1)}
    fields |= {"dtype": "bfloat16", "scan_blocks": True}
    found = (jax.tree.leaves(gradients(net(**fields, remat=remat))[0]) for remat in (False, True))
    stored, again = (np.concatenate([np.ravel(leaf) for leaf in leaves]) for leaves in found)
    assert np.linalg.norm(stored - again) < 0.02 * np.linalg.norm(stored)


@pytest.mark.thorough
def test_recomputed_reversible_blocks_keep_one_state():
    """Compiled memory for temporaries does not grow by the states of the blocks that are added."""

    def temporary(blocks, remat):
        config = net(
            shortcut="reversible",
            activation_order="preactivation",
            blocks=(blocks, 1),
            scan_blocks=True,
            remat=remat,
        )
        model = make_model(config, NUM_OUTPUTS)
        params, state = split(jax.eval_shape(model.init, jax.random.key(0), images()))
        step = jax.jit(lambda *given: jax.grad(loss, has_aux=True)(*given, model=model)[0])
        compiled = step.lower(params, state, images(4, 32, 32, 3), jax.random.key(1)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    state_bytes = 4 * 32 * 32 * 4 * 4
    grown = {remat: temporary(24, remat) - temporary(8, remat) for remat in (False, True)}
    assert grown[False] > 16 * state_bytes
    assert grown[True] < 4 * state_bytes
