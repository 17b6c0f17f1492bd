"""What a study will take: estimated from its smallest net, and from the data set of each arm."""

import pytest

from resnet.config import replaced, save_config
from resnet.studies import estimate
from resnet.studies.stored import open_folder
from resnet.studies.study import Arm
from tests.studies_cases import tiny_config, tiny_study


@pytest.fixture
def estimated(tmp_path, monkeypatch):
    """Estimates arms from their changes, as if a step of any net took a second: (rows, data read)."""
    read, load = [], estimate.load_dataset

    def noted(data):
        read.append(data.train_limit)
        return load(data)

    monkeypatch.setattr(estimate, "load_dataset", noted)
    monkeypatch.setattr(estimate, "_measure", lambda config, dataset: (1.0, 1e6))

    def call(**changes):
        base = tiny_config()
        base.train.duration = "10 epochs"
        arms = {name: Arm(values) for name, values in changes.items()}
        folder = open_folder(tiny_study(base=base, arms=arms, reference="a"), tmp_path, "")
        return estimate.estimate(folder, list(arms)), read

    return call


def test_each_arm_takes_the_steps_of_its_own_data(estimated):
    rows, read = estimated(
        a={"data.train_limit": 1000},
        b={"data.train_limit": 100},
        c={"data.train_limit": 1000, "schedule.learning_rate": 0.2},
        d={"data.train_limit": 1000, "train.smaller_until": (("50 %", 4),)},  # a quarter of the pixels
    )
    assert [row.arm for row in rows] == ["a", "b", "c", "d"]
    assert [row.seconds for row in rows] == pytest.approx(
        [620, 60, 620, 310 + 310 / 4]
    )  # of 16 images a step
    assert sorted(read) == [100, 1000]


def test_larger_batches_take_more_memory_and_runs_that_ended_no_time(estimated, tmp_path):
    rows, _ = estimated(a={}, b={"train.batch_size": 32})  # a is measured, at a second and 1 MB a step
    assert [row.runs_left for row in rows] == [2, 2] and rows[0].bytes == pytest.approx(1e6)
    assert 1.3e6 < rows[1].bytes < 2e6  # features double, parameters do not
    ended = tmp_path / "a/seed0"
    ended.mkdir(parents=True)
    save_config(replaced(tiny_config(), {"train.duration": "10 epochs"}), ended)
    (ended / "result.json").write_text('{"step": 8, "top1": 0.5}')
    rows, _ = estimated(a={}, b={"train.batch_size": 32})
    assert [row.runs_left for row in rows] == [1, 2]


def test_an_arm_whose_data_are_missing_leaves_the_others_their_estimates(estimated, caplog):
    rows, _ = estimated(
        a={"data.name": "fashion_mnist", "data.dir": "/nowhere"}, b={}, c={"model.width": 0.5}
    )
    assert [row.seconds is None for row in rows] == [True, False, False]
    assert (
        rows[1].seconds == pytest.approx(40)
        and rows[2].seconds > 40
        and "arm a: no time or memory is estimated" in caplog.text
    )
