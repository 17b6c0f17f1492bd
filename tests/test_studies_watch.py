"""Watching runs: what their folders tell while they train, as a table and as a page."""

import json
import re
from pathlib import Path

import pytest

from resnet.config import Config, save_config
from resnet.errors import InputError
from resnet.runs.lock import holding
from resnet.studies import watch
from resnet.studies.stored import open_folder, save_folder
from tests.studies_cases import tiny_config, tiny_study


@pytest.fixture
def run(tmp_path):
    """A run of 100 steps, 25 an epoch, that has done none."""
    workdir = tmp_path / "lr[0.1]"
    workdir.mkdir()
    config = Config()
    config.train.duration = "4 epochs"
    save_config(config, workdir)
    return workdir


def record(workdir, step, split="train", **metrics):
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "epoch": step / 25, "split": split} | metrics) + "\n")


def test_a_run_is_followed_from_its_start_to_its_end(run, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    watching = watch.Watch(run)
    assert [view.state for view in watching.look()] == [watch.STOPPED]
    with holding(run):
        record(run, 25, loss=2.0)
        (view,) = watching.look()
        assert (view.state, view.step, view.total) == (watch.TRAINING, 25, 100)
        now[0] = 10.0
        record(run, 50, loss=1.0)
        record(run, 50, "validation", loss=None, top1=0.5)
        (view,) = watching.look()
        assert view.loss == (2.0, 1.0) and view.score == (50.0,)
        assert watching.seconds_left(view) == 20.0  # 25 steps took 10 seconds, 50 are left
        assert not watch.is_over(view)
    now[0] = 1000.0
    watching.look()  # while it waits
    with holding(run):
        watching.look()
        now[0] = 1010.0
        record(run, 75, loss=1.0)
        (view,) = watching.look()
        assert watching.seconds_left(view) == 10.0
    (run / "result.json").write_text("{}")
    (view,) = watching.look()
    assert view.state == "finished" and watch.is_over(view) and watching.seconds_left(view) is None


def test_the_steps_of_the_whole_are_told_once_they_are_certain(run):
    """An epoch of four decimals fits several lengths of an epoch early on: 1,400 steps among others."""
    totals = []
    for step in (1, 50, 150, 250, 1400):
        line = {"step": step, "epoch": round(step / 1400, 4), "split": "train"}
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        totals.append(watch.view("run", run).total)
    assert totals == [0, 0, 0, 5600, 5600]
    for per_epoch in (1, 2, 3, 7, 25, 390, 5004):
        for step in range(1, 3 * per_epoch, max(1, per_epoch // 9)):
            assert watch._steps_per_epoch(step, round(step / per_epoch, 4)) in (0, per_epoch)


def test_a_run_is_named_after_its_folder_from_inside_of_it(run, monkeypatch):
    monkeypatch.chdir(run)
    assert list(watch.runs_in(Path("."))) == ["lr[0.1]"]
    (run / "below").mkdir()
    monkeypatch.chdir(run / "below")
    assert list(watch.runs_in(Path(".."))) == ["lr[0.1]"]


def test_the_page_shows_the_same_and_loads_itself_again(run, tmp_path):
    record(run, 50, loss=1.0)
    watching = watch.Watch(tmp_path)  # a folder with a run in it
    watch.write_page(watching.table(watching.look()), 5.0, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert '<meta http-equiv="refresh" content="5">' in page
    text = " ".join(re.sub("<[^>]*>", "", page).split())
    assert "lr[0.1]" in text and "50 of 100" in text and "stopped" in text
    assert "0 of 1 runs are over" in text


def test_a_study_shows_runs_that_have_not_begun(tmp_path):
    save_folder(open_folder(tiny_study(seeds=(0, 1)), tmp_path, "resnet study"))
    views = watch.Watch(tmp_path).look()
    assert len(views) > 2 and {view.state for view in views} == {"not started"}
    assert all(view.name.endswith(("seed0", "seed1")) for view in views)


def test_a_curve_ends_with_its_last_value():
    assert watch._curve((), ".2f") == ""
    assert watch._curve((1.0, 3.0, 2.0), ".1f") == "▁█▅ 2.0"
    assert watch._curve((1.0, 1.0), ".1f") == "▁▁ 1.0"
    assert len(watch._curve(range(1000), ".0f")) == watch.POINTS + len(" 999")


def test_a_table_beside_runs_is_no_kept_study(tmp_path):
    """As `resnet report --runs=RUN --output=RUN` leaves it."""
    save_config(tiny_config(), tmp_path)
    (tmp_path / "runs.csv").touch()
    assert list(watch.runs_in(tmp_path)) == [tmp_path.name]


@pytest.mark.parametrize(("total", "share"), [(0, 0), (1000, 0.5)])
def test_a_bar_is_empty_while_the_end_is_unknown(run, total, share):
    views = [watch.View("run", "training", step=500, total=total)]
    (bar,) = watch.Watch(run).table(views).columns[2].cells
    assert bar.completed == share * bar.total


def test_a_folder_without_runs_is_refused(tmp_path):
    kept = Path(__file__).parents[1] / "results" / "studies" / "wide"
    with pytest.raises(InputError, match="wide only the results of runs are kept: resnet report"):
        watch.Watch(kept)
    with pytest.raises(InputError, match="holds neither runs nor a study"):
        watch.Watch(tmp_path)
