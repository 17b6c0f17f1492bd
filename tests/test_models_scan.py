"""Scanned stages and recomputed blocks give what the plain form gives."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests.models_cases import FAST_COMPILE, images, loss, net, split, start

DEEP = {"family": "chain", "blocks": (3,), "width": 0.25}
CASES = {
    "ghost batches, two stages": net(family="tiny", blocks=(1, 3), ghost_batch=2),
    "stochastic depth and dropout": net(**DEEP, stochastic_depth=0.5, branch_dropout=0.25, head_dropout=0.5),
    "dropped shortcuts": net(**DEEP, shortcut="dropout", activation_order="norm_after_sum", norm="group"),
    "gates": net(**DEEP, shortcut="highway", activation_order="preactivation"),
    "decayed": net(**DEEP, shortcut="decayed_identity"),
    "streams": net(**DEEP, shortcut="hyper_dynamic", activation_order="preactivation"),
    "reversible": net(**DEEP, shortcut="reversible", activation_order="preactivation", branch_dropout=0.25),
    "attention over depth": net(**DEEP, shortcut="depth_attention", activation_order="preactivation"),
    "scaled input": net(**DEEP, shortcut="normalizer_free", activation_order="preactivation"),
}
FORMS = {
    "scanned": {"scan_blocks": True},
    "recomputed": {"remat": True},
    "scanned, recomputed": {"scan_blocks": True, "remat": True},
}
PAIRS = [("ghost batches, two stages", "scanned")] + [
    pytest.param(case, form, marks=pytest.mark.thorough)
    for case in CASES
    for form in FORMS
    if case == "stochastic depth and dropout"
    or (form == "scanned" and case != "ghost batches, two stages")
    or (form == "scanned, recomputed" and case == "reversible")  # inverted, where others are recomputed
]


def trained(config):
    """(gradients, (logits, features, statistics)) of a step, and the outputs of evaluation."""
    model, variables = start(config)
    params, state = split(variables)
    key = jax.random.key(1)

    @jax.jit(compiler_options=FAST_COMPILE)
    def run(params, state, x):
        step = jax.grad(loss, has_aux=True)(params, state, x, key, model)
        return step, model.apply({"params": params, **state}, x)

    return run(params, state, images())


plain = {}


@pytest.mark.thorough
@pytest.mark.parametrize("case, form", PAIRS)
def test_every_form_gives_the_same(case, form):
    """Logits, features, gradients and statistics within 1e-5; the same keys of the same random draws."""
    if case not in plain:
        plain[case] = trained(CASES[case])
    results = trained(dataclasses.replace(CASES[case], **FORMS[form]))
    assert jax.tree.structure(results) == jax.tree.structure(plain[case])
    for (path, a), b in zip(jax.tree.leaves_with_path(results), jax.tree.leaves(plain[case]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=jax.tree_util.keystr(path))


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_of_one_form_fits_the_other(case):
    scanned = dataclasses.replace(CASES[case], scan_blocks=True)
    jax.tree.map(np.testing.assert_array_equal, start(CASES[case])[1], start(scanned)[1])


def convolutions(config):
    model, variables = start(config)
    train = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    return str(jax.make_jaxpr(train)(variables, images())).count("convolution_forward[")


@pytest.mark.thorough
def test_a_scanned_program_is_no_longer_for_more_blocks():
    """Stem, one block, then the first of four and one for the rest: two convolutions each."""
    for blocks in (4, 6):
        config = net(family="tiny", blocks=(1, blocks))
        assert convolutions(config) == 1 + 2 + 2 * blocks
        assert convolutions(dataclasses.replace(config, scan_blocks=True)) == 1 + 2 + 2 + 2


@pytest.mark.thorough
@pytest.mark.parametrize(
    "fields, blocks, programs",
    [
        ({}, 19, 2), ({}, 18, 18), ({"scan_blocks": False}, 19, 19), ({"bn_fixed": "stage1"}, 19, 19),
        ({"remat": True}, 3, 2), ({"remat": True}, 2, 2), ({"remat": True, "scan_blocks": False}, 3, 3),
    ],
)  # fmt: skip
def test_long_stages_are_scanned_unless_the_config_says_otherwise(fields, blocks, programs):
    """A stage has two programs of a block where its blocks are scanned, else one for each block."""
    config = net(family="tiny", blocks=(1, blocks), **fields)
    assert convolutions(config) == 1 + 2 + 2 * programs
