"""Losses that leave all bounds: noticed, named, left out, gone back from; no cost where unwatched."""

import dataclasses
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_training_disk import at_steps
from test_training_loop import numbers, tiny, train
from test_training_seeds import facts, variables

from resnet.data.datasets import load_dataset
from resnet.errors import InputError
from resnet.runs import rollbacks
from resnet.runs.checkpoints import checkpoint
from resnet.runs.metrics.meter import Meter
from resnet.runs.rollbacks import Diverged
from resnet.runtime.devices import make_mesh
from resnet.runtime.signals import RunStopped
from resnet.training import divergence, loop
from resnet.training.config import TrainConfig
from resnet.training.seeds import Runs
from resnet.training.step import Step, TrainState
from resnet.training.trainer import make_trainer


def poison(monkeypatch, bad):
    """Makes the images of the steps for which bad(state) not-a-number."""
    original = Step.augmented

    def poisoned(step, state, images):
        images, key = original(step, state, images)
        return jnp.where(bad(state), jnp.nan, images), key

    monkeypatch.setattr(Step, "augmented", poisoned)


def guarding(policy, **fields):
    config = tiny()
    config.train.on_divergence, config.train.log_every = policy, "1 steps"
    config.checkpoint.every = "3 steps"
    for name, value in fields.items():
        setattr(config.train, name, value)
    return config


@pytest.mark.thorough
def test_nothing_is_watched_by_default(tmp_path):
    trainer = make_trainer(tiny(), load_dataset(tiny().data), make_mesh(1))
    state = trainer.start()
    assert state.guard == {}
    text = trainer.train().lower(state, trainer.batch(range(1))).as_text()
    assert "is_finite" not in text


def test_stop_names_the_window_the_parameters_and_the_checkpoint(tmp_path):
    config = tiny()
    config.schedule.name, config.schedule.learning_rate = "constant", 1e30
    config.checkpoint.every, config.train.log_every = "1 steps", "1 steps"
    with pytest.raises(RunStopped, match=r"(loss|grad_norm) is (nan|inf) at step \d") as stop:
        train(config, tmp_path)
    text, kept = str(stop.value), checkpoint.steps_on_disk(tmp_path)
    assert stop.value.exit_code == 1
    assert "(window " in text and "parameters not finite: " in text
    assert f"the last good checkpoint is that of step {kept[0]}" in text
    losses = [line["loss"] for line in numbers(tmp_path)]
    assert losses and np.isfinite(losses).all()
    assert json.loads((tmp_path / "failed.json").read_text())["failed"] == text


@pytest.mark.thorough
def test_skipped_steps_are_counted_and_resumed(tmp_path, monkeypatch):
    poison(monkeypatch, lambda state: (state.step == 2) | (state.step == 5))
    result = train(guarding("skip"), tmp_path / "whole")
    assert result["skipped"] == 2 and np.isfinite(result["loss"])
    lines = [line for line in numbers(tmp_path / "whole") if line["split"] == "train"]
    assert [line["step"] for line in lines if line["skipped"]] == [3, 6]
    assert all(("loss" in line) == (not line["skipped"]) for line in lines)
    at_steps(monkeypatch, {6: lambda: signal.raise_signal(signal.SIGTERM)})
    with pytest.raises(RunStopped, match="at step 7"):
        train(guarding("skip"), tmp_path / "halves")
    again = train(guarding("skip"), tmp_path / "halves")
    assert facts(again) == facts(result) and again["skipped"] == 2
    assert numbers(tmp_path / "halves") == numbers(tmp_path / "whole")


def together(workdir, *seeds):
    folders = {seed: workdir / f"seed{seed}" for seed in seeds}
    config = guarding("rollback", rollback_factor=0.25)
    return loop.train(config, folders, mesh=make_mesh(2, seeds=2))


def rates_of(workdir):
    return {n["step"]: n["learning_rate"] for n in numbers(workdir) if n["split"] == "train"}


@pytest.mark.thorough
def test_rollbacks_of_one_seed_leave_the_other_alone_and_survive_a_stop(tmp_path, monkeypatch):
    """Seed 1 diverges after five steps at the full rate, seed 3 at any."""
    poison(
        monkeypatch,
        lambda s: (s.step == 5) & (((s.seed == 1) & (s.guard["rate"] > 0.6)) | (s.seed == 3)),
    )
    calm = together(tmp_path / "calm", 0, 2)
    rolled = together(tmp_path / "rolled", 0, 1)
    assert facts(rolled[0]) == facts(calm[0]) and "rollbacks" not in rolled[0]
    assert numbers(tmp_path / "rolled/seed0") == numbers(tmp_path / "calm/seed0")
    jax.tree.map(
        np.testing.assert_array_equal,
        *(variables(tmp_path / run / "seed0") for run in ("rolled", "calm")),
    )
    [back] = rolled[1]["rollbacks"]
    # Not to step 4, which was saved as the best so far: 3 was due.
    assert (back["step"], back["to"], back["rate"]) == (6, 3, 0.25) and "loss is nan" in back["reason"]
    rates, known = rates_of(tmp_path / "rolled/seed1"), rates_of(tmp_path / "calm/seed0")
    assert rates == {step: rate * (0.25 if step > 3 else 1) for step, rate in known.items()}

    calls = []

    def second_time():
        calls.append(1)
        if len(calls) == 4:  # two seeds, two times
            signal.raise_signal(signal.SIGTERM)

    at_steps(monkeypatch, {5: second_time})
    with pytest.raises(RunStopped, match="at step 6"):
        together(tmp_path / "stopped", 0, 1)
    again = together(tmp_path / "stopped", 0, 1)
    for seed in (0, 1):
        assert facts(again[seed]) == facts(rolled[seed])
        assert numbers(tmp_path / f"stopped/seed{seed}") == numbers(tmp_path / f"rolled/seed{seed}")
    assert again[1]["rollbacks"] == rolled[1]["rollbacks"]

    # Nor to where a signal came.
    first = iter([True])
    at_steps(monkeypatch, {4: lambda: next(first, False) and signal.raise_signal(signal.SIGTERM)})
    with pytest.raises(RunStopped, match="at step 5"):
        together(tmp_path / "paused", 0, 1)
    assert facts(together(tmp_path / "paused", 0, 1)[1]) == facts(rolled[1])

    lost = together(tmp_path / "lost", 0, 3)
    assert "after 3 rollbacks; gradients not finite: head/dense/bias, " in lost[3]["failed"]
    assert facts(lost[0]) == facts(calm[0])


@pytest.mark.thorough
def test_a_seed_that_failed_for_good_stays_so_and_is_not_waited_for(tmp_path, monkeypatch):
    """Seed 3 diverges in its sixth step at any rate, seed 0 later in its ninth at the full rate."""
    poison(
        monkeypatch,
        lambda s: ((s.step == 5) & (s.seed == 3)) | ((s.step == 8) & (s.seed == 0) & (s.guard["rate"] > 0.6)),
    )
    config = guarding("rollback", rollbacks=1)
    config.checkpoint.every, config.checkpoint.keep = "2 steps", 1
    workdirs = {seed: tmp_path / f"seed{seed}" for seed in (0, 3)}
    begun, restore = [], Runs.restore
    monkeypatch.setattr(Runs, "restore", lambda runs: (restore(runs), begun.append(runs.started))[0])
    results = loop.train(config, workdirs, mesh=make_mesh(2, seeds=2))
    assert len(begun) == 3 and len(set(begun)) == 1, "what was rolled back took its time, too"
    [back] = results[0]["rollbacks"]
    assert (back["step"], back["to"], back["rate"]) == (9, 8, 0.5)
    assert "after 1 rollbacks" in results[3]["failed"] and not (workdirs[3] / "result.json").exists()
    kept = json.loads((workdirs[3] / "rollbacks.json").read_text())
    assert [each["to"] for each in kept] == [4] and results[3]["step"] < 9


def toy(step=0.0, opt_state=()):
    return TrainState(jnp.float32(step), jnp.int32(0), {"w": jnp.zeros(2)}, {}, opt_state, {})


def guarded_losses(losses, config):
    """(parameters, what was flagged) of a toy that adds one a step, with these losses."""
    state = toy()
    state = TrainState(**{**vars(state), "guard": divergence.initial_guard(config)})
    flags = []
    for loss in losses:
        new = TrainState(**{**vars(state), "step": state.step + 1, "params": {"w": state.params["w"] + 1}})
        metrics = {"loss": jnp.float32(loss), "grad_norm": jnp.float32(1), "learning_rate": jnp.float32(1)}
        state, metrics = divergence.guarded(state, new, metrics, {"w": jnp.ones(2)}, config)
        flags.append(bool(metrics["diverged"]))
    return state, flags


def test_a_spike_is_one_against_the_mean_once_there_is_one():
    config = TrainConfig(on_divergence="skip", spike_factor=3.0)
    state, flags = guarded_losses([9.0, 1.0, 1.0] + [1.0] * 9 + [4.0, 20.0, 1.0, np.inf, 2.0], config)
    assert flags == [False] * 13 + [True, False, True, False]
    assert state.step == 17 and state.params["w"][0] == 15
    assert 1.0 < state.guard["loss"] < 2.5 and state.guard["seen"] == 15


@pytest.mark.parametrize(("seen", "share"), [(0, 1.0), (4, 1 / 5), (49, 1 / 50), (1000, 1 / 50)])
def test_the_mean_of_the_loss_is_that_of_about_fifty_steps(seen, share):
    """The next loss counts as each of those before it, until there are fifty."""
    guard = {"loss": jnp.float32(2), "seen": jnp.float32(seen)}
    state = dataclasses.replace(toy(), guard=guard)
    metrics = {"loss": jnp.float32(3), "grad_norm": jnp.float32(1), "learning_rate": jnp.float32(1)}
    config = TrainConfig(spike_factor=3.0)
    state, _ = divergence.guarded(state, state, metrics, {"w": jnp.ones(2)}, config)
    np.testing.assert_allclose(state.guard["loss"], 2 + share, rtol=1e-6)
    assert state.guard["seen"] == seen + 1


def test_a_skipped_update_keeps_the_state_but_not_the_schedule():
    config = TrainConfig(on_divergence="skip")
    count = optax.ScaleByScheduleState(jnp.int32(3))
    old = toy(opt_state=(jnp.ones(2), count))
    new = TrainState(
        old.step + 1, old.seed, {"w": jnp.full(2, jnp.nan)}, {},
        (jnp.full(2, jnp.nan), optax.ScaleByScheduleState(jnp.int32(4))), {},
    )  # fmt: skip
    metrics = {"loss": jnp.float32(1), "grad_norm": jnp.float32(jnp.nan), "learning_rate": jnp.float32(1)}
    kept, _ = divergence.guarded(old, new, metrics, {"w": jnp.full(2, jnp.nan)}, config)
    np.testing.assert_array_equal(kept.opt_state[0], 1.0)
    assert kept.opt_state[1].count == 4 and kept.params["w"][0] == 0


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_line_is_the_mean_of_the_steps_that_count(stop):
    """Of fewer at the end, and where some are left out; also where a run goes on in the midst of a line."""
    lines = {}
    losses = np.array([1.0, np.nan, 3, 8, 5, 8])
    rates = np.arange(1.0, 7)
    series = {"loss": losses, "grad_norm": 2 * losses, "learning_rate": rates}
    meters = [Meter(4, 6, lines.__setitem__, skips=True) for _ in range(2)]
    meters[0].add(1, {name: each[:stop] for name, each in series.items()})
    meters[1].restore(meters[0].pending())
    meters[1].add(stop + 1, {name: each[stop:] for name, each in series.items()})
    assert lines == {
        4: {"loss": 4.0, "grad_norm": 8.0, "learning_rate": 4.0, "skipped": 1},
        6: {"loss": 6.5, "grad_norm": 13.0, "learning_rate": 6.0, "skipped": 0},
    }


def test_too_many_in_a_row_end_the_run():
    meter = Meter(10, 1000, lambda *_: None, skips=True)
    series = {name: np.full(99, np.nan) for name in ("loss", "grad_norm", "learning_rate")}
    meter.add(1, series)
    with pytest.raises(Diverged, match="loss is nan, as in the 99 before it, at step 100"):
        meter.add(100, series)


def test_a_good_step_ends_the_row_of_bad_ones():
    meter = Meter(1000, 1000, lambda *_: None, skips=True)
    bad = {name: np.full(60, np.nan) for name in ("loss", "grad_norm", "learning_rate")}
    for first, series in ((1, bad), (61, {name: np.ones(1) for name in bad}), (62, bad)):
        meter.add(first, series)
    assert meter.skipped == {"line": 120, "in_a_row": 60, "all": 120}


def test_the_rate_does_not_rise_where_the_count_of_rollbacks_is_lost():
    config = TrainConfig(on_divergence="rollback", rollback_factor=0.5)
    state = dataclasses.replace(toy(), guard={"rate": np.float32(0.25)})
    assert [float(divergence.at_rate(state, n, config).guard["rate"]) for n in (0, 3)] == [0.25, 0.125]


def test_the_gradients_to_look_at_are_named():
    params = {name: np.zeros(2) for name in "abcdef"}
    assert rollbacks.offending(params, np.array([1, np.inf, 2, np.nan, 3, 4])) == (
        "gradients not finite: b, d"
    )
    assert "largest gradients are those of f, e, c, b" in rollbacks.offending(
        params, np.array([1, 2, 3, 0, 4, 5])
    )
    params["c"] = np.array([np.nan, 1])
    assert rollbacks.offending(params, None) == "parameters not finite: c"


def test_no_checkpoint_is_written_of_a_state_that_is_not_finite():
    rollbacks.check_state(toy(), 3)
    with pytest.raises(Diverged, match="at step 3"):
        rollbacks.check_state({"w": np.array([1, np.inf])}, 3)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("on_divergence", "pray", "`train.on_divergence` must be one of stop, skip, rollback"),
        ("spike_factor", 0.5, "`train.spike_factor` must be 0 (off) or above 1; got 0.5"),
        ("rollbacks", 0, "`train.rollbacks` must be at least 1"),
        ("rollback_factor", 1.0, "`train.rollback_factor` must lie between 0 and 1; got 1.0"),
    ],
)
def test_wrong_fields(field, value, message):
    with pytest.raises(InputError) as error:
        TrainConfig(**{field: value}).check()
    assert message in str(error.value)
