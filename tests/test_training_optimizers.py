"""Optimisers: PyTorch's SGD step by step, masks and multipliers by path, descent for all."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet.errors import InputError
from resnet.training.optimizers import OptimizerConfig, check_multipliers, make_optimizer

PARAMS = {
    "conv": {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([0.5])},
    "head": {"kernel": jnp.array([3.0])},
}


def update(config, grads, steps=1, rate=0.1):
    """Parameters after some steps with constant gradients."""
    optimizer = make_optimizer(config, lambda step: rate)
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(steps):
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def zeros():
    return jax.tree.map(jnp.zeros_like, PARAMS)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_pytorchs(nesterov):
    config = OptimizerConfig(momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    ours = update(config, jax.tree.map(jnp.ones_like, PARAMS), steps=3)
    p, buffer = np.array([1.0, -2.0]), np.zeros(2)
    for _ in range(3):  # torch.optim.SGD's algorithm, as documented.
        g = 1.0 + 0.01 * p
        buffer = 0.9 * buffer + g
        p = p - 0.1 * (g + 0.9 * buffer if nesterov else buffer)
    np.testing.assert_allclose(ours["conv"]["kernel"], p, rtol=1e-6)


def test_decay_of_kernels_only():
    decayed = update(OptimizerConfig(weight_decay=0.5, decay="kernels"), zeros())
    assert decayed["conv"]["bias"] == PARAMS["conv"]["bias"]
    assert decayed["head"]["kernel"] < PARAMS["head"]["kernel"]
    decayed = update(OptimizerConfig(weight_decay=0.5, decay="all"), zeros())
    assert decayed["conv"]["bias"] < PARAMS["conv"]["bias"]


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_each_descends(name):
    config = OptimizerConfig(name=name, weight_decay=0.0)
    optimizer = make_optimizer(config, lambda step: 0.02)

    def loss(params):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))

    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(20):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert loss(params) < 0.8 * loss(PARAMS)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_multipliers_freeze_by_path(name):
    config = OptimizerConfig(name=name, lr_multipliers=(("^head/", 0.0), ("bias$", 0.5)))
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    plain = update(OptimizerConfig(name=name), grads)
    scaled = update(config, grads)
    assert scaled["head"]["kernel"] == PARAMS["head"]["kernel"]
    np.testing.assert_array_equal(scaled["conv"]["kernel"], plain["conv"]["kernel"])
    moved, half = (p["conv"]["bias"] - PARAMS["conv"]["bias"] for p in (plain, scaled))
    np.testing.assert_allclose(half, moved / 2, rtol=1e-5)


def test_clipping_bounds_the_gradient():
    config = OptimizerConfig(clip_norm=1.0, momentum=0.0, weight_decay=0.0)
    moved = jax.tree.map(
        jnp.subtract, update(config, jax.tree.map(lambda p: 100 * p, PARAMS), rate=1.0), PARAMS
    )
    np.testing.assert_allclose(optax.tree.norm(moved), 1.0, rtol=1e-6)


def test_a_multiplier_that_matches_nothing():
    config = OptimizerConfig(lr_multipliers=(("heed", 0.1),))
    with pytest.raises(InputError, match=r"'heed' matches no parameter.*conv/bias"):
        check_multipliers(config, PARAMS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "adam"}, "`optimizer.name` must be one of sgd, adamw, lamb; got 'adam'"),
        ({"momentum": 1.0}, "`optimizer.momentum` must be at least 0 and below 1"),
        ({"decay": "some"}, "`optimizer.decay`"),
        ({"weight_decay": -1.0}, "`optimizer.weight_decay`"),
        ({"name": "lamb", "nesterov": True}, "`optimizer.nesterov`"),
        ({"lr_multipliers": (("(", 1.0),)}, "no regular expression"),
    ],
)
def test_wrong_fields(fields, message):
    with pytest.raises(InputError, match=message):
        OptimizerConfig(**fields).check()


def test_multipliers_must_be_pairs():
    config = OptimizerConfig()
    config.lr_multipliers = ("head", 1.0)
    with pytest.raises(InputError, match="must hold pairs"):
        config.check()
