"""Whole runs of a few steps: resuming, finishing, diverging, and checkpoints that are damaged."""

import dataclasses
import gc
import json
import signal
import weakref
from pathlib import Path

import jax
import numpy as np
import pytest

import resnet
from resnet.config import Config
from resnet.data.datasets import DATASETS, load_dataset
from resnet.data.embedded import load_digits
from resnet.data.order import batch_indices
from resnet.errors import InputError
from resnet.run import evaluate_run
from resnet.runs.checkpoints import checkpoint
from resnet.runtime.devices import make_mesh
from resnet.runtime.signals import RunStopped
from resnet.training import loop, trainer
from resnet.training.evaluation import as_numbers
from resnet.training.step import TrainState
from resnet.training.trainer import make_trainer


def tiny() -> Config:
    config = Config()
    config.data.name, config.data.train_limit, config.data.random_crop = "digits", 64, 1
    config.model.family, config.model.blocks, config.model.width = "chain", (1,), 0.25
    config.train.batch_size, config.train.duration, config.train.ema = 8, "9 steps", 0.9
    config.train.evaluate_every = config.train.log_every = "4 steps"
    config.checkpoint.every, config.checkpoint.keep = "5 steps", 9
    return config


def train(config: Config, workdir: Path) -> dict:
    return loop.train(config, workdir, mesh=make_mesh(1))


def final_state(config: Config, workdir: Path, step: int) -> TrainState:
    shapes = make_trainer(config, load_dataset(config.data), make_mesh(1)).shapes
    return jax.device_get(checkpoint.restore(workdir, step, shapes)[0])


def numbers(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(config, workdir, result) of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("finished")
    return tiny(), workdir, train(tiny(), workdir)


def test_a_run_leaves_its_records_and_its_result(finished):
    config, workdir, result = finished
    lines = numbers(workdir)
    assert [line["step"] for line in lines if line["split"] == "train"] == [4, 8, 9]
    assert [line["step"] for line in lines if line["split"] == "validation"] == [4, 8, 9]
    last = next(line for line in reversed(lines) if line["split"] == "validation")
    assert result["validation"].items() <= last.items()
    assert [line["step"] for line in lines if line["split"] == "test"] == [9]
    assert result["split"] == "test" and result["n"] == len(load_dataset(config.data).test)
    assert json.loads((workdir / "result.json").read_text()) == result
    assert {5, 9} <= set(checkpoint.steps_on_disk(workdir))


def test_the_average_is_what_counts_and_the_weights_themselves_stand_beside_it(finished):
    config, workdir, result = finished
    trainer = make_trainer(config, load_dataset(config.data), make_mesh(1))
    state = trainer.to_devices([final_state(config, workdir, 9)])
    average, plain = (
        as_numbers(trainer.evaluate(variables, trainer.dataset.test, lambda: False)[0])
        for variables in (state.ema, state.current)
    )
    assert average.items() <= result.items() and plain == result["without_ema"]
    assert plain["loss"] != average["loss"]


@pytest.mark.thorough
@pytest.mark.parametrize(("share", "split"), [(0.1, "validation"), (0.0, "none")])
def test_without_test_images_the_result_says_so(monkeypatch, tmp_path, share, split):
    digits = load_digits()
    untested = dataclasses.replace(digits, test=digits.test[:0])
    monkeypatch.setitem(DATASETS, "digits", lambda config, only: untested)
    config = tiny()
    config.data.validation = share
    result = train(config, tmp_path)
    assert result["split"] == split and result["sha256"] and result["step"] == 9
    assert ("top1" in result) == ("without_ema" in result) == (split == "validation")
    assert json.loads((tmp_path / "task.json").read_text())["fingerprint"].keys() == {"train"}


def test_a_training_of_no_steps_is_a_run_that_can_be_loaded(tmp_path):
    config = tiny()
    config.train.duration, config.train.ema = "0 steps", 0.5
    config.schedule.warmup = "2 steps"
    result = train(config, tmp_path / "run")
    assert result["step"] == 0 and result["validation"] is not None
    metrics = evaluate_run(resnet.load(tmp_path / "run"))
    assert metrics["step"] == 0 and metrics["loss"] == pytest.approx(result["loss"], rel=1e-6)


def test_a_finished_run_does_nothing_again(finished):
    config, workdir, result = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    assert train(config, workdir) == result
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("number", "stop_before"),
    [
        # In the middle of an epoch, between two dispatches.
        (signal.SIGTERM, 6),
        # An evaluation is due, and ends as it begins.
        pytest.param(signal.SIGINT, 3, marks=pytest.mark.thorough),
        # While the checkpoint of that step is written.
        pytest.param(signal.SIGTERM, 5, marks=pytest.mark.thorough),
        # At the last step.
        pytest.param(signal.SIGTERM, 8, marks=pytest.mark.thorough),
    ],
)
def test_resuming_equals_never_having_stopped(finished, tmp_path, monkeypatch, number, stop_before):
    """With a moving average; in an epoch of eight steps."""
    config, undisturbed, result = finished

    def interrupted(seed, step, n, batch, repeats):
        if step == stop_before:
            signal.raise_signal(number)
        return batch_indices(seed, step, n, batch, repeats)

    with (
        monkeypatch.context() as patch,
        pytest.raises(RunStopped, match=f"at step {stop_before + 1};") as stop,
    ):
        patch.setattr(trainer, "batch_indices", interrupted)
        train(config, tmp_path)
    assert stop.value.exit_code == 128 + number
    assert not (tmp_path / "result.json").exists()
    again = train(config, tmp_path)
    assert {k: again[k] for k in ("loss", "top1", "n", "validation", "without_ema")} == {
        k: result[k] for k in ("loss", "top1", "n", "validation", "without_ema")
    }
    assert numbers(tmp_path) == numbers(undisturbed)
    states = [final_state(config, workdir, 9) for workdir in (tmp_path, undisturbed)]
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.thorough
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_taken(finished, tmp_path, caplog):
    config, undisturbed, _ = finished

    def stop_after_saving(workdir):
        (workdir / "result.json").unlink()
        for path in (workdir / "checkpoints" / "9" / "state").rglob("d/*"):
            path.write_bytes(path.read_bytes()[:20])

    train(config, tmp_path)
    stop_after_saving(tmp_path)
    with caplog.at_level("WARNING"):
        train(config, tmp_path)
    assert "checkpoints/9 is unreadable" in caplog.text
    assert (tmp_path / "checkpoints_unreadable" / "9").is_dir()
    assert numbers(tmp_path) == numbers(undisturbed)


def test_a_workdir_of_another_config(finished):
    _, workdir, _ = finished
    config = tiny()
    config.schedule.learning_rate = 0.2
    with pytest.raises(InputError, match=r"`schedule.learning_rate` \(0.1 there, 0.2 here\)"):
        train(config, workdir)


def test_a_batch_that_two_devices_cannot_share(tmp_path):
    config = tiny()
    config.train.batch_size = 9
    with pytest.raises(InputError, match="divisible by the 2 devices; got 9"):
        loop.train(config, tmp_path, mesh=make_mesh(2))


def test_a_run_is_loaded_from_its_folder_alone(finished):
    config, workdir, result = finished
    run = resnet.load(workdir)
    assert run.config == config and run.step == 9
    test = load_dataset(config.data).test
    hits = run.logits(test.images).argmax(-1) == test.labels
    np.testing.assert_allclose(hits.mean(), result["top1"])
    assert evaluate_run(run, "test")["top1"] == result["top1"]
    assert resnet.load(workdir, step=5).step == 5


def test_what_cannot_be_loaded(finished, tmp_path):
    _, workdir, _ = finished
    with pytest.raises(InputError, match="has no checkpoint of step 3; there are"):
        resnet.load(workdir, step=3)
    with pytest.raises(InputError, match=r"config.json is missing"):
        resnet.load(tmp_path)
    with pytest.raises(InputError, match=r"must be uint8 or float, of shape \(8, 8, 1\) or"):
        resnet.load(workdir).logits(np.zeros((1, 8, 8, 3), np.uint8))


def test_other_data_must_put_the_same_question(finished):
    _, workdir, _ = finished
    run, data = resnet.load(workdir), tiny().data
    data.name, data.random_crop = "digits_rotation", 0
    with pytest.raises(InputError, match="the run was trained with kind classification"):
        evaluate_run(run, "test", data)


@pytest.mark.thorough
def test_a_run_that_is_over_leaves_no_images_behind(tmp_path, monkeypatch):
    """A study trains hundreds of runs in one process, each with its images on the device."""
    resident = []

    def remembered(*arguments):
        made = make_trainer(*arguments)
        resident.extend(weakref.ref(array) for array in jax.tree.leaves(made.resident))
        return made

    monkeypatch.setattr(loop, "make_trainer", remembered)
    train(tiny(), tmp_path)
    gc.collect()
    assert len(resident) == 2 and [array() for array in resident] == [None, None]
