"""First variables and optimisers' states have the bits of Flax and Optax, and share no memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet.models.config import ModelConfig
from resnet.models.layers import KERNEL_INITS
from resnet.models.resnet import make_model
from resnet.training.optimizers import PRECONDITIONERS, OptimizerConfig, make_optimizer
from resnet.training.start import init_optimizer, init_variables
from tests.models_cases import MIXED

SHAPE = (8, 8, 3)
TINY = ModelConfig(blocks=(1, 1, 1), width=0.25)


def start(config: ModelConfig, seed: int = 3) -> dict:
    return init_variables(jax.random.key(seed), model=make_model(config, 5), image_shape=SHAPE)


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    kinds = [[(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)] for tree in (found, expected)]
    assert kinds[0] == kinds[1]


def of_flax(config: ModelConfig) -> dict:
    images = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
    return {"batch_stats": {}, **make_model(config, 5).lazy_init(jax.random.key(3), images, train=False)}


@pytest.mark.parametrize("name", KERNEL_INITS)
def test_kernels_are_those_of_flax(name):
    config = ModelConfig(blocks=(1, 1, 1), width=0.25, kernel_init=name)
    assert_same(start(config), of_flax(config))


@pytest.mark.thorough
@pytest.mark.parametrize("config", [*MIXED.values()][::5], ids=[*MIXED][::5])
def test_the_first_variables_are_those_of_flax(config):
    assert_same(start(config), of_flax(config))


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_the_first_state_of_an_optimiser_is_that_of_optax(name):
    config = OptimizerConfig(name=name, nesterov=False, clip_norm=1.0)
    optimizer = make_optimizer(config, optax.constant_schedule(0.1), freeze="^stem/")
    params = start(TINY)["params"]
    assert_same(init_optimizer(optimizer.init, params), optimizer.init(params))


def test_a_state_that_holds_the_parameters_holds_copies():
    params = start(TINY)["params"]
    held = init_optimizer(lambda params: {"slow": params, "steps": jnp.int32(0)}, params)
    assert_same(held["slow"], params)
    assert not places(held) & places(params)


def places(tree) -> set[int]:
    """Where the arrays lie in memory."""
    return {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)}


def test_no_two_arrays_share_memory():
    """Training donates its state, and JAX refuses to donate one piece of memory twice."""
    first, again = start(TINY), start(TINY)
    leaves = jax.tree.leaves([first, again])
    assert len(places([first, again])) == len(leaves)
    doubled = jax.jit(lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree), donate_argnums=0)
    assert_same(doubled(first), jax.tree.map(lambda leaf: 2 * leaf, again))


def test_shapes_are_known_without_drawing():
    model = make_model(TINY, 5)
    shapes = jax.eval_shape(
        lambda key: init_variables(key, model=model, image_shape=SHAPE), jax.random.key(3)
    )
    assert_same(
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes),
        jax.tree.map(jnp.zeros_like, start(TINY)),
    )
