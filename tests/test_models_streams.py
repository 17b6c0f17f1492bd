"""Several streams of x: starts and counts of their papers, doubly stochastic mixtures."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.models.config import BlockSpec
from resnet.models.layers import Layers
from resnet.models.resnet import Block
from resnet.models.scanning import block_arrays
from resnet.models.shortcuts.junction import Junction, Mixture
from resnet.models.shortcuts.streams import apart, each_stream, mix_streams, side_by_side, sinkhorn, weighted
from resnet.models.shortcuts.table import SHORTCUTS, StreamReader, streams_of
from tests.models_cases import FAST_COMPILE, images, net, split, start

SPEC = BlockSpec(stage=1, block=2, index=1, inputs=4, width=4, outputs=4, stride=1)
LAYERS = Layers(SimpleNamespace(config=net()), False, False, 0)  # of a merge that adds none
HYPER = ("hyper_static", "hyper_dynamic", "hyper_stochastic")
STREAMS = [name for name, shortcut in SHORTCUTS.items() if shortcut.streams]


def features(config, variables):
    """What every block of the net gives, in evaluation."""
    model = start(config)[0]
    return jax.jit(model.apply, compiler_options=FAST_COMPILE)(variables, images())[1]


def with_identity(tree):
    """The variables of the pre-activation net with the identity, of those of a net with streams."""
    first = tree["stage1"]["block1"]
    norms = {"norm1": tree["stem"]["norm1"], "norm2": first["norm1"]}
    stem = {name: leaves for name, leaves in tree["stem"].items() if name != "norm1"}
    others = {"stem": stem, "stage1": tree["stage1"] | {"block1": first | norms}}
    return _without_streams(tree | others)


def _without_streams(tree):
    return {k: _without_streams(v) if isinstance(v, dict) else v for k, v in tree.items() if k != "streams"}


def mixture_of(config, carried, index=1, params=None):
    """(what a block does with its streams, the parameters of that) at the start, or with `params`."""
    spec = dataclasses.replace(SPEC, index=index)
    module, number = StreamReader(config, spec), block_arrays(config, spec, None).number
    own = module.init(jax.random.key(0), carried, False, number).get("params", {})
    given = {"params": own | (params or {})}
    return module.apply(given, carried, False, number)[1], own


def test_every_entry_of_the_table_is_tested_here():
    assert set(STREAMS) == {*HYPER, "laurel_previous", "depth_attention", "reversible"}


# Hyper-connections (2409.19606).


@pytest.mark.thorough
@pytest.mark.parametrize("shortcut", ("hyper_static", "hyper_dynamic", "laurel_previous"))
def test_streams_start_as_the_residual_net(shortcut):
    """The streams of hyper-connections, and the first of LAuReL's; through a change of shape too."""
    config = net(shortcut=shortcut, streams=3, activation_order="preactivation")
    variables = start(config)[1]
    found = features(config, variables)
    same = {name: with_identity(tree) for name, tree in variables.items()}
    expected = features(dataclasses.replace(config, shortcut="identity"), same)
    for name in ("stage1/block1", "stage2/block1"):
        for i in range(3 if shortcut in HYPER else 1):
            np.testing.assert_allclose(apart(found[name], 3)[..., i, :], expected[name], rtol=1e-5, atol=1e-5)


def test_a_single_stream_is_the_identity_bit_for_bit():
    config = net(shortcut="hyper_static", streams=1, activation_order="preactivation")
    variables = start(config)[1]
    same = {name: with_identity(tree) for name, tree in variables.items()}
    expected = features(dataclasses.replace(config, shortcut="identity"), same)
    found = features(config, variables)
    np.testing.assert_array_equal(found["stage2/block1"], expected["stage2/block1"])
    np.testing.assert_array_equal(found["pooled"], expected["pooled"])


@pytest.mark.thorough
@pytest.mark.parametrize("shortcut", HYPER)
@pytest.mark.parametrize("n", (1, 4))
def test_parameters_of_a_block(shortcut, n):
    """n^2 + 2n; C (n + 2), a norm of C and two numbers more; n C (n^2 + 2n) + n^2 + 2n + 3."""
    params = mixture_of(net(shortcut=shortcut, streams=n), images(2, 3, 3, 4 * n))[1]
    numbers = n**2 + 2 * n
    expected = {
        "hyper_static": numbers,
        "hyper_dynamic": numbers + 4 * (n + 2) + 4 + 2,
        "hyper_stochastic": n * 4 * numbers + numbers + 3,
    }
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected[shortcut]


def test_block_k_reads_stream_k_at_the_start():
    config, carried = net(shortcut="hyper_static", streams=3), images(2, 3, 3, 12)
    for index in range(4):
        given = weighted(carried, mixture_of(config, carried, index)[0].read)
        np.testing.assert_array_equal(given, apart(carried, 3)[..., index % 3, :])


def test_the_formula_of_a_mixture():
    """H_j = sum_i R_ij H_i + w_j F, in NumPy."""
    carried, branch = images(2, 3, 3, 12), images(2, 3, 3, 4, seed=1)
    mixture = Mixture(images(2, 3, 3, 3, seed=2), images(2, 3, 3, 3, 3, seed=3), images(2, 3, 3, 3, seed=4))
    given = (apart(carried, 3), mixture.read, mixture.mix, mixture.write)
    h, m, r, w = (np.asarray(values, np.float64) for values in given)
    np.testing.assert_allclose(
        weighted(carried, mixture.read), np.einsum("bhwic,bhwi->bhwc", h, m), rtol=1e-4, atol=1e-5
    )
    at = Junction(LAYERS, SPEC, carried, None, mixture=mixture)
    expected = np.einsum("bhwic,bhwij->bhwjc", h, r) + w[..., None] * np.asarray(branch)[..., None, :]
    np.testing.assert_allclose(apart(mix_streams(at, carried, branch), 3), expected, rtol=1e-4, atol=1e-5)


def test_a_dynamic_mixture_follows_its_pixel():
    """The static one plus s tanh(H' W), by parts of W: read, write, mix."""
    config, carried = net(shortcut="hyper_dynamic", streams=2), images(2, 3, 3, 8)
    own = {"kernel": images(4, 4, seed=3), "norm": images(4, seed=4)}
    own |= {"alpha": jnp.float32(0.3), "beta": jnp.float32(0.7)}
    mixture, static = mixture_of(config, carried, params=own)
    streams = np.asarray(apart(carried, 2), np.float64)
    normed = streams / np.sqrt((streams**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(own["norm"])
    moved = np.tanh(normed @ np.asarray(own["kernel"], np.float64))
    for found, start_, scale, part in (
        (mixture.read, static["read"], 0.3, moved[..., 0]),
        (mixture.write, static["write"], 0.7, moved[..., 1]),
        (mixture.mix, static["mix"], 0.3, moved[..., 2:]),
    ):
        np.testing.assert_allclose(found, np.asarray(start_) + scale * part, rtol=1e-4, atol=1e-5)


# Doubly stochastic (2512.24880).


def test_doubly_stochastic_matrices():
    """Rows exact, columns nearly; spectral norm at most 1; products are doubly stochastic too."""
    matrices = np.asarray(sinkhorn(images(50, 4, 4)), np.float64)
    np.testing.assert_allclose(matrices.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(matrices.sum(-2), 1, atol=1e-3)
    assert np.linalg.svd(matrices, compute_uv=False).max() < 1 + 1e-3
    product = np.linalg.multi_dot([*matrices[:8]])
    np.testing.assert_allclose([product.sum(0), product.sum(1)], 1, atol=2e-3)
    steep = np.asarray(sinkhorn(3 * images(50, 4, 4)))
    np.testing.assert_allclose(steep.sum(-2), 1, atol=0.1)
    np.testing.assert_array_equal(sinkhorn(images(5, 1, 1)), np.ones((5, 1, 1)))


def test_the_doubly_stochastic_mixture_without_its_pixel():
    """With alpha = 0 and b = 0: 1/2 of every stream is read, F is written whole, and R is 1/n."""
    carried = images(2, 3, 3, 16)
    off = {f"alpha_{name}": jnp.float32(0) for name in ("read", "write", "mix")}
    mixture = mixture_of(net(shortcut="hyper_stochastic", streams=4), carried, params=off)[0]
    np.testing.assert_allclose(mixture.read, 0.5)
    np.testing.assert_allclose(mixture.write, 1.0)
    np.testing.assert_allclose(mixture.mix, 0.25)


def test_the_doubly_stochastic_mixture_follows_its_pixel():
    carried, n = images(2, 3, 3, 8), 2
    own = {"kernel": images(8, 8, seed=3), "bias": images(8, seed=4)}
    own |= {f"alpha_{name}": jnp.float32(0.5) for name in ("read", "write", "mix")}
    mixture = mixture_of(net(shortcut="hyper_stochastic", streams=n), carried, params=own)[0]
    v = np.asarray(carried, np.float64)
    v = v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-6)
    a, b, c = np.split(0.5 * v @ np.asarray(own["kernel"]) + np.asarray(own["bias"]), (n, 2 * n), axis=-1)
    np.testing.assert_allclose(mixture.read, 1 / (1 + np.exp(-a)), rtol=1e-4)
    np.testing.assert_allclose(mixture.write, 2 / (1 + np.exp(-b)), rtol=1e-4)
    written = sinkhorn(jnp.float32(c.reshape(2, 3, 3, n, n)))
    np.testing.assert_allclose(mixture.mix, jnp.swapaxes(written, -2, -1), rtol=1e-4)


def test_what_leaves_a_stream_is_a_mean_of_what_enters():
    """The streams that are mixed: written streams have weights that add up to 1, exactly."""
    mixture = mixture_of(net(shortcut="hyper_stochastic", streams=4), 5 * images(2, 3, 3, 16))[0]
    np.testing.assert_allclose(mixture.mix.sum(-2), 1, atol=1e-6)
    np.testing.assert_allclose(mixture.mix.sum(-1), 1, atol=1e-3)


# LAuReL's previous activations (2411.07501) and attention over depth (2603.15031).


def test_a_block_adds_the_input_of_the_one_before():
    """x2 = x1 + F(x1) + gamma x0, and x1 comes next."""
    carried, branch = images(2, 3, 3, 8), images(2, 3, 3, 4, seed=1)
    config = net(shortcut="laurel_previous", streams=2)
    mixture, params = mixture_of(config, carried, params={"gamma": jnp.array([0.5])})
    assert params["gamma"].shape == (1,) and not params["gamma"].any()
    newest, before = jnp.split(carried, 2, axis=-1)
    np.testing.assert_array_equal(weighted(carried, mixture.read), newest)
    y = mix_streams(Junction(LAYERS, SPEC, carried, None, mixture=mixture), carried, branch)
    np.testing.assert_allclose(y, jnp.concatenate([newest + branch + 0.5 * before, newest], -1), atol=1e-6)


@pytest.mark.parametrize("index", (0, 2))
def test_attention_starts_as_the_mean_of_what_is_known(index):
    """The stem's output and those of the branches before; F is written behind them."""
    config = net(shortcut="depth_attention", activation_order="preactivation", blocks=(2, 2))
    mixture, params = mixture_of(config, images(2, 3, 3, 20), index)
    known = np.arange(5) <= index
    np.testing.assert_allclose(mixture.read, np.broadcast_to(known / known.sum(), (2, 3, 3, 5)), rtol=1e-6)
    np.testing.assert_array_equal(mixture.write.reshape(5), np.eye(5)[index + 1])
    assert params["query"].shape == (4,)


def test_attention_follows_the_query():
    """Weights are the softmax of w . v / rms(v)."""
    config, carried = (
        net(shortcut="depth_attention", activation_order="preactivation", blocks=(1, 1)),
        images(2, 3, 3, 12),
    )
    w = images(4, seed=3)
    mixture = mixture_of(config, carried, params={"query": w})[0]
    v = np.asarray(apart(carried, 3), np.float64)[..., :2, :]
    logits = v @ np.asarray(w) / np.sqrt((v**2).mean(-1))
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(mixture.read[..., :2], expected, rtol=1e-4)
    assert not mixture.read[..., 2].any()


# All.


def test_a_transition_is_applied_to_every_stream():
    carried = images(2, 4, 4, 6)
    y = each_stream(lambda x: jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (0, 1))), carried, 3)
    streams = apart(y, 3)
    np.testing.assert_array_equal(streams[..., :2], apart(carried, 3)[:, ::2, ::2])
    np.testing.assert_array_equal(streams[..., 2], 0)
    np.testing.assert_array_equal(side_by_side(apart(carried, 3)), carried)


@pytest.mark.thorough
@pytest.mark.parametrize("shortcut", [name for name in STREAMS if name != "reversible"])
def test_streams_get_gradients(shortcut):
    """Every parameter of the mixture, once the streams differ."""
    config = net(shortcut=shortcut, streams=2, activation_order="preactivation", blocks=(2, 1))
    n, own = streams_of(config).count(config), block_arrays(config, SPEC, None)
    block, carried = Block(config, SPEC), images(2, 3, 3, 4 * n)
    params, others = split(block.init(jax.random.key(0), carried, own, False))
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * images(*leaf.shape, 1).reshape(leaf.shape), params)

    @functools.partial(jax.jit, compiler_options=FAST_COMPILE)
    @jax.grad
    def gradient(params):
        y = block.apply({"params": params, **others}, carried, own, False)
        return (y * images(*y.shape, seed=1)).sum()

    for path, leaf in jax.tree.leaves_with_path(gradient(moved)["streams"]):
        assert jnp.abs(leaf).max() > 1e-6, jax.tree_util.keystr(path)
