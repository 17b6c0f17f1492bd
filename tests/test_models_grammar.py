"""What holds for every net of the grammar: shapes, counts, gradients, jit and vmap.

The mixed cases have every choice of every field, the plain ones every shortcut in every order by itself.
"""

import math
from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.models.counts import count_parts, totals
from resnet.models.geometry import block_specs
from resnet.models.grammar import CHOICES
from resnet.models.resnet import make_model
from tests.models_cases import (
    FAST_COMPILE,
    FIRST,
    MIXED,
    NUM_OUTPUTS,
    PLAIN,
    VARIED,
    images,
    loss,
    net,
    split,
    start,
)  # fmt: skip


def cases(few: int, thorough: Collection[str]) -> list:
    """Makes each net a parameter of a test. The first `few` have no mark, those in `thorough` have that, the
    others are slow."""
    marks = [pytest.mark.thorough if name in thorough else pytest.mark.slow for name in MIXED | PLAIN]
    return [
        pytest.param(config, id=name, marks=[] if index < few else marks[index])
        for index, (name, config) in enumerate((MIXED | PLAIN).items())
    ]


def count(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_the_cases_hold_every_choice():
    for field in (*VARIED, "shortcut", "activation_order"):
        choices = VARIED.get(field, CHOICES.get(field))
        assert {getattr(config, field) for config in MIXED.values()} == set(choices), field
    orders = CHOICES["activation_order"]
    refused = {f"{s}-{o}" for s in CHOICES["shortcut"] for o in orders} - set(PLAIN)
    assert refused == {
        *(f"fixup-{order}" for order in orders if order != "postactivation"),
        *(f"normalizer_free-{order}" for order in orders if order != "preactivation"),
        "laurel_previous-norm_after_sum",
        *(f"reversible-{order}" for order in ("postactivation", "norm_after_sum")),
        *(f"depth_attention-{order}" for order in ("postactivation", "norm_after_sum")),
    }


@pytest.mark.thorough
@pytest.mark.parametrize("config", cases(4, thorough=[*MIXED, *FIRST.values()]))
def test_shapes_and_counts_of_the_parts_are_those_of_the_net(config):
    image = (9, 11, 3)
    model = make_model(config, NUM_OUTPUTS)
    variables = jax.eval_shape(model.init, jax.random.key(0), images(1, *image))
    logits, features = jax.eval_shape(model.apply, variables, images(2, *image))
    parts = count_parts(config, NUM_OUTPUTS, image)
    assert logits.shape == (2, NUM_OUTPUTS) and logits.dtype == jnp.float32
    assert {name: leaf.shape[1:] for name, leaf in features.items()} == {
        **{part.name: part.shape for part in parts[:-1]},
        "pooled": (block_specs(config)[-1].outputs,),
    }
    for part in parts:
        tree = variables["params"]
        for name in part.name.split("/"):
            tree = tree[name]
        assert part.parameters == count(tree), part.name
    assert totals(parts)[0] == count(variables["params"])


@pytest.mark.thorough
@pytest.mark.parametrize("config", cases(1, thorough=[*MIXED][::2]))
def test_gradients_are_finite(config):
    """Of the parameters and of the images; the state keeps its structure."""
    model, variables = start(config)
    params, state = split(variables)

    @jax.jit(compiler_options=FAST_COMPILE)
    def computed(params, x):
        key = jax.random.key(1)
        return jax.grad(loss, argnums=(0, 2), has_aux=True)(params, state, x, key, model)

    gradients, outputs = computed(params, images())
    for path, leaf in jax.tree.leaves_with_path((gradients, outputs)):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
    assert jax.tree.structure(outputs[2]) == jax.tree.structure(state)


# Of a net's operations, vmap changes the convolutions', which every net has: a few nets stand for all.
@pytest.mark.thorough
@pytest.mark.parametrize("config", [*MIXED.values()][::3], ids=[*MIXED][::3])
def test_seeds_under_vmap_equal_each_alone(config):
    (model, variables), other = start(config), start(config, 1)[1]
    seeds = jax.tree.map(lambda *leaves: jnp.stack(leaves), variables, other)
    together = jax.jit(jax.vmap(model.apply, (0, None)), compiler_options=FAST_COMPILE)(seeds, images())
    one = jax.jit(model.apply, compiler_options=FAST_COMPILE)
    for i, alone in enumerate((variables, other)):
        assert_near([leaf[i] for leaf in jax.tree.leaves(together)], one(alone, images()))


# One by one, the operations of a net are a hundred programs to compile.
@pytest.mark.thorough
@pytest.mark.parametrize("config", [*MIXED.values()][::12], ids=[*MIXED][::12])
def test_jit_equals_eager(config):
    (model, variables), x = start(config), images()
    assert_near(jax.jit(model.apply, compiler_options=FAST_COMPILE)(variables, x), model.apply(variables, x))


def assert_near(found, expected):
    """Leaf by leaf within 1e-5 of the largest value."""
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(np.abs(b).max() + 1))


@pytest.mark.thorough
def test_training_under_vmap_equals_one_by_one():
    """Two seeds with images, dropped branches and statistics of their own: gradients within 1e-5."""
    config = net(shortcut="shortcut_only_gating", stochastic_depth=0.5, branch_dropout=0.25)
    model, x, keys = start(config)[0], images(2, 4, 8, 8, 3), jax.random.split(jax.random.key(1))
    each = [split(start(config, seed)[1]) for seed in range(2)]

    def step(params, state, x, key):
        gradients, (logits, _, state) = jax.grad(loss, has_aux=True)(params, state, x, key, model)
        return gradients, logits, state

    params, state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    together = jax.jit(jax.vmap(step), compiler_options=FAST_COMPILE)(params, state, x, keys)
    alone = jax.jit(step, compiler_options=FAST_COMPILE)
    for i, (params, state) in enumerate(each):
        pairs = zip(*map(jax.tree.leaves, (together, alone(params, state, x[i], keys[i]))), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("order", ("postactivation", "preactivation"))
def test_bfloat16_stays_near_float32(order):
    """Activations in bfloat16, parameters, statistics and logits in float32."""
    narrow, wide = (
        net(activation_order=order, se_ratio=0.25, dtype=dtype) for dtype in ("bfloat16", "float32")
    )
    (model, variables), x = start(wide), images()
    (logits, features), state = start(narrow)[0].apply(variables, x, train=True, mutable=["batch_stats"])
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, state, start(narrow)[1]))} == {
        jnp.dtype("float32")
    }
    assert {leaf.dtype for name, leaf in features.items() if name != "pooled"} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(logits, model.apply(variables, x, train=True, mutable=["batch_stats"])[0][0],
                               rtol=0.1, atol=0.1)  # fmt: skip
