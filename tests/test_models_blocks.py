"""What one block computes: the papers' formulas in NumPy, and the promises they make."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.resnet import Block, make_model
from resnet.models.scanning import BlockArrays, block_arrays
from resnet.models.shortcuts.table import SHORTCUTS, starts_inside
from resnet.models.shortcuts.transitions import TRANSITIONS
from tests import models_reference as reference
from tests.models_cases import FAST_COMPILE, FIRST, NUM_OUTPUTS, PLAIN, PLAIN_PARAMS, images

KEEPS = BlockSpec(stage=1, block=2, index=1, inputs=4, width=4, outputs=4, stride=1)
CHANGES = BlockSpec(stage=2, block=1, index=1, inputs=4, width=8, outputs=8, stride=2)


def make_block(config, spec=KEEPS, seed=0, noise=0.3):
    """(block, variables), the parameters off their initial zeros and ones by noise."""
    block = Block(config, spec)
    x = features(spec)
    own = block_arrays(config, spec, None)
    variables = block.init(jax.random.key(seed), x, own, False)
    leaves, structure = jax.tree.flatten(variables["params"])
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    moved = [
        leaf + noise * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)
    ]
    return block, variables | {"params": jax.tree.unflatten(structure, moved)}


def features(spec=KEEPS, seed=7):
    return images(3, 6, 6, spec.inputs, seed=seed)


@functools.cache
def compiled(block, train):
    """(variables, x, key) -> output, compiled quickly."""

    @jax.jit(compiler_options=FAST_COMPILE)
    def apply(variables, x, key):
        own = block_arrays(block.config, block.spec, key)
        return block.apply(variables, x, own, train, mutable=["batch_stats"])[0]

    return apply


def forward(block, variables, x, train=True, key=None):
    """The block's output in training or evaluation."""
    return compiled(block, train)(variables, x, key)


def of_transition(name: str, kind: str | None) -> list[pytest.MarkDecorator]:
    """Marks of a block that changes shape: thorough in the first order of its shortcut, slow in others."""
    return [pytest.mark.thorough if name in FIRST.values() else pytest.mark.slow] if kind else []


def transitions_of(config: ModelConfig) -> list[str | None]:
    """None, for a block that keeps the shape, and the transitions that the shortcut takes."""
    return [None, *(["projection"] if SHORTCUTS[config.shortcut].changes_shape else TRANSITIONS)]


BLOCKS = [
    pytest.param(config, kind, id=f"{name}-{kind}", marks=of_transition(name, kind) or marks)
    for config, name, marks in ((*param.values, param.id, param.marks) for param in PLAIN_PARAMS)
    for kind in transitions_of(config)
]


@pytest.mark.parametrize(("config", "kind"), BLOCKS)
def test_a_block_is_its_papers_formula(config, kind):
    """Within 1e-4 of float64, for every shortcut and order, with and without a change of shape."""
    config = dataclasses.replace(config, transition=kind or "pad")
    spec = CHANGES if kind else KEEPS
    # Without draws, the dropout shortcut is the identity; standardised kernels have a test of their own.
    config = dataclasses.replace(config, shortcut_dropout=0.0, weight_standardization="none")
    block, variables = make_block(config, spec)
    x = features(spec)
    # Both blocks are behind one other of their stage, or of the one before, which added 0.2^2 to 1.
    scale = 1.04**-0.5 if config.shortcut == "normalizer_free" else 1.0
    expected = reference.block(
        variables["params"], np.asarray(x, np.float64), order=config.activation_order,
        shortcut=config.shortcut,
        kind=kind, shared=starts_inside(config, spec), input_scale=scale,
    )  # fmt: skip
    ours = forward(block, variables, x)
    np.testing.assert_allclose(ours, expected, atol=1e-4 * (1 + np.abs(expected).max()))


STARTS_AT_IDENTITY = {
    "rezero": ModelConfig(shortcut="rezero", after_sum="identity"),
    "skipinit": ModelConfig(shortcut="skipinit", norm="none", after_sum="identity"),
    "fixup": ModelConfig(shortcut="fixup", norm="none", after_sum="identity"),
    "normalizer_free": PLAIN["normalizer_free-preactivation"],
    "zero_gamma": ModelConfig(zero_gamma=True, activation_order="preactivation"),
    "zero_gamma, postactivation": ModelConfig(zero_gamma=True, after_sum="identity"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("config", STARTS_AT_IDENTITY.values(), ids=STARTS_AT_IDENTITY.keys())
def test_starts_as_the_identity_forward_and_backward(config):
    """The block returns its input, and hands the gradient on, bit for bit."""
    block, variables = make_block(config, noise=0.0)
    x = features()
    cotangent = features(seed=8)
    own = block_arrays(config, KEEPS, None)
    y, pull = jax.vjp(lambda x: block.apply(variables, x, own, True, mutable=["batch_stats"])[0], x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(pull(cotangent)[0], cotangent)


def test_a_chain_of_identity_blocks_hands_on_the_gradient():
    """dE/dx_l = dE/dx_L * (1 + ...): with branches of zeros the term 1 is all there is, for any depth."""
    config = ModelConfig(activation_order="preactivation")
    block, variables = make_block(config)
    zero = jax.tree.map(jnp.zeros_like, variables)
    x, cotangent = features(), features(seed=8)

    def chain(x):
        for _ in range(5):
            x = block.apply(zero, x, BlockArrays(), False)
        return x

    y, pull = jax.vjp(chain, x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(pull(cotangent)[0], cotangent)


@pytest.mark.parametrize("shortcut", ("exclusive_gating", "shortcut_only_gating", "highway"))
@pytest.mark.parametrize("bias", (-1e4, 1e4))
def test_a_gate_shut_or_open_is_identity_or_plain(shortcut, bias):
    """g = 0 gives x (or x + F(x), where the gate does not scale F); g = 1 gives F(x)."""
    config = ModelConfig(shortcut=shortcut, after_sum="identity")
    block, variables = make_block(config)
    path = variables["params"]["shortcut"]
    last = path["gate"] if "gate" in path else path["gate2_norm"]
    last["bias"] = jnp.full_like(last["bias"], bias)
    x = features()
    alone, identity = (
        forward(Block(dataclasses.replace(config, shortcut=other), KEEPS), variables, x)
        for other in ("none", "identity")
    )
    shut = identity if shortcut == "shortcut_only_gating" else x
    np.testing.assert_allclose(forward(block, variables, x), alone if bias > 0 else shut, atol=1e-6)


@pytest.mark.thorough
def test_none_is_the_plain_net():
    """Same paths as the residual net, no shortcut's, and the logits of a chain written by hand."""
    config = ModelConfig(shortcut="none", depth=8, width=0.25)
    model, x = make_model(config, NUM_OUTPUTS), images()
    variables = model.lazy_init(jax.random.key(0), x)
    residual = make_model(dataclasses.replace(config, shortcut="identity"), NUM_OUTPUTS)
    same = residual.lazy_init(jax.random.key(0), x)
    for a, b in zip(*map(jax.tree.leaves_with_path, (variables, same)), strict=True):
        assert a[0] == b[0]
        np.testing.assert_array_equal(a[1], b[1])
    (logits, _), _ = jax.jit(
        lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]), compiler_options=FAST_COMPILE
    )(variables, x)
    expected = reference.plain_net(variables["params"], x, (1, 1, 1))
    np.testing.assert_allclose(logits, expected, atol=1e-4)
