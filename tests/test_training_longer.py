"""What may change when a run is taken up again, and how a run becomes longer."""

import json

import pytest

from resnet.config import Config, field_types, save_config
from resnet.errors import InputError
from resnet.runs.changes import MAY_CHANGE, check_longer, decisive, same_end
from resnet.runs.checkpoints import checkpoint
from resnet.runs.metrics.records import read_metrics
from resnet.runs.open_run import FAILURE_FILE, outcome
from resnet.runtime.devices import make_mesh
from resnet.training import loop


def tiny(**fields) -> Config:
    config = Config()
    config.data.name, config.data.train_limit, config.data.random_crop = "digits", 64, 1
    config.model.family, config.model.blocks, config.model.width = "chain", (1,), 0.25
    config.train.batch_size, config.train.duration, config.train.ema = 8, "4 steps", 0.9
    config.train.evaluate_every, config.checkpoint.every = "4 steps", "2 steps"
    config.schedule.name, config.schedule.warmup = "constant", "2 steps"
    for name, value in fields.items():
        section, _, field = name.partition("__")
        setattr(getattr(config, section), field, value)
    return config


def train(config, workdir):
    return loop.train(config, workdir, mesh=make_mesh(1))


@pytest.mark.thorough
def test_a_finished_run_goes_on_as_if_it_had_been_longer(tmp_path):
    first = train(tiny(), tmp_path / "run")
    longer = tiny(
        train__duration="1 epochs", train__log_every="3 steps", checkpoint__keep=1, checkpoint__every="50 %"
    )
    result = train(longer, tmp_path / "run")
    assert result["sha256"] == train(longer, tmp_path / "whole")["sha256"] and result["step"] == 8
    assert json.loads((tmp_path / "run" / "result_step4.json").read_text()) == first
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    lines = [(line["step"], line["split"]) for line in read_metrics(tmp_path / "run")]
    assert len(lines) == len(set(lines)) and (4, "test") not in lines and (8, "test") in lines
    assert train(longer, tmp_path / "run") == result
    with pytest.raises(InputError, match=r"`train.duration` .*: it can become longer, not shorter"):
        train(tiny(), tmp_path / "run")


@pytest.mark.thorough
def test_a_run_goes_on_with_scanned_blocks(tmp_path):
    """Its numbers are those of a run whose blocks stay apart, up to rounding."""
    deep = {"model__blocks": (4,)}
    whole = deep | {"train__duration": "8 steps"}
    train(tiny(**deep), tmp_path / "run")
    scanned = train(tiny(**whole, model__scan_blocks=True), tmp_path / "run")
    apart = train(tiny(**whole), tmp_path / "apart")
    assert scanned["loss"] == pytest.approx(apart["loss"], rel=1e-5)
    assert scanned["sha256"] != apart["sha256"]


def falling(*milestones: str) -> dict:
    return {"schedule__name": "step", "schedule__milestones": milestones}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({}, {}, ""),
        (falling("3 steps"), falling("3 steps", "6 steps"), ""),
        (falling("50 %"), falling("2 steps"), ""),
        (falling("50 %"), None, "learning rate of step 3 was 0.01 and would be 0.1"),
        ({"schedule__warmup": "50 %"}, None, "learning rate of step 2 was"),
        ({"schedule__warmup": "50 %"}, {"schedule__warmup": "2 steps"}, ""),
        ({"schedule__name": "cosine"}, None, r"constant and step can go on.* for others choose another"),
        ({"schedule__name": "linear"}, None, "learning rate of step 4 was"),
        ({}, {"schedule__learning_rate": 0.2}, "of step 1 was 0.01 and would be 0.02"),
        ({}, falling("4 steps"), ""),  # the rate falls where the run ended
        ({"train__smaller_until": (("50 %", 6),)}, None, "side of images in step 3 was 0 and would be 6"),
        ({"train__smaller_until": (("2 steps", 6),)}, {"train__smaller_until": (("2 steps", 6),)}, ""),
        ({"train__smaller_until": (("3 steps", 6), ("6 steps", 7))}, None, ""),
    ],
)  # fmt: skip
def test_the_rates_of_a_longer_run_begin_as_they_were(tmp_path, before, after, said):
    save_config(tiny(**before), tmp_path)
    longer = tiny(**(before if after is None else after), train__duration="8 steps")
    assert not same_end(tmp_path, longer)
    if not said:
        return check_longer(tmp_path, longer, 8)
    with pytest.raises(InputError, match=said):
        check_longer(tmp_path, longer, 8)


def test_with_the_same_end_nothing_that_decides_numbers_changes(tmp_path):
    save_config(tiny(), tmp_path)
    for change in ({"schedule__learning_rate": 0.2}, {"train__duration": "8 steps", "train__ema": 0.5}):
        with pytest.raises(InputError, match=r"holds a run that differs in .* choose another workdir"):
            same_end(tmp_path, tiny(**change))


@pytest.mark.parametrize(
    ("before", "change", "said"),
    [
        ({}, {"train__batch_size": 4}, "differs in `train.batch_size`"),
        ({}, {"train__duration": "2 steps"}, "it can become longer, not shorter"),
        (
            {"schedule__name": "cosine"},
            {"train__duration": "8 steps", "schedule__name": "cosine"},
            "for others",
        ),
    ],
)
def test_only_a_run_with_weights_can_be_started_from(tmp_path, before, change, said):
    save_config(tiny(**before), tmp_path)
    with pytest.raises(InputError, match=f"{said}.* or remove {tmp_path}, which has no checkpoint yet$"):
        check_longer(tmp_path, tiny(**change), 8)
    (tmp_path / checkpoint.FOLDER / "0").mkdir(parents=True)
    with pytest.raises(InputError, match=f"{said}.* start there from .* --config.init_from={tmp_path}$"):
        check_longer(tmp_path, tiny(**change), 8)


def test_what_may_change_are_fields_with_a_reason(tmp_path):
    for beginning, why in MAY_CHANGE.items():
        assert len(why) > 20 and any(name.startswith(beginning) for name in field_types())
    changed = tiny(train__log_every="1 steps", train__steps_per_call=2, checkpoint__keep=1, cache__dir="",
                   train__rollbacks=9, data__bad_limit=0.5, model__scan_blocks=True)  # fmt: skip
    save_config(tiny(), tmp_path)
    assert decisive(tmp_path, changed) == []
    # A run begun before fingerprints would not notice other data.
    assert decisive(tmp_path, tiny(data__dir="elsewhere")) == [("data.dir", "", "elsewhere")]


def test_a_run_that_gave_up_goes_on_with_more_rollbacks(tmp_path):
    save_config(tiny(train__rollbacks=3), tmp_path)
    (tmp_path / FAILURE_FILE).write_text('{"failed": "loss is nan after 3 rollbacks", "step": 4}')
    for rollbacks in (2, 3):
        assert outcome(tmp_path, tiny(train__rollbacks=rollbacks)) == {
            "failed": "loss is nan after 3 rollbacks",
            "step": 4,
        }
    assert outcome(tmp_path, tiny(train__rollbacks=4)) is None
