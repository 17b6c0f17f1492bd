"""What a study refuses before anything is written, and what it says of files that are damaged."""

import json
import shutil
import types

import numpy as np
import pytest

from resnet.errors import InputError
from resnet.studies import runner
from resnet.studies.folder import states
from resnet.studies.launch import launch
from resnet.studies.launchers import cluster
from resnet.studies.launchers.cluster import arrays, log_patterns
from resnet.studies.pages.ledger import LEDGER, read_ledger
from resnet.studies.pages.report import CSV, HTML, PAGE, write_report
from resnet.studies.pages.rows import arm_rows
from resnet.studies.runner import Piece, pieces_of_work
from resnet.studies.stored import FILE, load_folder, open_folder, save_folder
from resnet.studies.study import JOBS_FOLDER, Arm, load_study
from tests.studies_cases import tiny_study


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": (0, 2**40)}, "`study.seeds` must be between 0 and 2,147,483,647; got 1099511627776"),
        ({"seeds": (-1,)}, "`study.seeds` must be between 0 and 2,147,483,647; got -1"),
        ({"seeds": (1.5,)}, "`Study.seeds` must be of type tuple[int, ...]; got (1.5,)"),
        ({"seeds": ("a",)}, "`Study.seeds` must be of type tuple[int, ...]; got ('a',)"),
        ({"seeds": (True,)}, "`Study.seeds` must be of type tuple[int, ...]; got (True,)"),
        ({"seeds": [0, 1]}, "`Study.seeds` must be of type tuple[int, ...]; got [0, 1]"),
        ({"grid_seeds": 1.5}, "`Study.grid_seeds` must be of type int; got 1.5"),
        (
            {"learning_rates": ("0.1",)},
            "`Study.learning_rates` must be of type tuple[float, ...]; got ('0.1',)",
        ),
        ({"arms": [Arm()]}, "`Study.arms` must be of type Mapping[str, Arm]; got [Arm("),
        ({"arms": {"a": {"model.depth": 20}}}, "`Study.arms` must be of type Mapping[str, Arm]; got {'a'"),
        ({"base": 3}, "`Study.base` must be of type Config; got 3"),
        ({"learning_rates": (0.1, 0.10000001)}, "0.1 and 0.10000001 have one folder, lr0.1"),
        ({"learning_rates": (0.1, 0.1)}, "0.1 and 0.1 have one folder, lr0.1"),
        ({"arms": {"a": Arm(), "A": Arm()}, "reference": "a"}, "'a' and 'A' are one folder where case"),
        ({"arms": {"a" * 300: Arm()}, "reference": "a" * 300}, "… of 300 letters must be a folder's name"),
        *(
            ({"arms": {name: Arm()}, "reference": name}, f"arm {name!r} has the name of a file or folder")
            for name in (FILE, PAGE, HTML, CSV, JOBS_FOLDER, "Report.MD", "curves.png")
        ),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_written(fields, message, tmp_path):
    study = tiny_study()
    for name, value in fields.items():  # what checks types in tests would say it first
        object.__setattr__(study, name, value)
    with pytest.raises(InputError) as error:
        study.__post_init__()
        launch(study, tmp_path / "s")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("Arm(chnges={})", "Arm has no field `chnges`; did you mean `changes`?"),
        ("Arm(match=Match('a', buget='macs'))", "Match has no field `buget`; did you mean `budget`?"),
        ("Arm(published=Published(eror=6))", "Published has no field `eror`; did you mean `error`?"),
        (
            "Arm()}, sedes=(1,), **{",
            "Study has no field `sedes`; did you mean `seeds` or",
        ),
        ("Arm()}, **{'refernce': 'a'", "Study has no field `refernce`; did you mean `reference`?"),
        ("Arm(depth)", "NameError: name 'depth' is not defined"),
    ],
)
def test_what_is_wrong_in_a_study_file_is_said_with_its_line(arm, message, tmp_path):
    path = tmp_path / "study.py"
    path.write_text(
        "from resnet.config import Config\nfrom resnet.studies.budget import Match\n"
        "from resnet.studies.study import Arm, Published, Study\ndef get_study(scale):\n"
        f'    return Study("t", Config(), reference="a", arms={{"a": {arm}}})\n'
    )
    with pytest.raises(InputError) as error:
        load_study(path, "small")
    assert str(error.value).startswith(f"study file {path}, line 5: {message}")


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "s").touch()
    with pytest.raises(InputError, match="cannot make the folder .*: a file lies there; choose another"):
        save_folder(open_folder(tiny_study(), tmp_path / "s", ""))


# Grids of learning rates


def end(run, top1=None):
    """A run's end that nobody trained: a result, or a failure."""
    run.workdir.mkdir(parents=True, exist_ok=True)
    result = {"top1": top1, "loss": 1.0, "step": 8, "validation": {"top1": top1}}
    name, content = ("failed.json", {"failed": "loss is nan"}) if top1 is None else ("result.json", result)
    (run.workdir / name).write_text(json.dumps(content))


@pytest.fixture
def grid(tmp_path):
    folder = open_folder(tiny_study(seeds=(0, 1, 2), learning_rates=(0.1, 10.0), grid_seeds=1), tmp_path, "")
    save_folder(folder)
    return folder


@pytest.fixture
def study_of_two_seeds(tmp_path):
    folder = open_folder(tiny_study(seeds=(0, 1), learning_rates=(0.1, 10.0), grid_seeds=2), tmp_path, "")
    save_folder(folder)
    return folder


def end_all(grid, change=lambda run: None):
    """Ends all runs of the arm `none`, also those at the lower rates that its grid then adds."""
    while waiting := [run for run in grid.all_runs("none") if not run.over]:
        for run in waiting:
            end(run)
            change(run)


def test_a_grid_of_which_all_diverged_chooses_nothing_and_trains_no_more(grid, monkeypatch, caplog):
    end_all(grid)
    assert grid.chosen_rate("none") is None and grid.has_no_rate("none")
    assert {*grid.grid("none")} == {10.0, 0.1, 0.05, 0.025, 0.0125}
    assert len(grid.all_runs("none")) == grid.expected("none") == 5
    assert [piece.arm for piece in pieces_of_work(grid)] == ["identity"]
    trained = []
    monkeypatch.setattr(runner, "train", lambda config, workdirs, *_, **__: trained.append(workdirs))
    with caplog.at_level("WARNING"):
        runner.run_piece(grid, Piece("none", ((0, 1, 2),)), "")
    assert not trained and "No learning rate is chosen for arm none: at each one a run failed" in caplog.text
    (row,) = [row for row in arm_rows(grid) if row.arm == "none"]
    assert (row.summary, row.failed, row.expected) == (None, 5, 5)
    assert states(grid)["not started"] == grid.expected("identity") == 4


def test_a_report_says_that_no_rate_is_chosen(grid):
    end_all(grid)
    write_report(grid)
    page = (grid.workdir / PAGE).read_text()
    assert "No learning rate is chosen for arm none" in page and "| chosen" not in page


def test_what_an_arm_without_a_rate_finished_is_no_result(study_of_two_seeds):
    """Its runs were at several rates, of which none is the arm's."""
    grid = study_of_two_seeds
    end_all(grid, lambda run: run.seed == 0 and end(run, 0.5))
    (row,) = [row for row in arm_rows(grid) if row.arm == "none"]
    assert grid.has_no_rate("none") and row.summary is None and row.comparison is None and row.failed == 5


def test_a_rate_that_diverged_is_not_chosen_beside_one_that_did_not(grid):
    first, second = grid.all_runs("none")
    end(first)
    assert grid.chosen_rate("none") is None and not grid.has_no_rate("none")  # not tried yet
    end(second, 0.1)
    # It is the end of the grid, so that the next is tried as well.
    assert grid.chosen_rate("none") is None and list(grid.grid("none")) == [0.1, 10.0, 20.0]
    end(grid.all_runs("none")[-1], 0.05)
    assert grid.chosen_rate("none") == 10.0 and not grid.has_no_rate("none")
    assert grid.expected("none") == 5


def test_a_grid_without_scores_chooses_nothing(grid):
    unscored = '{"top1": 0.5, "validation": {"top1": null}}'
    end_all(grid, lambda run: (run.workdir / "result.json").write_text(unscored))
    assert grid.has_no_rate("none")


# Damaged files


@pytest.fixture
def finished(tmp_path):
    folder = open_folder(tiny_study(seeds=(0,)), tmp_path / "s", "")
    save_folder(folder)
    for name, top1 in (("identity", 0.9), ("none", None)):
        (run,) = folder.runs(name)
        end(run, top1)
        session = {"command": "c", "git": None, "versions": {}, "devices": {}}
        (run.workdir / "run.json").write_text(json.dumps({"sessions": [session]}))
    return folder


FILES = ("study.json", "identity/seed0/result.json", "none/seed0/failed.json")


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_of_a_study_is_one_line_that_names_it(finished, file):
    path = finished.workdir / file
    whole, random = path.read_bytes(), np.random.default_rng(0)
    damaged = [b"", b"[]", b"null", b"1", b"[" * 100_000]
    damaged += [b"{}", b'{"sessions": []}'] if "result" not in file else []
    damaged += [whole[: random.integers(1, len(whole) - 2)] for _ in range(3)]
    damaged += [random.bytes(40) for _ in range(3)]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            write_report(load_folder(finished.workdir))
        assert str(path) in str(error.value), content[:40]
    path.write_bytes(whole)
    write_report(load_folder(finished.workdir))


def test_a_damaged_account_of_a_run_is_named_and_the_report_does_without(finished, caplog):
    path = finished.workdir / "identity/seed0/run.json"
    for content in (b"", b"[]", b"1", b"{}", path.read_bytes()[:20], np.random.default_rng(0).bytes(40)):
        path.write_bytes(content)
        caplog.clear()
        assert write_report(load_folder(finished.workdir))["finished"] == 1
        assert f"{path} is damaged" in caplog.text and path.read_bytes() == content


def test_a_study_of_a_seed_that_no_run_can_have_is_unreadable(finished):
    path = finished.workdir / FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seeds": [2**40]}))
    with pytest.raises(InputError, match="study.json is unreadable: `study.seeds` must be between"):
        load_folder(finished.workdir)


def test_a_result_without_a_score_has_empty_cells(finished):
    (finished.workdir / "identity/seed0/result.json").write_text('{"step": 8}')
    assert write_report(load_folder(finished.workdir))["finished"] == 1


def test_a_damaged_ledger_is_one_line_that_names_it(tmp_path):
    ledger = tmp_path / "ledger.csv"
    shutil.copy(LEDGER, ledger)
    whole, random = ledger.read_bytes(), np.random.default_rng(0)
    assert read_ledger(ledger)
    for content in (b"", b"a,b\n1,2\n", random.bytes(200), whole[: whole.rindex(b",") - 9], whole[300:]):
        ledger.write_bytes(content)
        with pytest.raises(InputError) as error:
            read_ledger(ledger)
        assert str(ledger) in str(error.value)


# On a cluster


def test_more_jobs_than_an_array_may_have_are_several_arrays(tmp_path, monkeypatch):
    pieces = [Piece("a", ((seed,),)) for seed in range(1_002)]
    assert [len(part) for part in arrays(pieces, 1_001)] == [1_001, 1]
    assert [len(part) for part in arrays(pieces, None)] == [1_002] and arrays([], None) == []
    folder = open_folder(tiny_study(), tmp_path, "")
    said = {"scontrol": "MaxArraySize            = 3\nMaxDBDMsgs = 1\n", "squeue": ""}
    monkeypatch.setattr(
        cluster.subprocess, "run",
        lambda command, **_: types.SimpleNamespace(stdout=said[command[0]], returncode=0),
    )  # fmt: skip
    submitted = []

    def map_array(function, workdirs, pieces, commands):
        if len(submitted) == 2:
            raise RuntimeError("no more")
        submitted.append(pieces)
        return [types.SimpleNamespace(job_id=f"{len(submitted)}_{i}") for i in range(len(pieces))]

    monkeypatch.setattr(cluster, "_executor", lambda *_: types.SimpleNamespace(map_array=map_array))
    assert cluster.submit(folder, pieces[:5], {}, "")["submitted"] == ["1_0", "1_1", "1_2", "2_0", "2_1"]
    assert list(map(len, submitted)) == [3, 2]
    submitted[:] = submitted[:1]
    with pytest.raises(InputError, match="sbatch refused the jobs: no more"):
        cluster.submit(folder, pieces[:7], {}, "")
    # What was submitted before is known.
    assert len(json.loads((tmp_path / JOBS_FOLDER / cluster.JOBS).read_text())) == 3


def test_percent_signs_in_a_workdir_are_no_patterns_of_slurm(tmp_path):
    assert log_patterns(tmp_path / "50 %x")["error"] == f"{tmp_path}/50 %%x/%A_%a_0_log.err"
    for name in ("%j", "a%Ab", "a\\b", "a\nb"):
        with pytest.raises(InputError, match="read .* as a pattern; choose another workdir"):
            log_patterns(tmp_path / name)


def test_damaged_notes_on_jobs_are_one_line(tmp_path):
    (tmp_path / JOBS_FOLDER).mkdir()
    for content in ("", "[]", '{"1_0": {}}', '{"1_0": 5}'):
        (tmp_path / JOBS_FOLDER / cluster.JOBS).write_text(content)
        with pytest.raises(InputError, match="jobs.json is unreadable: .*; delete it once no job"):
            cluster._jobs(tmp_path)
