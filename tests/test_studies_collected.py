"""Runs that no study made: grouped by config, and reported like a study's."""

import csv
import dataclasses
import json
import re
import warnings

import pytest

from resnet.config import load_saved_config, replaced, save_config
from resnet.data.datasets import load_dataset
from resnet.errors import InputError
from resnet.runs.provenance import write_run_json
from resnet.runs.task import load_task, save_task, task_of
from resnet.studies.collected import collect
from resnet.studies.pages import plots
from resnet.studies.pages.report import write_report
from resnet.studies.pages.rows import TOP1, arm_rows, curve_rows, scored_runs
from tests.studies_cases import tiny_config


def finished(workdir, seed, values, width=0.25, log_every="10 steps"):
    """A run's folder, with accuracies by epoch; no values: it has begun, no more."""
    workdir.mkdir(parents=True)
    config = replaced(tiny_config(), {"seed": seed, "model.width": width, "train.log_every": log_every})
    save_config(config, workdir)
    save_task(task_of(load_dataset(config.data)), workdir)
    write_run_json(workdir, config, "python scripts/train.py")
    lines = [
        {"step": step, "epoch": float(step), "split": split, "loss": 1.0, "top1": value}
        for step, value in enumerate(values, 1)
        for split in ("train", "validation")
    ]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if values:
        result = {"top1": values[-1], "loss": 0.1, "step": len(values), "seconds": 5.0}
        (workdir / "result.json").write_text(json.dumps(result))
    return workdir


@pytest.mark.thorough
def test_runs_are_grouped_by_config_and_reported(tmp_path):
    for seed, value in enumerate((0.9, 0.8, 0.85)):
        # How often a run logged makes it no other.
        finished(tmp_path / "narrow" / f"seed{seed}", seed, [0.1, value], log_every=f"{seed + 1} steps")
    wide = finished(tmp_path / "wide", 1, [0.3, 0.7, 0.9], width=0.5)
    folder = collect([tmp_path / "narrow", wide], tmp_path / "page", "Two widths")
    assert list(folder.arms) == ["width 0.25", "width 0.5"]
    assert folder.arms["width 0.5"].parameters > folder.arms["width 0.25"].parameters
    assert write_report(folder)["finished"] == 4
    page = (tmp_path / "page" / "report.md").read_text()
    assert (
        "# Two widths" in page
        and "85.00 ± 5.00" in page
        and "Complete: 4 of 4" in page
        and "in batches of 16" in page
    )
    assert re.search(r"\| 1 +\| \+10\.00 ", page), "paired with the seed they share"
    assert page.count("`python scripts/train.py`") == 1
    names = {
        "report.md",
        "report.html",
        "runs.csv",
        "curves.csv",
        "curves.png",
        "differences.png",
        "width.png",
    }
    assert names == {path.name for path in (tmp_path / "page").iterdir()}
    assert "- Learning curves: [curves.csv](curves.csv)" in page
    rows = list(csv.DictReader((tmp_path / "page/curves.csv").read_text().splitlines()))
    numbers = ("epoch", "n", "mean", "lowest", "highest")
    asked = {"arm": "width 0.25", "split": "validation", "metric": "top1"}
    narrow = [[float(row[key]) for key in numbers] for row in rows if asked.items() <= row.items()]
    assert narrow == [[1, 3, 0.1, 0.1, 0.1], [2, 3, 0.85, 0.8, 0.9]]


@pytest.mark.parametrize("same", [True, False])
def test_the_same_images_in_other_folders_are_one_arm(tmp_path, same):
    for seed in (0, 1):
        workdir = finished(tmp_path / f"seed{seed}", seed, [0.5])
        elsewhere = {"data.name": "image_folder", "data.dir": f"/data{seed}", "data.image_size": 8}
        save_config(replaced(load_saved_config(workdir), elsewhere), workdir)
        images = {"train": "the same" if same else f"of {seed}"}
        save_task(dataclasses.replace(load_task(workdir), fingerprint=images), workdir)
    arms = collect([tmp_path], tmp_path / "page", "One or two").arms
    assert list(arms) == (["all"] if same else ["data.dir /data0", "data.dir /data1"])


def test_runs_that_nobody_asked_for_are_not_missed(tmp_path):
    runs = [finished(tmp_path / f"a{seed}", seed, [0.9]) for seed in range(3)]
    runs.append(finished(tmp_path / "b", 0, [0.8], width=0.5))
    rows = arm_rows(collect(runs, tmp_path / "page", "Runs"))
    assert [row.expected for row in rows] == [3, 1]


def test_an_unfinished_run_is_counted_as_such(tmp_path):
    runs = [finished(tmp_path / "a", 0, [0.9]), finished(tmp_path / "b", 1, [])]
    counts = write_report(collect(runs, tmp_path / "page", "Runs"))
    assert (counts["finished"], counts["unfinished"], counts["not started"]) == (1, 1, 0)
    assert "Unfinished: 1 finished, 1 unfinished" in (tmp_path / "page" / "report.md").read_text()


def test_what_cannot_be_collected_is_told(tmp_path):
    run = finished(tmp_path / "a", 0, [0.9])
    with pytest.raises(InputError, match="repeats seed 0 of .*a; name it once"):
        collect([run, run], tmp_path, "Runs")
    with pytest.raises(InputError, match="no run of ours lies in"):
        collect([tmp_path / "none"], tmp_path, "Runs")


FROZEN = "^(stem|stage1|stage2|stage3)/(block[0-9]+/)?(conv|norm)[0-9]+/(kernel|scale|bias)$"


def test_long_names_of_arms_leave_room_for_the_curves(tmp_path):
    """Arms that differ in many fields have long names; a text that one of them lacks is "none" there."""
    changes = {
        "data.augmentation": ("cutout 2",),
        "schedule.name": "constant",
        "optimizer.momentum": 0.95,
        "model.pad_mode": "average",
        "freeze": FROZEN,
    }
    runs = [finished(tmp_path / "a", 0, [0.1, 0.9]), finished(tmp_path / "b", 0, [0.2, 0.8])]
    save_config(replaced(tiny_config(), changes), runs[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = collect(runs, tmp_path / "page", "Runs")
        write_report(folder)
    assert "freeze none, " in next(iter(folder.arms)) and f"freeze {FROZEN}" in list(folder.arms)[1]


def test_a_single_record_is_drawn_as_a_point(tmp_path):
    folder = collect([finished(tmp_path / "a", 0, [0.5])], tmp_path / "page", "Runs")
    figure = plots._curves(["all"], TOP1, curve_rows(scored_runs(folder), TOP1))
    assert [line.get_marker() for axes in figure.axes for line in axes.lines] == ["o", "o"]
