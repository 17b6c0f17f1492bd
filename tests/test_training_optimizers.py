"""Optimisers: PyTorch's SGD step by step, masks and multipliers by path, descent for all."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet.errors import InputError
from resnet.training.optimizers import (
    PRECONDITIONERS,
    OptimizerConfig,
    check_paths,
    make_optimizer,
)
from tests.few import few
from tests.folder_cases import noted

PARAMS = {
    "conv": {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([0.5])},
    "stage1": {"block1": {"conv1": {"kernel": jnp.arange(1.0, 19).reshape(3, 3, 1, 2) / 40}}},
    "head": {"kernel": jnp.array([3.0])},
}
BLOCK = "stage1/block1/conv1/kernel"
# Of five steps, so that each parameter's change in size and sign.
GRADIENTS = [jax.tree.map(lambda p, step=step: jnp.sin(40 * step * p), PARAMS) for step in range(1, 6)]


def update(config, grads, steps=1, rate=0.1):
    """Parameters after some steps with constant gradients."""
    return walked(config, [grads] * steps, rate)


def walked(config, gradients, rate=0.1):
    """Parameters after a step with each of the gradients."""
    optimizer = make_optimizer(config, lambda step: rate)
    params, state = PARAMS, optimizer.init(PARAMS)
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def in_float64(tree, path):
    """The parameter, or its gradient, at a path."""
    return np.float64(functools.reduce(dict.__getitem__, path.split("/"), tree))


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


@pytest.mark.parametrize("name", [n for n, each in PRECONDITIONERS.items() if "nesterov" in each.fields])
def test_nesterov_moves_every_parameter_elsewhere(name):
    config = {"name": name, "weight_decay": 0.0}
    plain, ahead = (walked(OptimizerConfig(**config, nesterov=n), GRADIENTS) for n in (False, True))
    for a, b in zip(*map(jax.tree.leaves, (plain, ahead)), strict=True):
        assert (jnp.abs(a - b) > 1e-5).any()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_adamw_is_its_papers_and_what_muon_does_beside_the_blocks(name, nesterov):
    """Step by step; with Nesterov's momentum that of Dozat 2016, as optax has it."""
    b1, b2 = 0.8, 0.7
    config = OptimizerConfig(
        name=name, momentum=b1, beta2=b2, epsilon=1e-3, weight_decay=0.02, nesterov=nesterov
    )
    ours = walked(config, GRADIENTS)
    p, m, v = in_float64(PARAMS, "conv/kernel"), 0.0, 0.0
    for step, grads in enumerate(GRADIENTS, 1):
        g = in_float64(grads, "conv/kernel")
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        first = m / (1 - b1**step)
        if nesterov:
            first = b1 * m / (1 - b1 ** (step + 1)) + (1 - b1) * g / (1 - b1**step)
        p = p - 0.1 * (first / (np.sqrt(v / (1 - b2**step)) + 1e-3) + 0.02 * p)
    np.testing.assert_allclose(ours["conv"]["kernel"], p, rtol=1e-4)


def test_lion_is_its_papers():
    """Chen 2023, algorithm 2: `momentum` weighs what the sign is taken of, beta2 what is remembered."""
    ours = walked(OptimizerConfig(name="lion", momentum=0.8, beta2=0.4, weight_decay=0.02), GRADIENTS)
    p, m = in_float64(PARAMS, BLOCK), 0.0
    for grads in GRADIENTS:
        g = in_float64(grads, BLOCK)
        p, m = p - 0.1 * (np.sign(0.8 * m + 0.2 * g) + 0.02 * p), 0.4 * m + 0.6 * g
    np.testing.assert_allclose(in_float64(ours, BLOCK), p, rtol=1e-5)


def test_decay_of_kernels_only():
    decayed = update(OptimizerConfig(weight_decay=0.5, decay="kernels"), zeros())
    assert decayed["conv"]["bias"] == PARAMS["conv"]["bias"]
    assert decayed["head"]["kernel"] < PARAMS["head"]["kernel"]
    decayed = update(OptimizerConfig(weight_decay=0.5, decay="all"), zeros())
    assert decayed["conv"]["bias"] < PARAMS["conv"]["bias"]


@pytest.mark.parametrize("name", few(2, PRECONDITIONERS))
def test_each_descends(name):
    config = OptimizerConfig(name=name, weight_decay=0.0, trust=0.5)
    optimizer = make_optimizer(config, lambda step: 0.02)

    def loss(params):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))

    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(20):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert loss(params) < 0.8 * loss(PARAMS)


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_decay_alone_shrinks_kernels_and_what_else_is_decayed(name):
    """Without a gradient every parameter that is decayed shrinks, and the others keep their bits."""
    if name in ("lars", "rmsprop"):
        pytest.skip("their decay is part of a gradient that is scaled")
    config = OptimizerConfig(name=name, weight_decay=0.1, decay="kernels")
    for path, before, after in zip(
        ("conv/bias", "conv/kernel", "head/kernel", "stage1/block1/conv1/kernel"),
        *map(jax.tree.leaves, (PARAMS, update(config, zeros()))),
        strict=True,
    ):
        smaller = (jnp.abs(after) < jnp.abs(before)) | (before == 0)
        assert smaller.all() if path.endswith("kernel") else (after == before).all(), path


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_only_kernels_are_adapted_if_asked(name):
    grads = jax.tree.map(lambda p: 1e-3 * jnp.ones_like(p), PARAMS)
    of_all, of_kernels = (
        update(OptimizerConfig(name=name, adapt=adapt), grads) for adapt in ("all", "kernels")
    )
    assert (of_all["head"]["kernel"] == of_kernels["head"]["kernel"]).all()
    assert (of_all["conv"]["bias"] != of_kernels["conv"]["bias"]).all()


def test_lamb_is_timms():
    """Its algorithm step by step: moments, bias correction, decay in the update, ratio where decayed."""
    config = OptimizerConfig(name="lamb", epsilon=1e-6, weight_decay=0.02, decay="kernels", adapt="kernels")
    config.clip_norm = 1.0
    grads = jax.tree.map(lambda p: 0.5 * jnp.cos(p), PARAMS)
    ours = update(config, grads, steps=3, rate=0.05)
    norm = max(1.0, np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads))))
    for of, name, decayed in (("conv", "kernel", 0.02), ("conv", "bias", 0.0)):
        p, g = (np.float64(tree[of][name]) for tree in (PARAMS, grads))
        m = v = np.zeros_like(p)
        for step in (1, 2, 3):
            m, v = 0.9 * m + 0.1 * g / norm, 0.999 * v + 0.001 * (g / norm) ** 2
            u = m / (1 - 0.9**step) / (np.sqrt(v) / np.sqrt(1 - 0.999**step) + 1e-6) + decayed * p
            ratio = np.linalg.norm(p) / np.linalg.norm(u) if decayed else 1.0
            p = p - 0.05 * ratio * u
        np.testing.assert_allclose(ours[of][name], p, rtol=1e-4)


@pytest.mark.parametrize(("name", "nesterov"), [("lars", False), ("lars", True), ("rmsprop", False)])
def test_lars_and_rmsprop_take_the_rate_into_their_momentum(name, nesterov):
    """The papers' algorithms step by step, with a rate that changes."""
    rates = [0.1, 0.4, 0.2]
    kernel, g, decay = np.array([1.0, -2.0]), np.array([0.3, 0.1]), 0.01
    fields = {"momentum": 0.8, "beta2": 0.9, "epsilon": 1e-3, "trust": 0.02, "nesterov": nesterov}
    config = OptimizerConfig(name=name, weight_decay=decay, **fields)
    optimizer = make_optimizer(config, lambda step: jnp.asarray(rates)[step])
    params = {"kernel": jnp.asarray(kernel, jnp.float32)}
    state, p, momentum, squares = optimizer.init(params), kernel, 0.0, 1.0
    for rate in rates:
        updates, state = optimizer.update({"kernel": jnp.asarray(g, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
        u = g + decay * p
        if name == "lars":
            u = 0.02 * np.linalg.norm(p) / np.linalg.norm(u) * u
        else:
            squares = 0.9 * squares + 0.1 * u**2
            u = u / np.sqrt(squares + 1e-3)
        momentum = 0.8 * momentum + rate * u
        p = p - (0.8 * momentum + rate * u if nesterov else momentum)
    np.testing.assert_allclose(params["kernel"], p, rtol=1e-4)


@pytest.mark.parametrize("name", ["adamw", "lamb", "rmsprop", "muon"])
def test_epsilon_counts_for_all_that_have_a_second_moment(name):
    kernel = 0.1 * jax.random.normal(jax.random.key(0), (3, 3, 4, 6))
    params = {"stage1": {"block1": {"conv1": {"kernel": kernel}}}, "head": {"kernel": kernel[0, 0]}}

    def updates(epsilon):
        config = OptimizerConfig(name=name, epsilon=epsilon, weight_decay=0.0)
        optimizer = make_optimizer(config, lambda step: 1.0)
        return jax.tree.leaves(optimizer.update(params, optimizer.init(params), params)[0])

    for small, large in zip(updates(1e-8), updates(0.1), strict=True):
        assert np.abs(small - large).max() > 1e-4


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_multipliers_freeze_by_path(name):
    config = OptimizerConfig(name=name, lr_multipliers=(("^head/", 0.0), ("bias$", 0.5)))
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    plain = update(OptimizerConfig(name=name), grads)
    scaled = update(config, grads)
    assert scaled["head"]["kernel"] == PARAMS["head"]["kernel"]
    np.testing.assert_array_equal(scaled["conv"]["kernel"], plain["conv"]["kernel"])
    moved, half = (p["conv"]["bias"] - PARAMS["conv"]["bias"] for p in (plain, scaled))
    np.testing.assert_allclose(half, moved / 2, rtol=1e-5)


def test_the_first_expression_that_matches_gives_the_factor():
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    rates = (("^conv/bias$", 0.5), ("conv", 3.0))
    config = OptimizerConfig(momentum=0.0, weight_decay=0.0, lr_multipliers=rates)
    moved = jax.tree.map(jnp.subtract, update(config, grads, rate=1.0), PARAMS)
    np.testing.assert_allclose(moved["conv"]["bias"], -0.5, rtol=1e-5)
    np.testing.assert_allclose(moved["conv"]["kernel"], -3.0, rtol=1e-5)


def test_clipping_bounds_the_gradient():
    config = OptimizerConfig(clip_norm=1.0, momentum=0.0, weight_decay=0.0)
    moved = jax.tree.map(
        jnp.subtract, update(config, jax.tree.map(lambda p: 100 * p, PARAMS), rate=1.0), PARAMS
    )
    np.testing.assert_allclose(optax.tree.norm(moved), 1.0, rtol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", few(2, PRECONDITIONERS))
def test_bounds_hold_after_each_step(name, sign):
    """Those that are named lie within them; the others have the bits that they would have had."""
    plain_config = OptimizerConfig(name=name, lr_multipliers=((".", 1e6),))  # beyond the bounds
    config = dataclasses.replace(plain_config, within=(("^head/", 2.9), ("bias$", 0.45)))
    grads = jax.tree.map(lambda leaf: -sign * jnp.ones_like(leaf), PARAMS)
    plain, bounded = (update(each, grads, steps=3) for each in (plain_config, config))
    np.testing.assert_allclose(bounded["head"]["kernel"], sign * 2.9, rtol=1e-6)
    np.testing.assert_allclose(bounded["conv"]["bias"], sign * 0.45, rtol=1e-6)
    np.testing.assert_array_equal(bounded["conv"]["kernel"], plain["conv"]["kernel"])


@pytest.mark.parametrize("field", ("lr_multipliers", "within"))
def test_an_expression_that_matches_nothing(field):
    config = OptimizerConfig(**{field: (("heed", 0.1),)})
    with pytest.raises(InputError, match=r"'heed' matches no parameter.*conv/bias"):
        check_paths(config, PARAMS)


def test_a_pair_whose_parameters_all_have_an_earlier_one_is_named(monkeypatch):
    lines = noted(monkeypatch)
    check_paths(OptimizerConfig(lr_multipliers=(("kernel", 0.1), ("", 2.0))), PARAMS)
    assert not lines
    check_paths(OptimizerConfig(lr_multipliers=(("", 0.1), ("bias", 0.5))), PARAMS)
    (line,) = lines
    assert line.startswith(
        "`optimizer.lr_multipliers`: 'bias' has no effect, as earlier expressions match all"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "adam"}, "`optimizer.name` must be one of sgd, adamw, lamb, lars, .*; got 'adam'"),
        ({"adapt": "some"}, "`optimizer.adapt`"),
        ({"momentum": 1.0}, "`optimizer.momentum` must be at least 0 and below 1"),
        ({"decay": "some"}, "`optimizer.decay`"),
        ({"weight_decay": -1.0}, "`optimizer.weight_decay`"),
        ({"name": "lamb", "nesterov": True}, "`optimizer.nesterov`"),
        ({"lr_multipliers": (("(", 1.0),)}, "no regular expression"),
        ({"within": (("(", 1.0),)}, "no regular expression"),
        ({"within": (("head", -1.0),)}, "`optimizer.within` must be at least 0; got -1.0"),
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
