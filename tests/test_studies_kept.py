"""Studies of which runs.csv is kept, and studies trained twice."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from resnet.config import replaced, save_config
from resnet.errors import InputError
from resnet.runs.tables import csv_table
from resnet.studies import runner
from resnet.studies.folder import states
from resnet.studies.kept import load_kept, open_study
from resnet.studies.launch import launch
from resnet.studies.pages.repeated import write_repetition
from resnet.studies.pages.report import write_report
from resnet.studies.pages.rows import arm_rows, seconds_per_step
from resnet.studies.stored import load_folder, open_folder, save_folder
from resnet.studies.study import load_study, with_base

ROOT = Path(__file__).parents[1]
STUDY = """
from tests.studies_cases import tiny_study

def get_study(scale):
    return tiny_study(seeds=(0, 1, 2), learning_rates=(0.1, 0.2), grid_seeds=1)
"""
WIDE = """
def wide():
    from tests.studies_cases import tiny_config
    config = tiny_config()
    config.model.width = 0.5
    return config
"""


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "study.py"
    path.write_text(STUDY)
    return path


def fill(file, workdir, more=0.0, changes=None, command="command"):
    """A finished study that nobody trained: 0.2 is the better rate, and 0.4 is no better."""
    study = load_study(file, "small")
    folder = open_folder(with_base(study, replaced(study.base, changes or {})), workdir, command)
    save_folder(folder)
    for _ in range(3):  # the grid, what lies beyond it, and the other seeds
        for run in (run for name in folder.arms for run in folder.all_runs(name) if not run.over):
            run.workdir.mkdir(parents=True, exist_ok=True)
            save_config(folder.arms[run.arm].at(run.seed, run.learning_rate), run.workdir)
            top1 = (
                0.9
                + 0.01 * (run.learning_rate == 0.2)
                + 0.002 * run.seed**2 * (1 + (run.arm == "none"))
                + more
            )
            result = {"top1": top1, "loss": 1.0, "step": 8, "images_per_second": 400.0}
            result |= {"validation": {"top1": top1, "loss": 1.0}}
            (run.workdir / "result.json").write_text(json.dumps(result))
            record = {"step": 8, "epoch": 2.0, "split": "test"} | result
            (run.workdir / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    return folder


def test_a_kept_study_stands_on_the_base_that_its_commands_set(study_file, tmp_path):
    changes = {"train.duration": "6 steps", "train.steps_per_call": 2}
    command = "study.py '--config.train.duration=6 steps' --config.train.steps_per_call=2 --only=none"
    write_report(fill(study_file, tmp_path / "s", changes=changes, command=command))
    for file in (tmp_path / "s").rglob("*.json*"):
        file.unlink()
    kept = load_kept(tmp_path / "s", study_file, "small")
    assert kept.origin.changes == changes and kept.arms["none"].config.train.steps_per_call == 2
    page = tmp_path / "s/report.md"
    page.write_text(page.read_text().replace("steps_per_call=2", "steps_per_call=3"))
    with pytest.raises(InputError, match="had config .* train the study anew"):
        load_kept(tmp_path / "s", study_file, "small")


def test_a_study_is_kept_that_was_started_in_two_ways(study_file, tmp_path):
    """Each run's row has the config that it was trained with, and some command of the page gives it that."""
    changes = {"train.steps_per_call": 2}
    fill(study_file, tmp_path / "s", changes=changes, command="study.py --config.train.steps_per_call=2")
    shutil.rmtree(tmp_path / "s/identity/lr0.2/seed1")
    write_report(fill(study_file, tmp_path / "s", command="study.py --only=identity"))
    with (tmp_path / "s/runs.csv").open() as lines:
        hashes = {row["workdir"]: row["config_hash"] for row in csv.DictReader(lines)}
    assert hashes["identity/lr0.2/seed0"] != hashes["identity/lr0.2/seed1"]
    for file in (tmp_path / "s").rglob("*.json*"):
        file.unlink()
    kept = load_kept(tmp_path / "s", study_file, "small")
    assert kept.origin.changes == {} and kept.arms["none"].config.train.steps_per_call == 1
    page = tmp_path / "s/report.md"
    page.write_text(page.read_text().replace(" --config.train.steps_per_call=2", ""))
    with pytest.raises(InputError, match=f"seed 0 had config {hashes['identity/lr0.1/seed0']}"):
        load_kept(tmp_path / "s", study_file, "small")


def test_a_kept_study_says_what_its_folder_said(study_file, tmp_path):
    folder = fill(study_file, tmp_path / "s")
    write_report(folder)
    for file in (tmp_path / "s").rglob("*.json*"):
        file.unlink()
    kept = load_kept(tmp_path / "s", study_file, "small")
    assert kept.chosen_rate("none") == 0.2 and list(kept.grid("none")) == [0.1, 0.2, 0.4]
    before, rows = (tmp_path / "s" / "report.md").read_text(), (tmp_path / "s" / "runs.csv").read_text()
    write_report(kept)
    assert (tmp_path / "s" / "runs.csv").read_text() == rows
    tables = [page.split("## How these")[0].split("## Arms")[1] for page in (before, _page(tmp_path))]
    assert tables[0].split("![")[0] == tables[1].split("![")[0]
    assert [row.comparison is None for row in arm_rows(kept)] == [True, False]
    assert "Command: `command`" in _page(tmp_path)


def test_a_kept_page_says_that_an_arm_found_no_rate(study_file, tmp_path):
    folder = fill(study_file, tmp_path / "s")
    for _ in range(4):  # a grid of failures goes on to lower rates
        for run in folder.all_runs("none"):
            run.workdir.mkdir(parents=True, exist_ok=True)
            save_config(folder.arms["none"].at(run.seed, run.learning_rate), run.workdir)
            (run.workdir / "result.json").unlink(missing_ok=True)
            (run.workdir / "failed.json").write_text('{"failed": "loss is nan"}')
    assert folder.has_no_rate("none")
    write_report(folder)
    before, counts = _page(tmp_path), states(folder)
    for file in (tmp_path / "s").rglob("*.json*"):
        file.unlink()
    kept = load_kept(tmp_path / "s", study_file, "small")
    assert kept.has_no_rate("none") and kept.chosen_rate("none") is None
    assert states(kept) == counts and kept.grid_seeds == 1
    write_report(kept)
    assert "No learning rate is chosen for arm none" in before
    for heading in ("## Arms", "## Learning rates"):
        tables = [page.split(heading)[1].split("\n## ")[0] for page in (before, _page(tmp_path))]
        assert tables[0].split("![")[0] == tables[1].split("![")[0]


def _page(tmp_path):
    return (tmp_path / "s" / "report.md").read_text()


def test_a_kept_study_of_other_configs_is_refused(study_file, tmp_path):
    write_report(fill(study_file, tmp_path / "s"))
    study_file.write_text(STUDY.replace("seeds=(0,", "base=wide(), seeds=(0,") + WIDE)
    with pytest.raises(
        InputError, match=r"runs.csv: arm 'identity', seed 0 had config .* train the study anew"
    ):
        load_kept(tmp_path / "s", study_file, "small")
    with pytest.raises(InputError, match="study.json is missing"):
        open_study(tmp_path)


def test_a_kept_study_has_the_arms_that_it_ran(study_file, tmp_path):
    """Arms added to the file later are left out; an arm removed from it is an error."""
    write_report(fill(study_file, tmp_path / "s"))
    before = (tmp_path / "s" / "runs.csv").read_text()
    more = STUDY.replace("return tiny_study(", "study = tiny_study(")
    added = "study.arms['more'] = type(study.arms['none'])({'model.shortcut': 'rezero'})"
    study_file.write_text(f"{more}    {added}\n    return study\n")
    kept = load_kept(tmp_path / "s", study_file, "small")
    assert list(kept.arms) == ["identity", "none"]
    write_report(kept)
    assert (tmp_path / "s" / "runs.csv").read_text() == before
    study_file.write_text(more + "    del study.arms['none']\n    return study\n")
    with pytest.raises(InputError, match="runs.csv has runs of 'none', which is no arm of .*study.py"):
        load_kept(tmp_path / "s", study_file, "small")


def test_a_repetition_is_told_beside_the_seeds(study_file, tmp_path):
    first, again = fill(study_file, tmp_path / "a"), fill(study_file, tmp_path / "b", more=0.01)
    found = write_repetition(first, again, tmp_path / "page", "Twice")
    page = (tmp_path / "page" / "repeated.md").read_text()
    assert found["pairs"] == 6 and "# Twice" in page
    # Each seed gains a point: 1 / √2 from the mean of the two.
    assert "| 0.71" in page and "+1.00" in page
    assert "| 0.42" in page and "| 0.83" in page  # the deviation over seeds, twice as large for `none`
    with (tmp_path / "page" / "repeated.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert float(rows[0]["again"]) - float(rows[0]["first"]) == pytest.approx(1)


def only_the_page(workdir):
    """Deletes everything in a study's folder except runs.csv and report.md."""
    for path in workdir.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in ("runs.csv", "report.md"):
            path.unlink()


@pytest.mark.thorough
def test_a_study_goes_on_from_its_page(study_file, tmp_path, monkeypatch):
    """Counts the runs that ended on the page, in tables and for learning rates, and trains the others."""
    whole = fill(study_file, tmp_path / "whole")
    write_report(whole)
    shutil.copytree(tmp_path / "whole", tmp_path / "kept")
    for lost in ("none/lr0.2/seed2", "identity/lr0.2/seed1"):
        shutil.rmtree(tmp_path / "kept" / lost)
    write_report(load_folder(tmp_path / "kept"))
    only_the_page(tmp_path / "kept")
    study, trained = load_study(study_file, "small"), []

    def train(config, workdirs, *_, **__):
        trained.extend(workdirs.values())
        for workdir in workdirs.values():
            place = workdir.relative_to(tmp_path / "new")
            shutil.copytree(tmp_path / "whole" / place, workdir)
        return {seed: {} for seed in workdirs}

    monkeypatch.setattr(runner, "train", train)
    kept = tmp_path / "kept"
    counts = launch(study, tmp_path / "new", kept=kept, dry_run=True)
    assert counts["finished"] == 8 and not (tmp_path / "new").exists()
    assert launch(dataclasses.replace(study, seeds=(0,)), tmp_path / "new", kept=kept, dry_run=True) == counts
    launch(study, tmp_path / "new", kept=kept, only=("none",), command="command --only=none")
    launch(study, tmp_path / "new", command="again")  # without the page, which study.json has
    places = {path.relative_to(tmp_path / "new").as_posix() for path in trained}
    assert places == {"none/lr0.2/seed2", "identity/lr0.2/seed1"}
    new = load_folder(tmp_path / "new")
    write_report(new)
    times = [seconds_per_step(folder, run) for folder in (whole, new) for run in folder.runs("none")]
    assert len(set(times)) == 1 and times[0] is not None
    pages = [(tmp_path / name / "report.md").read_text() for name in ("whole", "new")]
    tables = [page.split("## How these")[0].split("## Arms")[1].split("![")[0] for page in pages]
    assert tables[0] == tables[1]
    for command in ("command", "command --only=none", "again"):
        assert f"Command: `{command}`" in pages[1]
    with (tmp_path / "whole/runs.csv").open() as first, (tmp_path / "new/runs.csv").open() as second:
        assert list(csv.DictReader(first)) == list(csv.DictReader(second))


def test_seeds_added_to_a_page_leave_the_choice_of_rates_to_its_own(study_file, tmp_path, monkeypatch):
    """The page is of before fingerprints of test images were noted."""
    write_report(fill(study_file, tmp_path / "kept"))
    path = tmp_path / "kept/runs.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    path.write_text(csv_table([{key: row[key] for key in row if key != "test_images"} for row in rows]))
    only_the_page(tmp_path / "kept")
    study, trained = dataclasses.replace(load_study(study_file, "small"), seeds=(5, 6)), []
    monkeypatch.setattr(runner, "train", lambda config, workdirs, *_, **__: trained.extend(workdirs) or {})
    launch(study, tmp_path / "new", kept=tmp_path / "kept")
    folder = load_folder(tmp_path / "new")
    assert folder.seeds == (0, 1, 2, 5, 6) and folder.chosen_rate("none") == 0.2
    assert trained == [5, 6, 5, 6]  # of both arms, at their chosen rates alone
    write_report(folder)
    assert "\nidentity,5,0.2," in (tmp_path / "new/runs.csv").read_text()


def test_what_failed_on_a_page_can_be_run_again(study_file, tmp_path, monkeypatch):
    fill(study_file, tmp_path / "kept")
    place = "none/lr0.2/seed2"
    (tmp_path / "kept" / place / "result.json").unlink()
    (tmp_path / "kept" / place / "failed.json").write_text('{"failed": "loss is nan"}')
    write_report(load_folder(tmp_path / "kept"))
    study, trained = load_study(study_file, "small"), []
    monkeypatch.setattr(runner, "train", lambda _, runs, *__, **___: trained.extend(runs.values()) or {})
    counts = launch(study, tmp_path / "new", kept=tmp_path / "kept")
    assert counts["failed"] == 1 and not trained
    launch(study, tmp_path / "new", retry=True, only=("identity",))
    assert not trained
    launch(study, tmp_path / "new", retry=True)
    assert trained == [tmp_path / "new" / place]


@pytest.mark.parametrize("field", [{"train.log_every": "3 steps"}, {"model.scan_blocks": True}])
def test_a_page_counts_whatever_no_number_depends_on(study_file, tmp_path, field):
    write_report(fill(study_file, tmp_path / "kept"))
    study = load_study(study_file, "small")
    study = with_base(study, replaced(study.base, field))
    assert launch(study, tmp_path / "new", kept=tmp_path / "kept", dry_run=True)["not started"] == 0


def test_a_page_of_another_study_does_not_count(study_file, tmp_path):
    write_report(fill(study_file, tmp_path / "kept"))
    study = load_study(study_file, "small")
    longer = with_base(study, replaced(study.base, {"train.duration": "9 steps"}))
    with pytest.raises(InputError, match=r"kept/runs.csv: arm 'identity', seed 0 had .* --config flags"):
        launch(longer, tmp_path / "new", kept=tmp_path / "kept")
    with pytest.raises(InputError, match="runs.csv has runs of 'none'; the arms are identity"):
        arms = {"identity": study.arms["identity"]}
        launch(dataclasses.replace(study, arms=arms), tmp_path / "new", kept=tmp_path / "kept")
    with pytest.raises(InputError, match="nowhere/runs.csv cannot be read"):
        launch(study, tmp_path / "new", kept=tmp_path / "nowhere")
    assert not (tmp_path / "new").exists()
