"""A state divided over devices: the numbers of a whole one, in a part of the memory."""

import collections
import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from resnet.config import Config, replaced
from resnet.data.batches import Resident
from resnet.data.datasets import load_dataset
from resnet.errors import InputError
from resnet.runtime.devices import ParallelConfig, make_mesh
from resnet.runtime.sharding import spec_of_shape
from resnet.training.trainer import make_trainer

LEAST = 64


def tiny(**fields):
    config = Config()
    config.data.name, config.data.train_limit, config.data.shift = "digits", 64, 1
    config.model.family, config.model.blocks, config.model.width = "chain", (4,), 1.0
    config.train.batch_size, config.train.ema = 8, 0.9
    config.schedule.name, config.schedule.learning_rate = "constant", 0.01
    return replaced(config, fields)


def after_steps(config, devices, seeds=(0,), steps=3):
    """(trainer, state on the devices, each seed's state and metrics on the host)."""
    trainer = make_trainer(config, load_dataset(config.data), make_mesh(devices, len(seeds)), seeds)
    state = trainer.start()
    for step in range(steps):
        state, metrics = trainer.train()(state, trainer.batch(range(step, step + 1)))
    return trainer, state, trainer.to_host(state), trainer.to_host(metrics)


def assert_equal_but_for_rounding(found, expected):
    """1e-5 of the largest value of an array; differently ordered sums of float32."""

    def close(x, y):
        scale = max(np.abs(np.asarray(y, np.float64)).max(), 1e-3)
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * scale)

    jax.tree.map(close, found, expected)


@pytest.mark.parametrize(
    "shape, spec",
    (
        ((3, 3, 16, 64), (None, None, None, "data")),
        ((3, 3, 64, 16), (None, None, "data")),
        ((128, 10), ("data",)),
        ((127, 101), ()),
        ((62,), ()),
        ((), ()),
    ),
)
def test_the_largest_dimension_that_divides_is_divided(shape, spec):
    assert spec_of_shape(shape, 4, LEAST) == PartitionSpec(*spec)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "fields",
    (
        {"optimizer.clip_norm": 0.5},
        {"optimizer.name": "lamb"},
        {"model.scan_blocks": True, "model.ghost_batch": 4},
    ),
    ids=str,
)
def test_steps_equal_those_of_a_whole_state(fields):
    """Gradients, the norms of all of them, moments and averages; of the device's bytes, what was computed."""
    whole = tiny(**fields)
    divided = tiny(**fields, **{"parallel.shard_parameters": LEAST})
    expected = after_steps(whole, 1)
    trainer, state, states, metrics = after_steps(divided, 2)
    assert_equal_but_for_rounding((states, metrics), expected[2:])
    leaves = jax.tree.leaves(state)
    parts = [leaf.addressable_shards[0].data.size for leaf in leaves]
    sizes = [leaf.size // 2 if spec_of_shape(leaf.shape, 2, LEAST) else leaf.size for leaf in leaves]
    assert parts == sizes and sum(sizes) < 0.6 * sum(leaf.size for leaf in leaves)
    found = trainer.evaluate(state.variables, trainer.dataset.test, lambda: False)
    known = expected[0].evaluate(expected[1].variables, trainer.dataset.test, lambda: False)
    assert_equal_but_for_rounding(found, known)


@pytest.mark.thorough
def test_several_seeds_are_divided_alike():
    seeds = (0, 1, 2)
    config = tiny(**{"parallel.shard_parameters": LEAST, "train.seeds": 3})
    _, state, states, metrics = after_steps(config, 2, seeds, steps=2)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)} == {2}
    for seed in seeds:
        alone = after_steps(tiny(), 1, (seed,), steps=2)
        assert_equal_but_for_rounding((states[seed], metrics[seed]), (alone[2][0], alone[3][0]))


def test_parameters_are_gathered_and_gradients_divided():
    """What the program exchanges; on the CPU, XLA adds up whole gradients and keeps a part of each."""
    config = tiny(**{"parallel.shard_parameters": LEAST})
    trainer = make_trainer(config, load_dataset(config.data), make_mesh(2))
    arguments = trainer.start(), trainer.batch(range(1))
    assert isinstance(arguments[1], Resident)
    text = trainer.train().lower(*arguments).compile().as_text()
    gathered = re.findall(r" = f32\[([\d,]*)\]\S* all-gather\(", text)
    shapes = [leaf.shape for leaf in jax.tree.leaves(trainer.shapes.params)]
    divided = [",".join(map(str, shape)) for shape in shapes if spec_of_shape(shape, 2, LEAST)]
    assert not collections.Counter(divided) - collections.Counter(gathered)
    assert len(gathered) <= len(divided) + 1  # and what the scores need of the logits
    assert " all-reduce(" in text


def test_a_negative_size_is_refused():
    with pytest.raises(InputError, match="`parallel.shard_parameters` must be at least 0; got -1"):
        ParallelConfig(shard_parameters=-1).check()
