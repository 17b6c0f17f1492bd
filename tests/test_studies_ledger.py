"""The ledger: verdicts by rule, rows from folders, and rows that no config stands behind any more."""

import dataclasses
import json

import numpy as np
import pytest

from resnet.config import save_config
from resnet.errors import InputError
from resnet.runs.task import Task, save_task
from resnet.studies.kept import STUDIES
from resnet.studies.pages import effects
from resnet.studies.pages.effects import judged
from resnet.studies.pages.ledger import LEDGER, outdated, read_ledger
from resnet.studies.pages.ledger_page import page
from resnet.studies.pages.recording import add_what_was_not_run, record
from resnet.studies.pages.verdict import NOT_RUN, REPRODUCED, REVERSED, UNDECIDED, Outcome, judge
from resnet.studies.stored import load_folder, open_folder, save_folder
from resnet.studies.study import Arm, Origin, Published, load_study, study_of
from tests.studies_cases import tiny_study

TASK = Task("classification", (8, 8, 1), ("0", "1"), np.zeros(1), np.ones(1))
STUDY = """
import dataclasses
from resnet.studies.study import Arm, Published
from tests.studies_cases import tiny_study

def get_study(scale):
    claims = {"identity": Published(6.61), "none": Published(above=20, words="fail"), "other": None}
    changes = {"none": {"model.shortcut": "none"}, "other": {"model.pad_side": "both"}}
    arms = {name: Arm(changes.get(name, {}), published=claim) for name, claim in claims.items()}
    return tiny_study(arms=arms, seeds=(0, 1, 2), paper="He 2016", table="Table 1")
"""


def outcome(error=6.5, difference=None, low=None, high=None, n=5, failed=0, p=0.001, pairs=None, **more):
    """An arm whose difference is told from zero, unless `p` says otherwise; all its seeds have pairs."""
    found = {"error": error, "n": n, "failed": failed, "runs": n + failed, "reference_n": 5} | more
    found |= {"difference": difference, "pairs": pairs or n, "low": low, "high": high, "detectable": 1.5}
    return Outcome(p=None if low is None else p, **found)


WORSE = Published(than_reference="worse")
NUMBER, HIGHER, LOWER, FAILS = Published(6.61), Published(8.17), Published(6.37), Published(above=20)


@pytest.mark.parametrize(
    ("claim", "reference", "ours", "exact", "verdict", "reason"),
    [
        (NUMBER, None, outcome(6.9), True, REPRODUCED, "+0.29 points"),
        (NUMBER, None, outcome(7.3), True, UNDECIDED, "+0.69 points off"),
        # A number that is met, by one run of five, or in the other order than the paper's.
        (NUMBER, None, outcome(6.9, n=1, failed=4), True, UNDECIDED, "4 of 5 runs failed"),
        (
            LOWER,
            NUMBER,
            outcome(6.5, 0.1, -0.2, 0.4, p=0.5),
            True,
            UNDECIDED,
            "the order of the two arms is not",
        ),
        (LOWER, NUMBER, outcome(6.5, 0.3, 0.2, 0.4), True, REVERSED, "lower error expected"),
        (LOWER, NUMBER, outcome(6.5, -0.1, -0.3, 0.1, p=0.3), True, REPRODUCED, "+0.13 points off"),
        (HIGHER, NUMBER, outcome(12, 2, 1, 3), True, UNDECIDED, "+3.83 points off the published"),
        (FAILS, NUMBER, outcome(None, n=0, failed=5), True, REPRODUCED, "5 of 5 runs failed"),
        (FAILS, NUMBER, outcome(25), True, REPRODUCED, "the error is 25.00 %"),
        (FAILS, NUMBER, outcome(12), True, REVERSED, "stays below 20 %"),
        (FAILS, NUMBER, outcome(12, n=1, failed=4), True, UNDECIDED, "others stays below 20 %; 4 of 5 runs"),
        (NUMBER, None, outcome(6.6), False, "", ""),
        # The order is the paper's: so must be the size, where the paper has one.
        (HIGHER, NUMBER, outcome(5, 2, 1, 3), False, REPRODUCED, "+2.00 points, the paper +1.56"),
        (HIGHER, NUMBER, outcome(60, 53, 48, 57), False, UNDECIDED, "the paper +1.56: the order is the"),
        (HIGHER, NUMBER, outcome(5, 0.2, 0.1, 0.3), False, UNDECIDED, "the size is not"),
        (FAILS, NUMBER, outcome(60, 53, 48, 57), False, REPRODUCED, "the paper more than +13.39"),
        (FAILS, NUMBER, outcome(5, 2, 1, 3), False, UNDECIDED, "the paper more than +13.39: the order"),
        (LOWER, HIGHER, outcome(5, -2, -3, -1), False, REPRODUCED, "lower error, as published: -2.00"),
        (WORSE, None, outcome(5, 2, 1, 3), False, REPRODUCED, "the paper gives no size"),
        # What n could have shown; differences without a spread.
        (HIGHER, NUMBER, outcome(5, 2, -1, 3, p=0.2), False, UNDECIDED, "show a difference of 1.50"),
        (HIGHER, NUMBER, outcome(5, 2, 1, 3, p=0.06), False, UNDECIDED, "p = 0.06 over the ledger"),
        (HIGHER, NUMBER, outcome(5, 2, n=1), False, UNDECIDED, "1 runs without a spread"),
        (HIGHER, NUMBER, outcome(5, -2, -3, -1), False, REVERSED, "the difference is -2.00 points"),
        (NUMBER, NUMBER, outcome(5, 2, 1, 3), False, "", ""),
        (NUMBER, FAILS, outcome(5, 2, 1, 3), False, "", ""),
        # Failed runs support a higher error and never a lower one.
        (FAILS, NUMBER, outcome(None, n=0, failed=5), False, REPRODUCED, "5 of 5 runs failed"),
        (LOWER, NUMBER, outcome(None, n=0, failed=5), False, REVERSED, "5 of 5 runs failed"),
        (LOWER, NUMBER, outcome(5, -2, -3, -1, n=4, failed=1), False, UNDECIDED, "1 of 5 runs failed"),
        # But only if all failed, and the reference did not.
        (FAILS, NUMBER, outcome(None, n=0, failed=5, runs=15), False, UNDECIDED, "no learning rate could be"),
        (LOWER, NUMBER, outcome(None, n=0, failed=5, runs=15), False, UNDECIDED, "5 of 15 runs failed"),
        (FAILS, NUMBER, outcome(None, n=0, failed=5, reference_n=0), False, UNDECIDED, "of its reference"),
        # Nor may the failures of either arm be left out where they speak against the difference.
        (WORSE, None, outcome(5, 2, 1, 3, pairs=2), False, UNDECIDED, "leaves out 3 runs of the reference"),
        (LOWER, NUMBER, outcome(5, 2, 1, 3, pairs=2), False, UNDECIDED, "3 runs of the reference"),
        (WORSE, None, outcome(5, -2, -3, -1, n=2, failed=3), False, UNDECIDED, "3 runs of the arm"),
        (WORSE, None, outcome(5, 2, 1, 3, n=2, failed=3), False, REPRODUCED, "the paper gives no size"),
    ],
)
def test_verdicts_follow_from_the_numbers(claim, reference, ours, exact, verdict, reason):
    found = judge(claim, reference, ours, exact=exact)
    assert found[0] == verdict and reason in found[1]


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "claims.py"
    path.write_text(STUDY)
    return path


def fill(file, workdir, scale, top1):
    """A study's folder with results that nobody trained."""
    folder = open_folder(load_study(file, scale), workdir, "command")
    save_folder(folder)
    for name in folder.arms:
        # The grid first, if there is one, and then those at the rate chosen.
        for run in (run for _ in range(2) for run in folder.all_runs(name)):
            run.workdir.mkdir(parents=True, exist_ok=True)
            save_config(folder.arms[name].at(run.seed, run.learning_rate), run.workdir)
            result = {"top1": top1[name] + (0.001 if name == "identity" else 0.0015) * run.seed, "step": 8}
            validation = {"validation": {"top1": top1[name]}}
            (run.workdir / "result.json").write_text(json.dumps(result | validation))
            metrics = {"step": 8, "epoch": 2.0, "split": "test"} | result
            (run.workdir / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
            task = dataclasses.replace(TASK, fingerprint={"test": IMAGES})
            save_task(task, run.workdir)
            git = {"commit": "a" * 40, "dirty": False}
            (run.workdir / "run.json").write_text(json.dumps({"sessions": [{"git": git}]}))


IMAGES = "360 images, sha256 0123456789abcdef"
TOP1 = {"identity": 0.932, "none": 0.1, "other": 0.9}


def test_a_finished_study_is_recorded_with_all_that_a_row_needs(study_file, tmp_path, monkeypatch):
    monkeypatch.setitem(effects.PAPERS_IMAGES, "digits", IMAGES)
    ledger = tmp_path / "ledger.csv"
    fill(study_file, tmp_path / "paper", "paper", TOP1)
    fill(study_file, tmp_path / "small", "small", {"identity": 0.95, "none": 0.8, "other": 0.9})
    for workdir in ("paper", "small", "paper"):  # what is recorded twice is there once
        record(tmp_path / workdir, ledger)
    rows = {(row.scale, row.arm): row for row in read_ledger(ledger)}
    assert len(rows) == len(read_ledger(ledger)) == 3
    identity, none = rows["paper", "identity"], rows["paper", "none"]
    assert (identity.verdict, identity.published, round(identity.error, 2)) == (REPRODUCED, "6.61", 6.70)
    assert (none.verdict, none.published, none.reference) == (REPRODUCED, "> 20 (fail)", "identity")
    small = rows["small", "none"]
    assert (small.verdict, small.n, small.data, small.epochs) == (REPRODUCED, 3, "digits, 64 images", "2")
    assert small.low < small.difference < small.high and small.detectable > 0
    assert small.difference == pytest.approx(15, abs=0.1) and small.commit == "a" * 40 and small.p_holm < 0.01
    assert not outdated(rows.values())
    text = page(list(rows.values()))
    assert "## He 2016, Table 1" in text and "6.70 ± 0.10" in text and "aaaaaaaa" in text


def test_an_arm_waits_for_its_reference(study_file, tmp_path):
    """Of a reference that is half done there are too few pairs."""
    ledger = tmp_path / "ledger.csv"
    fill(study_file, tmp_path / "s", "small", {"identity": 0.95, "none": 0.8, "other": 0.9})
    result = tmp_path / "s" / "identity" / "seed2" / "result.json"
    result.rename(tmp_path / "result.json")
    assert record(tmp_path / "s", ledger) == []
    (tmp_path / "result.json").rename(result)
    assert [row.arm for row in record(tmp_path / "s", ledger)] == ["none"]


@pytest.mark.parametrize(
    ("known", "changes", "apart"),
    [
        ({}, {}, "no fingerprint of the paper's digits is noted"),
        ({"digits": "360 images, sha256 other"}, {}, f"the test images ({IMAGES}) are not those of digits"),
        ({"digits": IMAGES}, {"data.name": "synthetic"}, "data.name is not the paper's"),
        ({"digits": IMAGES}, {"train.duration": "4 steps"}, "train.duration is not the paper's"),
        ({"digits": IMAGES}, {"parallel.native": False, "train.log_every": "7 steps"}, ""),
    ],
)
def test_errors_compare_with_the_papers_on_its_own_images_alone(
    study_file, known, changes, apart, monkeypatch
):
    monkeypatch.setattr(effects, "PAPERS_IMAGES", known)
    study = study_of(Origin(str(study_file), "paper", changes))
    found = effects.what_sets_apart(study, study.arms["identity"], IMAGES)
    assert apart in found and bool(apart) == bool(found)
    other = Arm(published=Published(6.61, same_recipe=False))
    assert effects.what_sets_apart(study, other, IMAGES) == "the paper's recipe is another"


def test_a_study_that_chooses_its_learning_rates_is_judged_by_order_alone(study_file, tmp_path, monkeypatch):
    monkeypatch.setitem(effects.PAPERS_IMAGES, "digits", IMAGES)
    study_file.write_text(STUDY.replace("seeds=(0, 1, 2),", "seeds=(0, 1, 2), learning_rates=(0.1, 0.2),"))
    fill(study_file, tmp_path / "s", "paper", {"identity": 0.932, "none": 0.7, "other": 0.9})
    # 6.8 % stand beside 6.61 %, and 30 % are beyond 20 %.
    identity, none = record(tmp_path / "s", tmp_path / "ledger.csv")
    assert (identity.verdict, none.verdict) == (UNDECIDED, REPRODUCED)
    assert all("each arm chose its learning rate" in row.reason for row in (identity, none))


@pytest.mark.parametrize(
    "differs", [{"config_hash": "another"}, {"learning_rate": "0.3"}, {"reference_rate": "0.3"}], ids=str
)
def test_an_effect_that_two_rows_measure_counts_once(study_file, tmp_path, differs):
    fill(study_file, tmp_path / "s", "small", {"identity": 0.95, "none": 0.8, "other": 0.9})
    (row,) = record(tmp_path / "s", tmp_path / "ledger.csv")
    assert row.learning_rate == row.reference_rate != ""
    rows = [dataclasses.replace(row, p=0.02), dataclasses.replace(row, p=0.03, table="Table 9")]
    assert [each.p_holm for each in judged(rows)] == [0.03, 0.03]
    other = dataclasses.replace(row, p=0.04, **differs)
    found = judged([*rows, other])
    assert [each.p_holm for each in found] == pytest.approx([0.06, 0.06, 0.06])
    assert {each.verdict for each in found} == {
        UNDECIDED
    }  # with one effect, all of them would be told from zero
    assert "| undecided | 3 | 2 |" in " ".join(page(found).split())


def test_claims_without_runs_say_what_they_would_take(study_file, tmp_path):
    ledger = tmp_path / "ledger.csv"
    rows = add_what_was_not_run(ledger, [study_file])
    assert [(row.arm, row.verdict) for row in rows] == [("identity", NOT_RUN), ("none", NOT_RUN)]
    assert rows[0].reason.startswith("3 runs of 8 steps, ")
    fill(study_file, tmp_path / "s", "paper", {"identity": 0.932, "none": 0.1, "other": 0.9})
    record(tmp_path / "s", ledger)
    assert NOT_RUN not in {row.verdict for row in add_what_was_not_run(ledger, [study_file])}


def test_a_study_that_has_no_file_or_another_one_by_now_is_refused(study_file, tmp_path):
    save_folder(open_folder(tiny_study(), tmp_path / "python", ""))
    with pytest.raises(InputError, match="holds a study without a file"):
        record(tmp_path / "python")
    fill(study_file, tmp_path / "s", "small", {"identity": 0.9, "none": 0.8, "other": 0.9})
    study_file.write_text(STUDY.replace("both", "end"))
    with pytest.raises(InputError, match="arm 'other' of .* is not the one in"):
        record(tmp_path / "s", tmp_path / "ledger.csv")


def test_a_row_notices_that_its_config_is_another_or_gone(study_file, tmp_path):
    fill(study_file, tmp_path / "s", "small", {"identity": 0.9, "none": 0.8, "other": 0.9})
    (row,) = record(tmp_path / "s", tmp_path / "ledger.csv")
    assert row.arm == "none"
    gone = str(tmp_path / "gone.py")
    others = [
        dataclasses.replace(row, **change) for change in ({"config_hash": "0"}, {"arm": "x"}, {"study": gone})
    ]
    reasons = list(outdated([row, *others]).values())
    for reason, words in zip(reasons, ("its config hashes to", "no such arm", "does not exist"), strict=True):
        assert words in reason


def test_changes_of_the_command_line_are_part_of_a_row(study_file, tmp_path):
    fill(study_file, tmp_path / "s", "small", {"identity": 0.9, "none": 0.8, "other": 0.9})
    (row,) = record(tmp_path / "s", tmp_path / "ledger.csv")
    origin = dataclasses.replace(row, changes='{"model.blocks": [1, 2, 1]}').origin
    study = study_of(origin)
    assert study.base.model.blocks == (1, 2, 1) and study.origin == origin
    assert load_folder(tmp_path / "s").origin.changes == {}


@pytest.mark.parametrize(
    ("published", "text"),
    [
        (Published(6.61), "6.61"),
        (Published(6.61, words="median of 5"), "6.61 (median of 5)"),
        (Published(6.61, words="6.61 ± 0.16, 5 runs"), "6.61 ± 0.16, 5 runs"),
        (Published(above=20, words="fail (> 20 %)"), "fail (> 20 %)"),
        (Published(than_reference="worse"), "worse"),
    ],
)
def test_a_claim_is_told_in_the_words_of_its_paper(published, text):
    assert str(published) == text


@pytest.mark.thorough
def test_every_row_of_our_ledger_has_its_config_and_every_claim_its_row():
    """After a change of a study: python scripts/report.py --ledger, and run again what it names."""
    rows = read_ledger()
    assert outdated(rows) == {}
    told = {(row.study, row.arm) for row in rows if row.scale == "paper"}
    for file in STUDIES.glob("*.py"):
        try:
            arms = load_study(file, "paper").arms
        except InputError as error:  # A study at no scale of a paper has no claims.
            assert "`study.scale` must be one of small; got 'paper'" in str(error)
            continue
        claims = {(f"configs/studies/{file.name}", name) for name in arms if arms[name].published is not None}
        assert claims <= told, "python scripts/report.py --ledger"


def test_our_verdicts_follow_from_their_rows():
    rows = read_ledger()
    assert judged(rows) == rows, "python scripts/report.py --ledger"


def test_the_page_of_our_ledger_is_that_of_its_rows():
    """But for the order of lines: the page has the arms in their study's order, the file by name."""
    kept, made = LEDGER.with_suffix(".md").read_text(), page(read_ledger())
    assert sorted(kept.splitlines()) == sorted(made.splitlines()), "python scripts/report.py --ledger"
