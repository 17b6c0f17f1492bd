"""What is said of a kept study whose runs.csv or report.md is damaged: one line that names the place."""

import json
import re
import shutil
from pathlib import Path

import pytest

from resnet.errors import InputError
from resnet.runs.tables import csv_table
from resnet.studies import kept
from resnet.studies.launch import launch
from resnet.studies.stored import FILE, load_folder, open_folder, save_folder
from resnet.studies.watch import Watch
from tests.studies_cases import tiny_study

STUDIES = Path(__file__).parents[1] / "results/studies"
CSV, PAGE = (STUDIES / "budgets" / name for name in (kept.CSV, kept.PAGE))


@pytest.fixture
def folder(tmp_path):
    """A copy of a kept study's folder, under the same name."""
    for path in (CSV, PAGE):
        (tmp_path / "budgets").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "budgets")
    return tmp_path / "budgets"


def of(path, old, new):
    """The content of a file with the first `old` in it replaced."""
    assert old in path.read_bytes()
    return path.read_bytes().replace(old, new, 1)


ROWS = {
    "": "runs.csv is empty",
    CSV.read_bytes().splitlines()[0] + b"\n": "runs.csv holds no runs",
    CSV.read_bytes()[:3000]: "runs.csv is cut short in its last line",
    CSV.read_bytes()[:3000] + b"\n": "runs.csv, line 11: has 21 cells, and there are 25 columns",
    CSV.read_bytes() + b"\xff\xfe": r"runs.csv, line 77: b'\xff' is no UTF-8",
    of(CSV, b"0.97", b"oops"): "runs.csv, line 4: column 'test_top1' must be a number; got 'oops",
    of(CSV, b",0.9583333333333334", b",nan"): "line 2: column 'test_top1' must be a number; got 'nan'",
    of(CSV, b",0,", b",0.5,"): "runs.csv, line 2: column 'seed' must be a whole number; got '0.5'",
    of(CSV, b",0,", b",,"): "runs.csv, line 2: column 'seed' must be a whole number; got ''",
    of(CSV, b"finished", b"finishd"): "line 2: column 'state' must be one of finished, failed, unfinished",
    of(CSV, b"False", b"false"): "line 2: column 'in_table' must be one of True, False; got 'false'",
    of(CSV, b"test_top1", b"test_top2"): "runs.csv, line 1: column 'test_top1' is missing",
    of(CSV, b",workdir", b",workdir,mine"): "runs.csv, line 1: column 'mine' is unknown",
    of(CSV, b'22",', b"22,"): "runs.csv, line 3: ',' expected after",
}


@pytest.mark.parametrize(("content", "message"), ROWS.items(), ids=range(len(ROWS)))
def test_a_damaged_table_is_one_line_that_names_the_place(folder, content, message):
    (folder / kept.CSV).write_bytes(content or b"")
    for read in (kept.open_study, Watch, lambda page: launch(tiny_study(), page / "new", kept=page)):
        with pytest.raises(InputError, match=f"{re.escape(message)}.*; take the file from version control"):
            read(folder)
    assert not (folder / "new").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "report.md is empty"),
        (PAGE.read_bytes()[:3000], "report.md is cut short in its last line"),
        (of(PAGE, b"Complete", b"\xff"), r"report.md, line 3: b'\xff' is no UTF-8"),
        (of(PAGE, b"python3 ", b"python3 '"), "report.md: the Command \"python3 'scripts/study.py "),
        (
            of(PAGE, b" --study.scale", b" --config.model.widht=1 --study.scale"),
            "unknown field `model.widht`",
        ),
    ],
)
def test_a_damaged_page_is_one_line_that_names_it(folder, content, message):
    (folder / kept.PAGE).write_bytes(content)
    expected = (
        f"report.md.*{re.escape(message.removeprefix('report.md'))}.*; take the file from version control"
    )
    with pytest.raises(InputError, match=expected):
        kept.open_study(folder)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in STUDIES.glob("*/runs.csv")))
def test_a_whole_table_is_the_same_when_it_is_written_again(name):
    path = STUDIES / name / kept.CSV
    assert csv_table(kept._rows(path)) == path.read_text()


def test_a_row_without_a_column_in_the_folder_of_a_study_is_named(tmp_path):
    save_folder(open_folder(tiny_study(), tmp_path, ""))
    path = tmp_path / FILE
    rows = {"none/seed0": {"arm": "none", "seed": 0, "state": "finished"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": rows}))
    with pytest.raises(InputError, match="study.json is unreadable: 'test_top1'"):
        load_folder(tmp_path)
