"""The report of a study that is half finished: it says so, and every failure is a row."""

import csv
import json
import re
from pathlib import Path

import pytest

from resnet.config import save_config
from resnet.errors import InputError
from resnet.studies.folder import StudyRun
from resnet.studies.kept import open_study
from resnet.studies.pages import plots
from resnet.studies.pages.report import write_report
from resnet.studies.pages.rows import TOP1, arm_rows, curve_rows
from resnet.studies.pages.statistics import holm
from resnet.studies.stored import load_folder, open_folder, save_folder
from resnet.studies.study import Arm
from tests.studies_cases import tiny_study

ROOT = Path(__file__).parents[1]


def finish(folder, name, seed, top1):
    run = folder.run(name, seed, None)
    run.workdir.mkdir(parents=True)
    save_config(folder.arms[name].at(seed), run.workdir)
    result = {"top1": top1, "loss": 0.1, "step": 8, "validation": {"top1": top1}, "images_per_second": 9.0}
    (run.workdir / "result.json").write_text(json.dumps(result))
    lines = [
        {"step": step, "epoch": step / 4, "split": split, "loss": 1.0, "top1": top1}
        for step in (4, 8)
        for split in ("train", "validation")
    ]
    (run.workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.thorough
def test_a_half_finished_study_reports_and_says_so(tmp_path):
    folder = open_folder(tiny_study(seeds=(0, 1, 2)), tmp_path, "python scripts/study.py")
    save_folder(folder)
    assert "Unfinished" in (write_report(load_folder(tmp_path)), (tmp_path / "report.md").read_text())[1]
    for seed, (identity, none) in enumerate([(0.9, 0.8), (0.95, 0.75)]):
        finish(folder, "identity", seed, identity)
        finish(folder, "none", seed, none)
    failed = folder.run("none", 2, None).workdir
    failed.mkdir(parents=True)
    save_config(folder.arms["none"].at(2), failed)
    (failed / "failed.json").write_text(json.dumps({"failed": "loss is nan <at> step 3"}))
    counts = write_report(load_folder(tmp_path))
    assert (counts["finished"], counts["failed"], counts["not started"]) == (4, 1, 1)
    page, html = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    assert "**Unfinished: 4 finished, 1 failed, 1 not started, of 6 runs" in page
    assert re.search(r"\| 2 +\| -15\.00 +\| -78.53 to \+48.53 ", page)
    assert "loss is nan &lt;at> step 3" in page
    assert "loss is nan &lt;at&gt; step 3" in html and "data:image/png;base64," in html
    rows = list(csv.DictReader((tmp_path / "runs.csv").read_text().splitlines()))
    assert [row["state"] for row in rows].count("failed") == 1 and len(rows) == 6


def test_p_values_are_corrected_for_all_comparisons(tmp_path):
    arms = {name: Arm() for name in ("identity", "none", "other")}
    folder = open_folder(tiny_study(arms=arms, seeds=(0, 1, 2)), tmp_path, "")
    for seed, scores in enumerate([(0.9, 0.8, 0.89), (0.92, 0.81, 0.9), (0.91, 0.83, 0.88)]):
        for name, top1 in zip(arms, scores, strict=True):
            finish(folder, name, seed, top1)
    reference, *others = arm_rows(folder)
    ps = [row.comparison.p for row in others if row.comparison]
    assert reference.p_holm is None and len(set(ps)) == 2
    assert [row.p_holm for row in others] == pytest.approx(holm(ps))
    assert min(row.p_holm for row in others) == pytest.approx(2 * min(ps))


@pytest.mark.thorough
def test_every_study_in_results_can_be_reported_anew():
    """Its configs are those of its file, up to fields that were renamed, and its means those of its page."""
    folders = sorted(path.parent for path in (ROOT / "results/studies").glob("*/runs.csv"))
    assert len(folders) > 20
    for folder in folders:
        page = (folder / "report.md").read_text("utf-8")
        try:
            study = open_study(folder)
        except InputError as error:  # images in a folder of the user's, whose classes a net must know
            assert "--config.data.name=image_folder" in page
            assert "`data.dir`: there is no folder or tar" in str(error)
            continue
        for row in arm_rows(study):
            if row.summary and row.summary.n > 1:
                mean = f"{row.summary.mean:.2f} ± {row.summary.std:.2f}"
                line = rf"^\| {re.escape(row.arm)} +\|.*\| {mean} "
                assert re.search(line, page, re.MULTILINE), (folder, row)


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(InputError, match="study.json is missing"):
        write_report(load_folder(tmp_path))


@pytest.mark.thorough
def test_a_difference_of_nothing_has_no_minus(tmp_path):
    folder = open_folder(tiny_study(), tmp_path, "python scripts/study.py")
    save_folder(folder)
    for seed, (identity, none) in enumerate([(0.5 + 1e-9, 0.5), (0.75, 0.75)]):
        finish(folder, "identity", seed, identity)
        finish(folder, "none", seed, none)
    write_report(load_folder(tmp_path))
    page = (tmp_path / "report.md").read_text()
    assert re.search(r"\| 2 +\| \+0\.00 ", page) and "-0.00" not in page


def test_curves_are_of_the_runs_whose_records_are_there(tmp_path):
    """Of one arm no run has any, of the other one of two: the rest are rows of a page alone."""
    (tmp_path / "own").mkdir()
    values = {"loss": 1.0, "top1": 0.5}
    records = [{"step": e, "split": s, "epoch": e} | values for s in ("train", "validation") for e in (1, 2)]
    (tmp_path / "own/metrics.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))
    both = [
        StudyRun("none", i, None, tmp_path / name, "finished", {}) for i, name in enumerate(("kept", "own"))
    ]
    curves = curve_rows({"identity": both[:1], "none": both}, TOP1)
    figure = plots._curves(["identity", "none"], TOP1, curves)
    assert [[line.get_label() for line in axes.lines] for axes in figure.axes] == [["none (n = 1)"]] * 2
