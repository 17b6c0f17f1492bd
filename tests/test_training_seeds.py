"""Runs of several seeds trained as one program: each is what it would have been alone."""

import json
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from test_training_loop import numbers, tiny

import resnet
from resnet.data.order import batch_indices
from resnet.errors import InputError
from resnet.runs.checkpoints import checkpoint
from resnet.runs.open_run import OpenRun
from resnet.runtime.devices import make_mesh
from resnet.runtime.signals import RunStopped
from resnet.training import loop, trainer
from resnet.training.seeds import Runs

SEEDS = (0, 1)


def both(config=None, *, workdir, devices=2):
    """Two seeds, by default on a device each, where their bits are those of single runs."""
    folders = {seed: workdir / f"seed{seed}" for seed in SEEDS}
    return loop.train(config or tiny(), folders, mesh=make_mesh(devices, seeds=2))


def facts(result):
    return {name: result[name] for name in ("loss", "top1", "n", "step", "validation", "without_ema")}


def variables(workdir):
    return jax.device_get(resnet.load(workdir).variables)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folders and results of each seed trained alone."""
    runs = {}
    for seed in SEEDS:
        config = tiny()
        config.seed = seed
        workdir = tmp_path_factory.mktemp(f"alone{seed}")
        runs[seed] = workdir, loop.train(config, workdir, mesh=make_mesh(1))
    return runs


def assert_like_alone(alone, workdir, results):
    for seed, (expected, result) in alone.items():
        assert facts(results[seed]) == facts(result)
        assert numbers(workdir / f"seed{seed}") == numbers(expected)
        jax.tree.map(np.testing.assert_array_equal, variables(workdir / f"seed{seed}"), variables(expected))


@pytest.mark.thorough
def test_each_folder_is_that_of_the_run_alone(alone, tmp_path):
    results = both(workdir=tmp_path)
    assert_like_alone(alone, tmp_path, results)
    for seed, (expected, _) in alone.items():
        assert (tmp_path / f"seed{seed}" / "config.json").read_text() == (
            expected / "config.json"
        ).read_text()


@pytest.mark.thorough
def test_on_one_device_up_to_rounding(alone, tmp_path):
    results = both(workdir=tmp_path, devices=1)
    for seed, (_, result) in alone.items():
        np.testing.assert_allclose(results[seed]["loss"], result["loss"], rtol=1e-3)


@pytest.mark.thorough
def test_resuming_equals_never_having_stopped(alone, tmp_path, monkeypatch):
    def interrupted(seed, step, n, batch, repeats):
        if step == 6:
            signal.raise_signal(signal.SIGTERM)
        return batch_indices(seed, step, n, batch, repeats)

    with monkeypatch.context() as patch, pytest.raises(RunStopped, match="at step 7"):
        patch.setattr(trainer, "batch_indices", interrupted)
        both(workdir=tmp_path)
    # As if killed between the two saves: the step in common is the one before.
    (tmp_path / "seed1" / "checkpoints" / "7").rename(tmp_path / "lost")
    assert_like_alone(alone, tmp_path, both(workdir=tmp_path))


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the library catches it."""


@pytest.mark.thorough
# Saves are due at steps 4 (all are better than ever), 5, 8 (those that are better) and 9.
@pytest.mark.parametrize(("step", "left"), [(4, ([4], [])), (5, ([5, 4], [4])), (9, None)])
def test_a_kill_between_the_saves_of_two_seeds(undisturbed, tmp_path, monkeypatch, step, left):
    """On one device, where a program of one seed rounds otherwise than that of both."""
    save = OpenRun.save

    def killed(self, state, *arguments, **options):
        if self.config.seed == 1 and state.step == step:
            monkeypatch.undo()  # as the runs that were killed have no more saves, but those under way
            raise Killed
        save(self, state, *arguments, **options)

    monkeypatch.setattr(OpenRun, "save", killed)
    with pytest.raises(Killed):
        both(keeping_one(), workdir=tmp_path, devices=1)
    found = tuple(checkpoint.steps_on_disk(tmp_path / f"seed{seed}") for seed in SEEDS)
    assert found == left if left else set.intersection(*map(set, found))
    results = both(keeping_one(), workdir=tmp_path, devices=1)
    assert_like_alone(undisturbed, tmp_path, results)
    # Only the best is left beside the last.
    assert all(len(checkpoint.steps_on_disk(tmp_path / f"seed{seed}")) <= 2 for seed in SEEDS)


def keeping_one():
    config = tiny()
    config.checkpoint.keep = 1
    return config


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Like `alone`, of both seeds as one program on one device."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    results = both(keeping_one(), workdir=workdir, devices=1)
    return {seed: (workdir / f"seed{seed}", results[seed]) for seed in SEEDS}


@pytest.mark.thorough
def test_a_seed_added_later_leaves_the_others_alone(alone, tmp_path):
    folders = {seed: tmp_path / f"seed{seed}" for seed in SEEDS}
    loop.train(tiny(), {1: folders[1]}, mesh=make_mesh(1))
    before = {path: path.stat().st_mtime_ns for path in folders[1].rglob("*")}
    results = loop.train(tiny(), folders, mesh=make_mesh(1))
    assert {path: path.stat().st_mtime_ns for path in folders[1].rglob("*")} == before
    assert_like_alone(alone, tmp_path, results)


@pytest.mark.thorough
def test_a_seed_that_fails_does_not_disturb_the_others(alone, tmp_path, monkeypatch):
    log = OpenRun.log

    def failing(run, first_step, metrics):
        if first_step == 6 and run.config.seed == 1:
            metrics = metrics | {"loss": metrics["loss"] * np.nan}
        log(run, first_step, metrics)

    monkeypatch.setattr(OpenRun, "log", failing)
    results = both(workdir=tmp_path)
    assert results[1]["failed"].startswith("loss is nan at step 6")
    assert json.loads((tmp_path / "seed1" / "failed.json").read_text()) == results[1]
    assert not (tmp_path / "seed1" / "result.json").exists()
    assert facts(results[0]) == facts(alone[0][1])
    monkeypatch.undo()
    assert both(workdir=tmp_path) == results


@pytest.mark.thorough
def test_seeds_as_a_field_of_the_config(tmp_path):
    config = tiny()
    config.train.seeds, config.seed = 2, 3
    result = loop.train(config, tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["seed3", "seed4"]
    assert result["seeds"] == 2 and [run["seeds_together"] for run in result["runs"]] == [2, 2]
    assert checkpoint.steps_on_disk(tmp_path / "seed4")[0] == 9
    assert loop.train(config, tmp_path) == result
    config.schedule.learning_rate = 0.2
    with pytest.raises(InputError, match=r"seed3 holds a run that differs in `schedule.learning_rate`"):
        loop.train(config, tmp_path)
    with pytest.raises(
        InputError, match=r"seed3 holds one run, and `train.seeds` is 2; choose another workdir"
    ):
        loop.train(config, tmp_path / "seed3")


def test_checkpoints_that_were_due_outlive_others():
    """To the latest of those that were due a run goes back after it diverged."""
    kept, runs, run = [], object.__new__(Runs), object.__new__(OpenRun)
    run.failed, run.saver = "", SimpleNamespace(wait=lambda: None, whole={3, 4, 5})
    run.remove_all_but = kept.append
    runs.runs = [run]
    runs.trainer = SimpleNamespace(
        intervals=SimpleNamespace(saves=lambda step: step % 3 == 0),
        config=SimpleNamespace(checkpoint=SimpleNamespace(keep=1)),
    )
    runs._remove_old()
    assert kept == [{3, 5}]


@pytest.mark.thorough
def test_a_resumed_run_counts_the_seconds_of_all_its_sessions(tmp_path, monkeypatch):
    save = OpenRun.save
    with monkeypatch.context() as patch:
        patch.setattr(OpenRun, "save", lambda run, state, seconds: save(run, state, seconds + 1000))
        loop.train(tiny(), tmp_path)
    (tmp_path / "result.json").unlink()
    assert loop.train(tiny(), tmp_path)["seconds"] > 1000
