"""Telemetry: rows that are right, training that is the same without them, runs that resume and fail."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from resnet.config import Config
from resnet.data.datasets import load_dataset
from resnet.data.order import batch_indices
from resnet.errors import InputError
from resnet.models.chain import Flow
from resnet.runs.checkpoints.restore import load_variables
from resnet.runs.metrics import telemetry
from resnet.runtime.devices import make_mesh
from resnet.runtime.signals import RunStopped
from resnet.training import seeds
from resnet.training.evaluation import observe
from resnet.training.loop import train
from resnet.training.trainer import make_trainer


def tiny(**changes):
    config = Config()
    config.data.train_limit = 64
    config.model.family, config.model.blocks, config.model.width = "chain", (2,), 0.25
    config.train.batch_size, config.train.duration, config.train.telemetry_every = 16, "4 steps", "2 steps"
    config.model.ghost_batch = 8
    config.schedule.learning_rate, config.checkpoint.every = 0.05, "3 steps"
    for name, value in changes.items():
        setattr(config.train, name, value)
    return config


@pytest.fixture(scope="module")
def with_and_without(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, every in (("with", "2 steps"), ("without", "0 steps")):
        train(tiny(telemetry_every=every), folder / name)
    return folder


@pytest.mark.thorough
def test_training_is_the_same_to_the_last_bit(with_and_without):
    a, b = (load_variables(with_and_without / name)[2] for name in ("with", "without"))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert not (with_and_without / "without" / telemetry.FILE).exists()


@pytest.mark.thorough
def test_rows_of_every_block_at_every_interval(with_and_without):
    rows = telemetry.read(with_and_without / "with")
    assert [(row["step"], row["block"]) for row in rows] == [
        (step, f"stage1/block{block}") for step in (2, 4) for block in (1, 2)
    ]
    assert all(np.isfinite(row[name]) for row in rows for name in telemetry.COLUMNS[2:])
    assert rows[0]["gradient"] == rows[1]["passed_on"]
    assert (with_and_without / "with" / telemetry.PICTURE).stat().st_size > 10_000


def test_rows_are_logarithms_to_the_base_of_ten(tmp_path):
    logs = {"x": [10.0, 1.0], "branch": [100.0], "gradient": [1e3, 1e4]}
    found = {name: np.log(values) for name, values in logs.items()}
    telemetry.append(tmp_path, 1, Flow(("a",), cosine=np.array([0.5]), **found))
    (row,) = telemetry.read(tmp_path)
    assert row == pytest.approx({"step": 1, "block": "a", "x": 1, "branch": 2, "gradient": 4, "passed_on": 3})


@pytest.mark.thorough
def test_telemetry_is_of_images_on_the_side_of_their_step(tmp_path, monkeypatch):
    seen = []

    def noted(step, state, batch):
        seen.append((step.side, batch["place"].tolist()))
        return observe(step, state, batch)

    monkeypatch.setattr(seeds, "observe", noted)
    train(tiny(smaller_until=(("3 steps", 6),)), tmp_path)
    # Of the batches that come after 2 and 4 steps.
    assert seen == [(side, batch_indices(0, step, 64, 16).tolist()) for step, side in ((2, 6), (4, 0))]


@pytest.mark.thorough
def test_an_interval_that_ends_within_a_call_is_told_after_it(tmp_path):
    config = tiny(telemetry_every="3 steps", steps_per_call=2)
    config.checkpoint.every = "9 steps"  # no call ends for a checkpoint
    train(config, tmp_path)
    assert {row["step"] for row in telemetry.read(tmp_path)} == {4}


@pytest.mark.thorough
def test_the_signal_is_that_of_training():
    """Batch statistics decide the signal, running ones do not; label smoothing changes the gradient."""
    trainer = make_trainer(tiny(), load_dataset(tiny().data), make_mesh(1))
    (state,) = trainer.first_states()
    batch = trainer.first_images(0, 0, 16)
    plain = observe(trainer.step, state, batch)
    moved = dataclasses.replace(state, batch_stats=jax.tree.map(lambda s: 4 * s + 1, state.batch_stats))
    np.testing.assert_array_equal(observe(trainer.step, moved, batch).x, plain.x)
    settings = dataclasses.replace(trainer.step.settings, label_smoothing=0.5)
    smooth = observe(dataclasses.replace(trainer.step, settings=settings), state, batch)
    assert (smooth.gradient != plain.gradient).all()


@pytest.mark.thorough
def test_several_seeds_have_the_rows_they_would_have_alone(with_and_without, tmp_path):
    train(tiny(seeds=2, duration="2 steps"), tmp_path)
    alone, together = (telemetry.read(path) for path in (with_and_without / "with", tmp_path / "seed0"))
    for a, b in zip(alone[:2], together, strict=True):
        np.testing.assert_allclose([*a.values()][2:], [*b.values()][2:], atol=0.02)
    assert telemetry.read(tmp_path / "seed1") != together


def test_a_resumed_run_has_each_row_once(tmp_path):
    path = tmp_path / telemetry.FILE
    path.write_text(",".join(telemetry.COLUMNS) + "\n2,a,0,0,0,0\n4,a,0,0,0,0\n6,a,0,0\n")
    telemetry.forget_rows_after(tmp_path, 2)
    assert [row["step"] for row in telemetry.read(tmp_path)] == [2]
    telemetry.forget_rows_after(tmp_path / "none", 2)


@pytest.mark.thorough
def test_a_run_that_fails_says_where_the_signal_was_largest(tmp_path):
    config = tiny(telemetry_every="1 steps", duration="60 steps")
    config.model.norm, config.model.ghost_batch, config.schedule.learning_rate = "none", 0, 1e4
    with pytest.raises(RunStopped, match=r"the signal was largest at stage1/block\d"):
        train(config, tmp_path)
    assert "the signal was largest" in json.loads((tmp_path / "failed.json").read_text())["failed"]


ROWS = ",".join(telemetry.COLUMNS) + "\n1,a,9,0,9,0\n1,b,1,0,1,0\n2,a,1,0,5,0\n2,b,7,0,2,0\n"


def test_the_last_words_are_of_the_last_step_and_the_largest_values(tmp_path):
    (tmp_path / telemetry.FILE).write_text(ROWS)
    assert telemetry.last_words(tmp_path) == (
        "; at step 2 the signal was largest at b (10^7.0) and the gradient was largest at a (10^5.0)"
    )


def test_the_picture_has_steps_to_the_right_and_blocks_upwards(tmp_path):
    (tmp_path / telemetry.FILE).write_text(ROWS)
    drawn = telemetry.figure(telemetry.read(tmp_path))
    maps = [axes.collections[0].get_array() for axes in drawn.axes if axes.get_xlabel() == "step"]
    np.testing.assert_array_equal(maps, [[[9, 1], [1, 7]], [[-9, -1], [-1, -7]], [[9, 5], [1, 2]]])


def test_an_interval_is_a_duration():
    config = dataclasses.replace(tiny().train, telemetry_every="often")
    with pytest.raises(InputError, match="`train.telemetry_every` must be an amount and a unit"):
        config.check()
