"""The scripts as a user meets them: exit codes, one line of error, one line of result."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from resnet.cli import options
from resnet.config import Config
from tests import test_command

ROOT = Path(__file__).parents[1]

CONFIG = """
from resnet.config import Config

def get_config():
    config = Config()
    config.data.name, config.data.train_limit = "digits", 64
    config.model.blocks, config.model.width = (1, 1, 1), 0.25
    config.train.batch_size, config.train.duration = 16, "4 steps"
    return config
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    path.write_text(CONFIG)
    return path


def script(name, *arguments, timeout=300):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def trained(config_file, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "lr[0.1] \\ 100% $x$"
    done = script(
        "train",
        f"--config={config_file}",
        f"--workdir={workdir}",
        "--config.seed=1",
        "--config.optimizer.nesterov",
        "--config.model.blocks=1,2,1",
    )
    assert done.returncode == 0, done.stderr
    return workdir, json.loads(done.stdout)


@pytest.mark.thorough
def test_training_prints_one_object_and_obeys_overrides(trained):
    workdir, result = trained
    assert result["split"] == "test" and result["step"] == 4
    config = json.loads((workdir / "config.json").read_text())
    assert config["seed"] == 1 and config["optimizer"]["nesterov"] is True
    assert config["model"]["blocks"] == [1, 2, 1]


@pytest.mark.thorough
def test_evaluation_agrees_with_training(trained):
    workdir, result = trained
    done = script("evaluate", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert metrics == {key: result[key] for key in ("split", "loss", "top1", "top5", "n", "step")}


def assert_refused(done, message):
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and message in errors[0], done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=x", "--config.model.dept=3"], "unknown field `model.dept`; did you mean"),
        (["--workdir=x", "--config.model.depth=ab"], "`model.depth` must be of type int; got 'ab'"),
        (["--workdir=x", "--config.model.depth"], "`model.depth` needs a value"),
        (["--workdir=x", "--wrokdir=y"], "unknown option --wrokdir; did you mean `workdir`?"),
        ([], "--workdir=… is missing"),
    ],
)
def test_bad_arguments(config_file, arguments, message, monkeypatch, capsys):
    test_command.assert_refused(monkeypatch, capsys, message, "train", f"--config={config_file}", *arguments)


def test_an_option_of_a_question_has_a_type(config_file, tmp_path, monkeypatch, capsys):
    arguments = ("--question=signal", f"--config={config_file}", f"--output={tmp_path}", "--depths=8,x")
    message = "--depths must be of type int, with commas between"
    test_command.assert_refused(monkeypatch, capsys, message, "analyze", *arguments)


@pytest.mark.thorough
def test_only_data_can_change_in_evaluation(trained):
    done = script("evaluate", f"--workdir={trained[0]}", "--config.model.width=2")
    assert_refused(done, "`model.width` belongs to the trained net")


@pytest.mark.thorough
def test_help_lists_the_fields_with_their_meanings():
    done = script("train", "--help")
    assert done.returncode == 0
    for text in ("--workdir", "--config.model.depth=20  (int)", "Images per step"):
        assert text in done.stdout
    done = script("train", "--config", "digits_small", "--help", "--config.seed=7")
    for text in ("with their values in digits_small:", "--config.seed=7  (int)", "--config.model.width=0.5 "):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("--config.schedule.milestones=50 %,75 %", ("50 %", "75 %")),
        ("--config.schedule.milestones=('50 %', '75 %')", ("50 %", "75 %")),
        ("--config.schedule.milestones=50 %", ("50 %",)),
    ],
)
def test_durations_in_tuples_and_none(argument, value):
    config = Config()
    config.schedule.name = "step"
    config.schedule.milestones = ("10 %",)
    assert options.override(config, [argument]).schedule.milestones == value
    config.model.scan_blocks = True
    assert options.override(config, ["--config.model.scan_blocks=None"]).model.scan_blocks is None


def test_a_tuple_is_the_last_that_is_given_and_may_be_empty():
    config = options.override(Config(), ["--config.data.classes=1,2", "--config.data.classes=3,4"])
    assert config.data.classes == ("3", "4")
    assert options.override(config, ["--config.data.classes="]).data.classes == ()
    assert options.override(config, ["--config.data.std=0.5", "--config.data.std="]).data.std == ()


@pytest.mark.thorough
def test_a_question_to_a_run_and_to_a_config(trained, config_file, tmp_path):
    done = script("analyze", "--question=signal", f"--workdir={trained[0]}", "--images=16")
    assert done.returncode == 0, done.stderr
    assert (trained[0] / "analysis" / "signal.png").exists() and "stage3/block1" in done.stdout
    assert "16 of 360 images (test, drawn by seed 0), 10 of 10 classes" in done.stdout
    asked = ("--question", "signal", f"--config={config_file}", f"--output={tmp_path}", "--images=4")
    done = script("analyze", *asked, "--depths=8,14", "--config.model.shortcut=none")
    assert [row["layers"] for row in json.loads(done.stdout.splitlines()[-1])["answer"]] == [8, 14]
