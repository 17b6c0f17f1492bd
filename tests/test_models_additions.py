"""What is added in one place is a net at once: checked, counted, trained, scanned."""

import dataclasses
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.errors import InputError
from resnet.models.branches import BRANCHES, CONV1, Branch, Operation
from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.counts import count_parts, totals
from resnet.models.grammar import check_net
from resnet.models.resnet import Block, make_model
from resnet.models.scanning import BlockArrays
from resnet.models.shortcuts import sums, table
from tests.models_cases import NUM_OUTPUTS, TINY, images

README = Path(__file__).parents[1] / "README.md"
IMAGE = (8, 8, 3)
DEEP = TINY | {"blocks": (1, 3)}


@pytest.fixture
def scaled_identity(monkeypatch):
    """The shortcut of the README, its lines run as at the end of the file that they are meant for."""
    section = README.read_text().split("## Add a shortcut in one place")[1]
    (lines,) = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], re.DOTALL)
    monkeypatch.setitem(table.SHORTCUTS, "scaled_identity", None)
    exec(lines, vars(sums) | {"SHORTCUTS": table.SHORTCUTS})
    return "scaled_identity"


@pytest.fixture
def separable(monkeypatch):
    """A branch of depthwise and pointwise convolutions (Chollet 2017), twice."""

    def depthwise_pointwise(layers, x, place):
        channels = x.shape[-1]
        x = layers.conv(x, f"{place.name}_depthwise", channels, 3, place.stride, groups=channels)
        return CONV1.apply(layers, x, dataclasses.replace(place, stride=1))

    operation = Operation(depthwise_pointwise)
    monkeypatch.setitem(BRANCHES, "separable", Branch((operation, operation)))
    return "separable"


def gradients(config):
    """Parameters and the shapes of their gradients, of images that are not there."""
    model = make_model(config, NUM_OUTPUTS)
    x = jax.ShapeDtypeStruct((2, *IMAGE), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)

    def loss(params, x):
        state = {name: tree for name, tree in variables.items() if name != "params"}
        state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), state)
        (logits, _), _ = model.apply({"params": params} | state, x, train=True, mutable=["batch_stats"])
        return (logits**2).sum()

    return variables["params"], jax.eval_shape(jax.grad(loss), variables["params"], x)


def assert_is_a_net(config):
    """It passes the check, has gradients for all that is counted, and its blocks can be scanned."""
    for scanned in (False, True):
        params, found = gradients(dataclasses.replace(config, scan_blocks=scanned))
        assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, found)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert totals(count_parts(config, NUM_OUTPUTS, IMAGE))[0] == count


def test_the_shortcut_of_the_readme_is_a_net(scaled_identity):
    config = ModelConfig(**DEEP, shortcut=scaled_identity)
    assert_is_a_net(config)
    ours, identity = (
        totals(count_parts(ModelConfig(**DEEP, shortcut=name), NUM_OUTPUTS, IMAGE))
        for name in (scaled_identity, "identity")
    )
    assert ours == (identity[0] + 4, identity[1])  # a scalar in each of the four blocks
    with pytest.raises(InputError, match="scaled_identity"):
        check_net(dataclasses.replace(config, shortcut="odd"))


def test_the_shortcut_of_the_readme_scales_x(scaled_identity):
    config = ModelConfig(**TINY, shortcut=scaled_identity, after_sum="identity", zero_gamma=True)
    block = Block(config, BlockSpec(1, 2, 1, 4, 4, 4, 1))
    x = images(2, 4, 4, 4)
    variables = block.init(jax.random.key(0), x, BlockArrays(), False)
    variables["params"]["shortcut"]["s"] = jnp.float32(3.0)
    np.testing.assert_array_equal(block.apply(variables, x, BlockArrays(), False), 3 * x)


def test_a_branch_of_other_operations_is_a_net(separable):
    config = ModelConfig(**DEEP, branch=separable, transition="projection")
    assert_is_a_net(config)
    _, macs = totals(count_parts(config, NUM_OUTPUTS, IMAGE))
    # The stem; a block of 4 channels; three of 8, the first with stride 2 and a projection; the head.
    first = 16 * (9 * 4 + 4 * 8) + 16 * (9 * 8 + 8 * 8) + 16 * 4 * 8
    others = 2 * 2 * 16 * (9 * 8 + 8 * 8)
    assert macs == 64 * 27 * 4 + 2 * 64 * (9 * 4 + 4 * 4) + first + others + 8 * NUM_OUTPUTS
    with pytest.raises(InputError, match="`model.depth` must be 6n"):
        check_net(dataclasses.replace(config, family="cifar", blocks=(), depth=21))
