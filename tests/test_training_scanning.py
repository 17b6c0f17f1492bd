"""States with the blocks of a stage stacked: paths, rules and numbers are those of blocks apart."""

import jax
import numpy as np
import pytest

from resnet.data.batches import Resident
from resnet.data.datasets import load_dataset
from resnet.models.scanning import STACKED
from resnet.paths import leaf_paths
from resnet.runtime.devices import make_mesh
from resnet.training.trainer import make_trainer
from tests.studies_cases import tiny_config

BLOCKS = 4
FROZEN = "block3/conv"
# What is decided parameter by parameter, by its path, or over all of them.
CASES = {
    "multipliers, frozen ones, kernels' decay": {
        "optimizer.lr_multipliers": (("block[24]/", 0.5), ("stage1/.*norm", 2.0)),
        "optimizer.within": (("block3/.*norm1/scale", 0.5),),
        "optimizer.decay": "kernels",
        "freeze": FROZEN,
    },
    "trust ratios, a clipped norm, gradients watched, averages": {
        "optimizer.name": "lamb",
        "optimizer.clip_norm": 0.5,
        "train.on_divergence": "skip",
        "train.ema": 0.9,
    },
}


def trainer_of(scanned, changes, blocks=BLOCKS, seeds=()):
    config = tiny_config()
    config.model.family = "chain"
    for name, value in {**changes, "model.scan_blocks": scanned, "model.blocks": (blocks,)}.items():
        *owner, field = name.split(".")
        setattr(getattr(config, owner[0]) if owner else config, field, value)
    return make_trainer(config, load_dataset(config.data), make_mesh(1), seeds)


def stepped(trainer):
    """(the state before, after two steps, metrics of the second) of seed 0."""
    state = trainer.start()
    for first in (0, 16):
        places = np.arange(first, first + 16, dtype=np.int32)
        state, metrics = trainer.train()(state, Resident(trainer.resident, places))
    return trainer.step.init(0), trainer.to_host(state)[0], trainer.to_host(metrics)[0]


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES)
def test_rules_and_numbers_are_those_of_blocks_apart(case):
    """Two steps within 1e-5, to the same paths; metrics of each parameter in the same order."""
    (_, apart, known), (before, scanned, metrics) = (
        stepped(trainer_of(scanned, CASES[case])) for scanned in (False, True)
    )
    for found, expected in ((scanned, apart), (metrics, known)):
        assert leaf_paths(found) == leaf_paths(expected)
        for path, a, b in zip(leaf_paths(found), *map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=path)
    if "freeze" in CASES[case]:
        same = jax.tree.map(lambda a, b: bool((a == b).all()), before.params, scanned.params)["stage1"]
        assert same["block3"]["conv1"]["kernel"] and same["block3"]["conv2"]["kernel"]
        assert not same["block3"]["norm1"]["scale"] and not same["block2"]["conv1"]["kernel"]


@pytest.mark.parametrize("scanned", [False, True])
def test_what_is_stacked_comes_apart_to_the_bit(scanned):
    trainer = trainer_of(scanned, {"train.ema": 0.9, "optimizer.name": "adamw"}, seeds=(0, 1))
    states = [trainer.step.init(seed) for seed in (0, 1)]
    together = trainer.to_devices(states)
    names = [path.split("/")[-3] for path in leaf_paths(together) if "stage1" in path and "conv1" in path]
    assert set(names) == ({"block1", STACKED} if scanned else {f"block{i + 1}" for i in range(BLOCKS)})
    for state, again in zip(states, trainer.to_host(together), strict=True):
        assert leaf_paths(again) == leaf_paths(state)
        jax.tree.map(np.testing.assert_array_equal, again, jax.device_get(state))


@pytest.mark.thorough
def test_a_scanned_step_is_no_longer_for_more_blocks():
    """Of the whole step: forward, backward, optimiser, moving average."""

    def operations(blocks):
        trainer = trainer_of(True, {"train.ema": 0.9}, blocks)
        text = trainer.train().lower(trainer.start(), trainer.batch(range(1))).as_text()
        return text.count(" = ")

    # Outputs of blocks are named one by one, until XLA leaves them out.
    unused = 2 * 2
    assert operations(4) <= operations(6) <= operations(4) + unused


def test_evaluation_takes_stacked_variables():
    trainer = trainer_of(True, {})
    apart = trainer.step.init(3)
    variables = trainer.to_devices([apart.variables])
    images, labels = trainer.dataset.train.images[:16], trainer.dataset.train.labels[:16]
    batch = {"image": images, "label": labels, "mask": np.ones(16, np.float32)}
    found = trainer.eval_program(variables, batch)
    expected = trainer.eval_program(apart.variables, batch)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
