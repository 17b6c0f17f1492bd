"""A net taken apart is the net; what flows through parts with known gains grows by them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.models.chain import flow, noise_like, parts
from resnet.models.config import ModelConfig
from tests.models_cases import FAST_COMPILE, NUM_OUTPUTS, images, net, start

CASES = {
    "postactivation": net(),
    "preactivation": net(activation_order="preactivation", transition="projection"),
    "highway": net(shortcut="highway"),
    "normalizer_free": net(shortcut="normalizer_free", activation_order="preactivation"),
    "fixup": net(shortcut="fixup"),
    "stochastic depth": net(stochastic_depth=0.5),
}
LINEAR = {
    "family": "chain", "blocks": (6,), "norm": "none", "activation": "identity", "padding": "circular",
    "kernel_init": "delta_orthogonal", "after_sum": "identity",
}  # fmt: skip


def chain_of(config, statistics="running"):
    return parts(config, NUM_OUTPUTS, start(config)[1], statistics)


def through(chain, x):
    return functools.reduce(lambda x, part: part(x), chain, x)


def output(config, train=False):
    """(logits, names of the features) of the whole net."""
    model, variables = start(config)
    run = functools.partial(model.apply, train=train, mutable=["batch_stats"])
    (logits, features), _ = jax.jit(run, compiler_options=FAST_COMPILE)(variables, images())
    return logits, list(features)


@pytest.mark.thorough
@pytest.mark.parametrize("name", CASES)
def test_the_chain_is_the_net_and_its_blocks_come_apart(name):
    chain = chain_of(CASES[name])
    logits, features = output(CASES[name])
    x = chain[0](images())
    for block in chain[1:-1]:
        y, inside = block.open(x)
        np.testing.assert_allclose(block.join(x, inside["branch"]), y, rtol=1e-5, atol=1e-6)
        x = y
    np.testing.assert_allclose(chain[-1](x), logits, rtol=1e-4, atol=1e-5)
    assert sorted(part.name for part in chain) == sorted({*features, "head"} - {"pooled"})


def test_the_chain_uses_batch_statistics():
    config = net(activation_order="preactivation")
    found = through(chain_of(config, "batch"), images())
    np.testing.assert_allclose(found, output(config, train=True)[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(found, output(config)[0], rtol=1e-2)


def test_an_identity_block_without_its_branch_returns_its_input():
    block = chain_of(net(activation_order="preactivation", blocks=(2, 1)))[2]
    x = images(4, 8, 8, 4)
    assert (block.join(x, jnp.zeros_like(x)) == x).all()
    assert (jax.grad(lambda x: (block.join(x, jnp.zeros_like(x)) * 3).sum())(x) == 3).all()


@pytest.mark.thorough
def test_equal_blocks_share_a_program():
    first, *others = [part.module for part in chain_of(ModelConfig(**LINEAR))[1:-1]]
    assert all(other == others[0] and hash(other) == hash(others[0]) for other in others)
    assert first != others[0]


@pytest.mark.thorough
def test_norms_that_keep_their_statistics_do_so_in_the_chain():
    config = net(bn_fixed="stage1/.*norm1")
    logits, _ = output(config, train=True)
    np.testing.assert_allclose(through(chain_of(config, "batch"), images()), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("fields", [{"activation_order": "preactivation"}, {"shortcut": "highway"}])
def test_branch_and_shortcut_share_the_gradient(fields):
    chain = chain_of(net(**fields), "batch")
    x = chain[0](images())
    for block in chain[1:-1]:
        y = block(x)
        whole = block.pull(x, y)
        shares = [block.pull_through(x, y, branch=branch) for branch in (True, False)]
        np.testing.assert_allclose(sum(shares), whole, rtol=1e-3, atol=1e-3 * abs(whole).max())
        x = y


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("fields", "forward", "gradient"),
    [
        ({"shortcut": "none"}, 1.0, 1.0),
        ({"shortcut": "constant_scaling", "branch_scale": 0.0}, 0.5, 0.5),
        ({"shortcut": "constant_scaling", "branch_scale": 0.0, "shortcut_scale": 0.01}, 0.01, 0.01),
        ({"shortcut": "rezero"}, 1.0, 1.0),
        ({"shortcut": "none", "branch_init_scale": 3.0}, 9.0, 9.0),
    ],
)
def test_flow_through_known_gains(fields, forward, gradient):
    found = flow(chain_of(ModelConfig(**LINEAR | fields)), images(), noise_like)
    np.testing.assert_allclose(np.exp(np.diff(found.x)), forward, rtol=1e-4)
    np.testing.assert_allclose(np.exp(-np.diff(found.gradient)), gradient, rtol=1e-4)
    assert abs(found.gradient[-1]) < 1e-5 and len(found.blocks) == 6


@pytest.mark.thorough
def test_flow_is_the_gradient_of_the_net():
    config = net(blocks=(2, 2))
    chain = chain_of(config, "batch")
    weights = images(4, NUM_OUTPUTS)

    def loss(x, i):
        return (through(chain[i:], x) * weights).sum()

    found = flow(chain, images(), functools.partial(jax.grad(loss), i=len(chain) - 1))
    x = chain[0](images())
    for i in range(1, len(chain)):
        expected = np.sqrt(np.square(jax.grad(loss)(x, i)).mean())
        np.testing.assert_allclose(np.exp(found.gradient[i - 1]), expected, rtol=1e-3)
        x = chain[i](x)


@pytest.mark.thorough
def test_what_overflows_is_masked_and_the_rest_measured():
    config = ModelConfig(**LINEAR | {"shortcut": "none", "branch_init_scale": 1e6, "blocks": (8,)})
    found = flow(chain_of(config), images(), noise_like)
    alive = np.isfinite(found.x)
    assert 2 <= alive.sum() < 9 and (alive == np.isfinite(found.gradient)).all()
    np.testing.assert_allclose(-np.diff(found.gradient[alive]), 2 * np.log(1e6), rtol=1e-4)


def test_a_signal_that_dies_before_the_last_stage_is_measured_as_far_as_it_lives():
    """The head takes the last stage's channels alone, so its loss has no gradient at an inner joint."""
    fields = {"family": "cifar", "shortcut": "none", "blocks": (2, 2, 2), "width": 0.25}
    config = ModelConfig(**LINEAR | fields)
    variables = start(config)[1]
    kernel = variables["params"]["stage2"]["block2"]["conv1"]["kernel"]
    variables["params"]["stage2"]["block2"]["conv1"]["kernel"] = jnp.zeros_like(kernel)
    chain = parts(config, NUM_OUTPUTS, variables)
    found = flow(chain, images(), jax.grad(lambda x: chain[-1](x).sum()))
    assert np.isfinite(found.x).tolist() == np.isfinite(found.gradient).tolist() == [True] * 4 + [False] * 3
    assert abs(found.gradient[3]) < 1e-5


def test_cosine_between_x_and_the_branch():
    config = ModelConfig(**LINEAR | {"kernel_init": "identity"})
    found = flow(chain_of(config), images(), noise_like)
    np.testing.assert_allclose(found.cosine, 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.exp(np.diff(found.x)), 2.0, rtol=1e-5)
    np.testing.assert_allclose(found.branch, found.x[:-1], rtol=1e-5)  # F(x) = x


@pytest.mark.thorough
def test_size_of_the_branch_and_its_cosine_with_x():
    chain = chain_of(net(activation_order="preactivation", blocks=(2, 1)), "batch")
    found, x = flow(chain, images(), noise_like), chain[0](images())
    for i, block in enumerate(chain[1:-1]):
        branch = np.asarray(block.branch(x), np.float64)
        np.testing.assert_allclose(np.exp(found.branch[i]), np.sqrt(np.square(branch).mean()), rtol=1e-4)
        if branch.shape == x.shape:
            a, b = np.asarray(x, np.float64).reshape(len(x), -1), branch.reshape(len(x), -1)
            cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
            np.testing.assert_allclose(found.cosine[i], cosines.mean(), atol=1e-5)
        x = block(x)
