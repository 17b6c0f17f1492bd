"""Joining leaves what is around an operation as it is: calls, contexts, placements, and absent channels."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet.kernels.convolution import convolve
from resnet.kernels.joining import joined
from resnet.models.config import ModelConfig
from resnet.models.resnet import make_model

IMAGES = jax.random.normal(jax.random.key(0), (2, 6, 6, 16))
KERNEL = jax.random.normal(jax.random.key(1), (3, 3, 16, 16)) / 12
SCALE = jnp.linspace(-1.0, 2.0, 16)[None, None, None]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "order", ["postactivation", "preactivation", "activation_only_preactivation", "pyramid"]
)
def test_blocks_that_are_recomputed_predict_as_fast(order):
    """With remat, each block is a call. A convolution that a call reads twice is computed once."""
    images = jnp.zeros((2, 16, 16, 3))
    counts = set()
    for remat in (False, True):
        config = ModelConfig(depth=20, activation_order=order, remat=remat, scan_blocks=False)
        model = make_model(config, num_outputs=10)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        text = str(jax.make_jaxpr(joined(lambda v, x: model.apply(v, x)[0]))(variables, images))  # noqa: B023
        counts.add((len(re.findall(r"= convolution_(?:joined|forward)\b", text)), text.count(" max ")))
    ((convolutions, _),) = counts
    assert convolutions == 19


def test_a_call_reads_a_convolution_twice():
    after = jax.jit(lambda y, scale: y * scale + y)
    text = str(jax.make_jaxpr(joined(lambda x: after(convolve(x, KERNEL, 1, 1, 1), SCALE)))(IMAGES))
    assert len(re.findall(r"= convolution_(?:joined|forward)\b", text)) == 1


def test_operations_keep_their_context():
    def drawn(x):
        with jax.threefry_partitionable(False):
            return x + jax.random.uniform(jax.random.key(1), (2, 3))

    zeros = jnp.zeros((2, 3))
    np.testing.assert_array_equal(jax.jit(joined(drawn))(zeros), jax.jit(drawn)(zeros))
    assert np.any(np.not_equal(jax.jit(drawn)(zeros), jax.random.uniform(jax.random.key(1), (2, 3))))

    def marked(x):
        with set_xla_metadata(mark="here"):
            return jnp.tanh(x * 3.0)

    assert "mark" in jax.jit(joined(marked)).lower(IMAGES).as_text()


def test_a_call_that_places_its_result_places_it():
    mesh = Mesh(jax.devices()[:2], ("data",))
    places = NamedSharding(mesh, PartitionSpec("data"))
    function = jax.jit(lambda x: x * SCALE + SCALE, out_shardings=places)
    assert jax.jit(joined(lambda x: function(x)))(IMAGES).sharding.is_equivalent_to(places, 4)


def test_images_without_channels():
    def function(x):
        nothing = x[..., :0]
        return jax.nn.relu(nothing * SCALE[..., :0] + nothing)

    assert jax.jit(joined(function))(IMAGES).shape == (2, 6, 6, 0)
