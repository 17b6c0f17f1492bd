"""Folded nets: no shortcut, no norm, and the logits of the net that was trained, borders included."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.errors import InputError
from resnet.models.branches import BRANCHES
from resnet.models.config import ModelConfig
from resnet.models.folding import fold
from resnet.models.grammar import check_net
from resnet.models.resnet import make_model
from tests.models_cases import FAST_COMPILE, NUM_OUTPUTS, TINY, images, start

SINGLE = {"branch": "single"}
FEW = {
    "repvgg": {"shortcut": "repvgg"} | SINGLE,
    "the identity alone": {"shortcut": "normed_identity"} | SINGLE,
    "dirac": {"shortcut": "none", "branch": "dirac"},
    "resnet A": {},
    "bottleneck, B": {"branch": "bottleneck", "transition": "projection"},
    "layer scale, stochastic depth": {"shortcut": "layer_scale", "layer_scale": 0.5, "stochastic_depth": 0.5},
}
MORE = {
    "the 1x1 alone": {"shortcut": "projection", "transition": "projection"} | SINGLE,
    "plain": {"shortcut": "none"},
    "plain, standardised": {"shortcut": "none", "weight_standardization": "scaled"},
    "no norm": {"shortcut": "skipinit", "norm": "none", "alpha_init": "inverse_sqrt"},
    "laurel": {"shortcut": "laurel", "low_rank": 2, "pad_side": "both"},
    "decayed, C": {"shortcut": "decayed_identity", "transition": "projection", "branch_width": 2.0},
    "depth, deep stem": {"shortcut": "depth_scaled", "stem": "deep", "padding": "circular"},
    "dropout": {"shortcut": "dropout", "dropout_kind": "plain"},
    "weighted": {"shortcut": "rezero", "alpha_init": "inverse_sqrt"},
}
CASES = [
    *(pytest.param(fields, id=name) for name, fields in FEW.items()),
    *(pytest.param(fields, id=name, marks=pytest.mark.thorough) for name, fields in MORE.items()),
]


def trained(config):
    """Variables off their start: statistics with means and variances of their own, scales and biases too."""
    leaves, structure = jax.tree.flatten_with_path(jax.device_get(start(config)[1]))
    random = np.random.default_rng(1)

    def moved(path, leaf):
        noise = random.normal(size=leaf.shape).astype(np.float32)
        return np.exp(0.5 * noise) * leaf if path[-1].key == "var" else leaf + 0.3 * noise

    return jax.tree.unflatten(structure, [jnp.asarray(moved(*leaf)) for leaf in leaves])


def logits(config, variables, x):
    apply = jax.jit(make_model(config, NUM_OUTPUTS).apply, compiler_options=FAST_COMPILE)
    return apply(variables, x)[0]


@pytest.mark.thorough
@pytest.mark.parametrize("fields", CASES)
def test_a_folded_net_is_the_same_net(fields):
    """On images of odd sides, so that strides and borders meet in every way."""
    config = ModelConfig(**TINY | {"blocks": (2, 2)} | fields)
    variables, x = trained(config), images(2, 9, 7, 3)
    plain, folded = fold(config, variables)
    check_net(plain)
    assert (plain.shortcut, plain.norm) == ("none", "none")
    expected_tree = jax.eval_shape(make_model(plain, NUM_OUTPUTS).init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, folded) == jax.tree.map(jnp.shape, expected_tree)
    expected = logits(config, variables, x)
    assert np.std(expected) > 0.1
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(logits(plain, folded, x), expected, rtol=1e-5, atol=atol)


@pytest.mark.thorough
def test_blocks_of_one_convolution_keep_their_size_and_longer_ones_grow():
    """RMNet: C channels more inside, which doubles the operations of a basic block."""
    for fields, inner in ((SINGLE, 1.0), ({}, 2.0), ({"branch": "bottleneck"}, 5.0)):
        config = ModelConfig(**TINY | fields | {"transition": "projection"})
        assert fold(config, start(config)[1])[0].inner == inner
        unused = dataclasses.replace(config, pad_mode="average")
        assert fold(unused, start(unused)[1])[0].inner == inner


@pytest.mark.thorough
@pytest.mark.parametrize("transition", ["pad", "projection"])
@pytest.mark.parametrize("shortcut", ["identity", "none"])
@pytest.mark.parametrize("branch", BRANCHES)
def test_a_net_is_refused_or_folds_to_the_same(branch, shortcut, transition):
    config = ModelConfig(**TINY | {"blocks": (1, 1), "branch": branch, "shortcut": shortcut} |
                         {"transition": transition})  # fmt: skip
    variables, x = trained(config), images(2, 9, 7, 3)
    try:
        plain, folded = fold(config, variables)
    except InputError as error:
        assert f"model.branch={branch!r} does not fold" in str(error)
        return
    expected = logits(config, variables, x)
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(logits(plain, folded, x), expected, rtol=1e-5, atol=atol)


REFUSED = [
    ({"activation_order": "preactivation"}, "model.activation_order='preactivation' does not fold"),
    ({"norm": "group"}, "model.norm='group' does not fold"),
    ({"shortcut": "exclusive_gating"}, "model.shortcut='exclusive_gating' does not fold"),
    ({"shortcut": "orthogonal"}, "model.shortcut='orthogonal' does not fold"),
    ({"se_ratio": 0.25}, "model.se_ratio=0.25 does not fold"),
    ({"transition": "average_projection"}, "model.transition='average_projection' does not fold"),
    ({"pad_mode": "average"}, "model.pad_mode='average' does not fold: it joins several pixels"),
    ({"activation": "tanh"}, "model.activation='tanh' does not fold"),
    ({"groups": 2}, "model.groups=2 does not fold"),
    ({"gain_corrected": True}, "model.gain_corrected=True does not fold"),
    ({"branch": "pooled"}, "model.branch='pooled' does not fold: it pools pixels that the shortcut does not"),
    ({"branch": "dirac", "transition": "projection"}, "model.branch='dirac' does not fold: it pools pixels"),
    ({"stem_width": 6, "transition": "projection"}, "stage1/block1 has 6 channels to carry, and room for 4"),
]  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_does_not_fold_is_refused(fields, message):
    config = ModelConfig(**TINY | fields)
    with pytest.raises(InputError, match=message):
        fold(config, start(config)[1])


def test_a_norm_before_a_convolution_is_another_function_at_the_border():
    """Why pre-activation does not fold: folded zeros of the border are not the zeros that the norm sees."""
    kernel, x = images(3, 3, 1, 1), jnp.ones((1, 4, 4, 1))
    conv = lambda x: jax.lax.conv_general_dilated(  # noqa: E731
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    first, folded = conv(x + 1), conv(x) + kernel.sum()
    same = np.isclose(first, folded, atol=1e-5)[0, :, :, 0]
    assert same[1:-1, 1:-1].all()
    assert not any(same[i, j] for i, j in itertools.product((0, 3), (0, 3)))


@pytest.mark.thorough
def test_a_folded_net_is_again_folded_without_change():
    config = ModelConfig(**TINY, branch="single", shortcut="repvgg")
    once = fold(config, trained(config))
    again = fold(*once)
    assert dataclasses.asdict(again[0]) == dataclasses.asdict(once[0])
    jax.tree.map(np.testing.assert_array_equal, again[1], once[1])
