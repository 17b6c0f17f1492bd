"""Durations and learning rates: known values, and errors that name the field."""

import jax.numpy as jnp
import numpy as np
import pytest

from resnet.durations import parse_duration
from resnet.errors import InputError
from resnet.training.config import TrainConfig
from resnet.training.schedules import SCHEDULES, ScheduleConfig, make_intervals, make_schedule
from tests.folder_cases import noted

COUNTS = {"batch_size": 100, "steps_per_epoch": 50, "total_steps": 1000}


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("20 epochs", 1000),
        ("1 epoch", 50),
        ("0.5 epochs", 25),
        ("64000 steps", 64000),
        ("64000steps", 64000),
        ("1e3 steps", 1000),
        ("12800 examples", 128),
        ("10 %", 100),
        ("10%", 100),
    ],
)
def test_durations(text, steps):
    assert parse_duration("train.duration", text).steps(**COUNTS) == steps


@pytest.mark.parametrize("text", ["", "20", "epochs", "20 hours", "-1 steps", "nan steps", "1 2 %"])
def test_a_wrong_duration_is_an_error(text):
    with pytest.raises(InputError, match=r"`train.duration` must be an amount and a unit"):
        parse_duration("train.duration", text)


def test_a_share_needs_a_whole():
    with pytest.raises(InputError, match=r"share of `train.duration`"):
        parse_duration("x", "10 %").steps(batch_size=1, steps_per_epoch=1)


def rates(steps, **fields):
    schedule = make_schedule(ScheduleConfig(**fields), **COUNTS)
    return [float(schedule(jnp.int32(step))) for step in steps]


def test_cosine():
    values = rates((0, 500, 1000, 2000), name="cosine", learning_rate=0.2)
    np.testing.assert_allclose(values, [0.2, 0.1, 0.0, 0.0], atol=1e-7)


def test_linear_and_constant():
    np.testing.assert_allclose(rates((0, 250, 1000), name="linear"), [0.1, 0.075, 0], atol=1e-7)
    np.testing.assert_allclose(rates((0, 999), name="constant"), [0.1, 0.1])


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_starts_at_the_peak_after_its_warmup_and_never_rises(name):
    fields = {"milestones": ("50 %",)} if name == "step" else {}
    values = rates(range(0, 1001, 50), name=name, warmup="100 steps", learning_rate=0.3, **fields)
    np.testing.assert_allclose(values[:3], [0.03, 0.165, 0.3], rtol=1e-6)
    assert (np.diff(values[2:]) <= 0).all() and min(values) >= 0


@pytest.mark.parametrize(("name", "halfway"), [("cosine", 0.05), ("linear", 0.05), ("quadratic", 0.025)])
def test_a_rate_falls_to_zero_between_the_warmup_and_the_end(name, halfway):
    values = rates((400, 700, 1000), name=name, warmup="40 %")
    np.testing.assert_allclose(values, [0.1, halfway, 0.0], atol=1e-7)


def test_quadratic_is_mlperfs():
    np.testing.assert_allclose(
        rates((0, 250, 500, 1000), name="quadratic"), [0.1, 0.05625, 0.025, 0], atol=1e-7
    )


def test_steps_at_milestones():
    fields = {"name": "step", "milestones": ("50 %", "15 epochs"), "factor": 0.2}
    np.testing.assert_allclose(
        rates((0, 499, 500, 749, 750), **fields), [0.1, 0.1, 0.02, 0.02, 0.004], rtol=1e-6
    )


def test_linear_warmup_ends_at_the_peak():
    fields = {"name": "constant", "warmup": "2 epochs", "warmup_factor": 0.0}
    np.testing.assert_allclose(rates((0, 50, 100, 101), **fields), [0, 0.05, 0.1, 0.1], rtol=1e-6)


def test_constant_warmup_of_he_2016():
    fields = {"name": "constant", "warmup": "400 steps", "warmup_kind": "constant"}
    np.testing.assert_allclose(rates((0, 399, 400), **fields), [0.01, 0.01, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "cosin"}, "`schedule.name` must be one of cosine"),
        ({"learning_rate": -1.0}, "`schedule.learning_rate` must be at least 0"),
        ({"learning_rate": float("nan")}, "`schedule.learning_rate`"),
        ({"warmup_kind": "slow"}, "`schedule.warmup_kind`"),
        ({"warmup": "soon"}, "`schedule.warmup`"),
        ({"warmup": "100 %"}, "`schedule.warmup` must end before the training does; got '100 %'"),
        ({"name": "step"}, "`schedule.milestones` must be given for `schedule.name` 'step'"),
        ({"milestones": ("1 epochs",)}, "`schedule.milestones` are for `schedule.name` 'step' alone"),
    ],
)
def test_wrong_fields(fields, message):
    with pytest.raises(InputError, match=message):
        ScheduleConfig(**fields).check()


def test_a_warmup_longer_than_the_training():
    with pytest.raises(InputError, match=r"`schedule.warmup` must end before"):
        make_schedule(ScheduleConfig(warmup="1000 steps"), **COUNTS)


@pytest.mark.parametrize("duration", ["30 examples", "0.04 epochs", "0.4 steps"])
def test_a_training_of_less_than_a_step_is_refused(duration):
    with pytest.raises(InputError, match=f"`train.duration` must be at least one step, .*; got '{duration}'"):
        make_intervals(TrainConfig(duration=duration), "10 %", 10)
    assert make_intervals(TrainConfig(duration="0 steps"), "10 %", 10).total == 0


def test_an_interval_below_a_step_is_a_step_and_none_is_none():
    train = TrainConfig(telemetry_every="10 examples", smaller_until=(("1 examples", 8),))
    found = make_intervals(train, "0.001 steps", 10)
    assert (found.telemetry, found.checkpoint, found.sizes) == (1, 1, ((1, 8),))
    assert make_intervals(TrainConfig(telemetry_every="0 steps"), "1 steps", 10).telemetry == 0


@pytest.mark.parametrize("unit", ["steps", "epochs", "examples"])
def test_a_training_without_end_is_refused(unit):
    with pytest.raises(InputError, match=r"`train.duration` must be .*below 2\*\*31.*got '1e308 "):
        make_intervals(TrainConfig(duration=f"1e308 {unit}"), "10 %", 10)
    assert parse_duration("x", "1e308 %").steps(batch_size=1, steps_per_epoch=1, total_steps=9) > 2**31


def test_no_training_needs_no_shorter_warmup():
    make_schedule(ScheduleConfig(warmup="1000 steps"), **COUNTS | {"total_steps": 0})


def test_milestones_behind_the_end_are_told(monkeypatch):
    lines = noted(monkeypatch)
    rates((0,), name="step", milestones=("50 %", "999 steps"))
    assert not lines
    rates((0,), name="step", milestones=("50 %", "1000 steps", "2000 steps"))
    rates((0,), name="step", milestones=("2000 steps",))
    told = "the learning rate does not fall at {}, since the training ends at step 1000"
    assert lines == [told.format("1000 steps and 2000 steps"), told.format("2000 steps")]
