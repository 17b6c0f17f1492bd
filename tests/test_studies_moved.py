"""A study that goes on from its page elsewhere, or beside another start of it."""

import csv
import dataclasses
import json
import re
import threading

import pytest

from resnet.cli.options import override
from resnet.config import Config, field_values, replaced, save_config
from resnet.data.datasets import load_dataset
from resnet.errors import InputError
from resnet.runs.tables import csv_table
from resnet.runs.task import load_run_data
from resnet.studies import launch as launching
from resnet.studies import runner
from resnet.studies.kept import _set_by, load_kept, with_kept
from resnet.studies.launch import launch
from resnet.studies.pages.repeated import write_repetition
from resnet.studies.pages.report import write_report
from resnet.studies.stored import load_folder, locked, open_folder
from resnet.studies.study import Arm, load_study, study_of, with_base
from resnet.training import loop
from tests.folder_cases import two_classes
from tests.studies_cases import tiny_config, tiny_study
from tests.test_studies_kept import STUDY, fill, only_the_page


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "study.py"
    path.write_text(STUDY, encoding="utf-8")
    return path


@pytest.mark.thorough
def test_a_study_goes_on_from_its_page_with_images_elsewhere(file, tmp_path):
    """The folder that the page names need not be there."""
    of_files = {"data.name": "image_folder", "data.train_limit": 0, "train.batch_size": 4}
    there, here = (of_files | {"data.dir": str(two_classes(tmp_path / name))} for name in ("there", "here"))
    command = " ".join(f"--config.{name}={value}" for name, value in there.items())
    write_report(fill(file, tmp_path / "kept", changes=there, command=command))
    (tmp_path / "there").rename(tmp_path / "gone")
    study = load_study(file, "small")
    study = with_base(study, replaced(study.base, here))
    assert launch(study, tmp_path / "new", kept=tmp_path / "kept", dry_run=True)["not started"] == 0


@pytest.mark.parametrize(
    "argument",
    [
        "--config.parallel.native=false", "--noconfig.parallel.native", "-config.parallel.keep_memory=False",
        "--config.data.flip", "--config.model.scan_blocks=true", "--config.records.boards=tensorboard,mlflow",
        "--config.data.classes=1,2", "--config.data.mean=0.5,0.5,0.5", "--config.data.std=",
        "--config.seed=3", "--config.train.duration=8 steps", "--config.data.dir=1",
        "--config.optimizer.weight_decay=3e-4",
        "--config.schedule.milestones=50 %,75 %", "--config.data.augmentation=('random_crop 4', 'flip')",
        "--config.train.smaller_until=(('2 epochs', 16),)",
    ],
)  # fmt: skip
def test_commands_on_a_page_are_read_as_the_command_line_reads_them(argument, tmp_path):
    quoted = argument.replace("'", "'\"'\"'")
    ((name, value),) = _set_by(f"study.py '{quoted}'", tmp_path).items()
    fields = {"data.name": "image_folder", "data.dir": "x", "data.image_size": 32, "schedule.name": "step"}
    with_data = replaced(Config(), fields | {"schedule.milestones": ("90 %",)})
    assert replaced(with_data, {name: value}) == override(with_data, [argument])
    assert field_values(replaced(with_data, {name: value})) != field_values(with_data) or value == ()


def test_a_start_beside_another_keeps_what_that_one_wrote(tmp_path, monkeypatch):
    """Lets another start write its seeds between the reading and the writing of this one."""
    monkeypatch.setattr(runner, "train", lambda *_, **__: {})
    begun, with_kept = [], launching.with_kept

    def slowly(*arguments):
        found = with_kept(*arguments)
        if not begun:
            begun.append(True)
            launch(tiny_study(seeds=(7,)), tmp_path, command="the other")
        return found

    monkeypatch.setattr(launching, "with_kept", slowly)
    launch(tiny_study(seeds=(0, 1)), tmp_path, command="this one")
    folder = load_folder(tmp_path)
    assert set(folder.seeds) == {0, 1, 7}
    assert [session["command"] for session in folder.sessions] == ["the other", "this one"]


def test_tuples_that_a_command_set_are_tuples_again(file, tmp_path):
    changes = {"data.classes": ("1", "2"), "optimizer.lr_multipliers": (("^head/", 2.0),)}
    fill(file, tmp_path / "s", changes=changes)
    origin = load_folder(tmp_path / "s").origin
    assert origin is not None and origin.changes == changes
    assert study_of(origin).base.data.classes == ("1", "2")


def test_an_arm_without_a_rate_is_not_compared_with_itself(file, tmp_path):
    first, again = fill(file, tmp_path / "a"), fill(file, tmp_path / "b")
    for result in (tmp_path / "b" / "none").glob("lr*/seed0/result.json"):
        result.with_name("failed.json").write_text(json.dumps({"failed": "nan", "step": 1}), "utf-8")
        result.unlink()
    assert write_repetition(first, again, tmp_path / "page", "Twice")["pairs"] == 3
    with pytest.raises(InputError, match="no two finished seeds of an arm in common"):
        other = fill(file, tmp_path / "c")
        for result in (tmp_path / "c").glob("*/lr*/seed0/result.json"):
            result.unlink()
        write_repetition(first, other, tmp_path / "page", "Twice")


@pytest.mark.thorough
def test_the_page_of_a_study_that_went_on_elsewhere_needs_the_last_folder_alone(file, tmp_path):
    of_files = {"data.name": "image_folder", "data.train_limit": 0, "train.batch_size": 4}
    there, here = (of_files | {"data.dir": str(two_classes(tmp_path / name))} for name in ("there", "here"))
    commands = [
        " ".join(f"--config.{name}={value}" for name, value in each.items()) for each in (there, here)
    ]
    write_report(fill(file, tmp_path / "kept", changes=there, command=commands[0]))
    (tmp_path / "there").rename(tmp_path / "gone")
    study = load_study(file, "small")
    study = with_base(study, replaced(study.base, here))
    launch(study, tmp_path / "new", kept=tmp_path / "kept", command=commands[1])
    write_report(load_folder(tmp_path / "new"))
    only_the_page(tmp_path / "new")
    assert (
        len(load_kept(tmp_path / "new", file, "small").rows) == len(load_folder(tmp_path / "kept").arms) * 5
    )


def test_a_study_goes_on_with_the_test_images_of_its_page_alone(file, tmp_path):
    write_report(fill(file, tmp_path / "kept"))
    path = tmp_path / "kept/runs.csv"
    rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    path.write_text(csv_table([row | {"test_images": "9 images, sha256 0"} for row in rows]), "utf-8")
    only_the_page(tmp_path / "kept")
    study = dataclasses.replace(load_study(file, "small"), seeds=(5,))
    data = study.base.data
    now = load_dataset(data).fingerprint["test"]
    with pytest.raises(
        InputError, match=f"other runs: 9 images, sha256 0 there, {now} here. Name the folder"
    ):
        launch(study, tmp_path / "new", kept=tmp_path / "kept")
    assert not [*(tmp_path / "new").rglob("config.json")]
    assert load_run_data(data, [], {now, "9 images, sha256 0"}).fingerprint["test"] == now


def test_a_start_waits_while_another_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "train", lambda *_, **__: {})
    start = threading.Thread(target=launch, args=(tiny_study(), tmp_path))
    with locked(tmp_path):
        start.start()
        start.join(1.0)
        assert start.is_alive() and not (tmp_path / "study.json").exists()
    start.join(60)
    assert not start.is_alive() and (tmp_path / "study.json").exists()


def test_what_is_left_of_a_group_is_trained_as_part_of_it(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(
        runner, "train", lambda _, workdirs, __, began, **___: trained.append((len(workdirs), began)) or {}
    )
    study = tiny_study(arms={"identity": Arm()}, reference="identity", seeds=(0, 1, 2))
    launch(study, tmp_path)
    done = tmp_path / "identity/seed1"
    done.mkdir(parents=True)
    save_config(dataclasses.replace(tiny_config(), seed=1), done)
    (done / "result.json").write_text(json.dumps({"top1": 0.5, "validation": {"top1": 0.5}, "step": 8}))
    launch(study, tmp_path)
    assert trained == [(3, 3), (2, 3)]


def test_devices_share_batches_as_by_all_seeds(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(loop, "devices_for", lambda *counts: asked.append(counts[:2]) or 1)
    monkeypatch.setattr(loop, "make_trainer", lambda *_: (_ for _ in ()).throw(InputError("enough")))
    workdirs = {seed: tmp_path / str(seed) for seed in (0, 2)}
    for began in (0, 4):
        with pytest.raises(InputError, match="enough"):
            loop.train(tiny_config(), workdirs, began=began)
    assert asked == [(2, 2), (2, 4)]


def test_kept_runs_say_nothing_of_the_speed_here(file, tmp_path, caplog):
    write_report(fill(file, tmp_path / "kept"))
    path = tmp_path / "kept/runs.csv"
    rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    # Nor does a test loss that is no number make a score one of validation.
    kept = [row | {"seconds": "1.0", "test_top1": "0.25", "test_loss": ""} for row in rows]
    path.write_text(csv_table(kept), "utf-8")
    only_the_page(tmp_path / "kept")
    study = dataclasses.replace(load_study(file, "small"), seeds=(5,))
    launch(study, tmp_path / "new", kept=tmp_path / "kept", only=("none",), dry_run=True)
    folder = with_kept(open_folder(study, tmp_path / "new", ""), study, tmp_path / "kept")
    runs = [run for run in folder.all_runs("none") if run.over]
    assert {(run.result["split"], run.result["top1"]) for run in runs} == {("test", 0.25)}
    with caplog.at_level("INFO", logger="absl"):
        runner.log_progress(folder, ["none"])
    assert re.search(r"study: 5 of 6 runs, \d+ % of the work, ETA \?", caplog.text)


@pytest.mark.parametrize("duration", ["0.5 epochs", "0 steps", "24 examples"])
def test_progress_of_short_trainings(tmp_path, caplog, duration):
    folder = open_folder(tiny_study(base=replaced(tiny_config(), {"train.duration": duration})), tmp_path, "")
    with caplog.at_level("INFO", logger="absl"):
        runner.log_progress(folder, ["identity"])
    assert re.search(r"study: 0 of 2 runs, \d+ % of the work, ETA \?", caplog.text)


def test_the_time_left_is_that_of_the_runs_left_by_so_many_jobs(tmp_path, caplog):
    folder = open_folder(tiny_study(), tmp_path, "")
    done = tmp_path / "none/seed0"
    done.mkdir(parents=True)
    (done / "result.json").write_text('{"step": 8, "seconds": 60.0, "seeds_together": 2}')
    with caplog.at_level("INFO", logger="absl"):
        for jobs in (1, 2):
            runner.log_progress(folder, ["none"], jobs)
    assert re.findall(r"1 of 2 runs, 50 % of the work, ETA (\S+)", caplog.text) == ["0:00:30", "0:00:15"]


def test_the_work_of_epochs_does_not_depend_on_the_batch():
    def amount(duration, batch):
        return runner._amount(
            replaced(tiny_config(), {"train.duration": duration, "train.batch_size": batch})
        )

    assert amount("1.4 epochs", 16) == amount("1.4 epochs", 64) > amount("1 epochs", 16)
    assert amount("8 steps", 64) == 4 * amount("8 steps", 16) == amount("512 examples", 16)


def test_a_folder_without_results_has_no_seeds_in_common(file, tmp_path):
    fill(file, tmp_path / "a")
    for path in (tmp_path / "a").glob("*/*/seed*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"split": "validation"}))
    first = load_folder(tmp_path / "a")
    again = open_folder(load_study(file, "small"), tmp_path / "b", "")
    with pytest.raises(InputError, match="no two finished seeds of an arm in common"):
        write_repetition(first, again, tmp_path / "page", "Twice")
