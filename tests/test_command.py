"""The command `resnet`: what it tells, recipes by name, completion, and the wheel that brings it."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from resnet import recipes
from resnet.cli import ending
from resnet.cli import main as command
from resnet.cli.options import FLAGS, flags_of
from resnet.config import load_config
from resnet.data.config import DataConfig
from resnet.errors import PAGES, InputError
from resnet.interop.predict import find_images
from resnet.models.zoo import ZOO
from resnet.runs.task import load_task
from resnet.runtime import machine
from resnet.studies.launchers.cluster import check_parameters
from resnet.studies.stored import load_folder
from resnet.studies.study import load_study

ROOT = Path(__file__).parents[1]


def called(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/resnet", *words])
    command.main()


def assert_refused(monkeypatch, capsys, message, *words):
    """Asserts that the command ends with exit code 2 and one line of error that contains the message."""
    with pytest.raises(SystemExit) as end:
        called(monkeypatch, *words)
    written = capsys.readouterr()
    assert end.value.code == 2 and message in written.err
    assert written.err.count("\n") == 1 and not written.out


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_alone_it_tells_all_commands_and_recipes(monkeypatch, capsys, words):
    called(monkeypatch, *words)
    lines = capsys.readouterr().out.splitlines()
    assert "  resnet train       Trains a net" in lines
    said = " ".join(lines)
    for name in (*command.COMMANDS, *recipes.names("config"), *recipes.names("study")):
        assert name in said


def test_it_tells_its_version(monkeypatch, capsys):
    called(monkeypatch, "--version")
    assert capsys.readouterr().out in ("0.1.0\n", "a clone that is not installed\n")


@pytest.mark.parametrize("name", command.COMMANDS)
def test_each_command_has_its_help_and_flags_of_its_own(name):
    """All are defined in one process, in which most have a --workdir."""
    module, known = command.load_command(name), set(FLAGS)
    assert command.summary(name) in module.__doc__ and f"resnet {name} " in module.__doc__
    with flags_of(module.define):
        assert name == "completion" or set(FLAGS) > known
    assert set(FLAGS) == known


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean `train`?"),
        (["--workdir=x"], "a command stands before --workdir=x, e.g. resnet train"),
        (["train", "--wrokdir=x"], "unknown option --wrokdir; did you mean `workdir`?"),
        (["describe", "--workdir=x"], "unknown option --workdir; --help lists the options"),
        (["train", "--config=digit", "--workdir=x"], "'digit' does not exist; those at hand by name are"),
        (["completion", "tcsh"], "`shell` must be one of bash, zsh; got 'tcsh'"),
    ],
)
def test_what_cannot_be_meant_is_one_line(monkeypatch, capsys, words, message):
    assert_refused(monkeypatch, capsys, message, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "or describe the images by --image_shape and --classes"),
        (("--classes=9",), "got --image_shape= --classes=9"),
        (("--classes=9", "--image_shape=224,224"), "channels, such as 224,224,3; got '224,224'"),
        (("--classes=9", "--zoo"), "has no meaning with --zoo"),
    ],
)
def test_images_that_are_not_at_hand_need_their_shape(monkeypatch, capsys, words, message):
    monkeypatch.setattr(machine, "prepare", lambda _: None)  # devices are counted already
    assert_refused(monkeypatch, capsys, message, "describe", "--config=imagenet_resnet50", *words)


def test_a_net_is_described_without_its_data(monkeypatch, capsys):
    monkeypatch.setattr(machine, "prepare", lambda _: None)
    images = "--image_shape=224,224,3", "--classes=1000"
    called(monkeypatch, "describe", "--config=imagenet_resnet18", *images)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["parameters"], last["outputs"]) == (ZOO["resnet18"].parameters, 1000)


def test_some_seeds_that_failed_make_the_exit_code_1(monkeypatch, capsys):
    runs = [{"workdir": "w/seed0", "failed": "diverged"}, {"workdir": "w/seed1", "top1": 0.5}]
    result = {"seeds": 2, "runs": runs, "workdir": "w"}
    monkeypatch.setattr(machine, "prepare", lambda _: None)
    monkeypatch.setattr("resnet.training.loop.train", lambda *_, **__: result)
    with pytest.raises(SystemExit) as ended:
        called(monkeypatch, "train", "--config=digits", "--workdir=w")
    printed = capsys.readouterr()
    assert ended.value.code == 1 and json.loads(printed.out) == result
    assert "error: 1 of 2 seeds failed: w/seed0" in printed.err


def test_a_recipe_is_found_by_name_and_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("digits") == load_config(ROOT / "configs/digits.py")
    assert load_study("highway", "small").origin.file == str(ROOT / "configs/studies/highway.py")
    (tmp_path / "digits").write_text("from configs.digits_small import get_config")
    assert load_config("digits") == load_config("digits_small")  # a file of the user's goes first
    with pytest.raises(InputError, match="config file 'configs/digitz.py' .*; did you mean `digits`"):
        load_config("configs/digitz.py")


@pytest.mark.thorough
def test_a_recipe_builds_on_ours_and_a_file_from_elsewhere_on_its_own(tmp_path):
    (tmp_path / "configs").mkdir()
    own = "from resnet.config import Config\ndef get_config(): return Config(seed=7)"
    (tmp_path / "configs" / "digits.py").write_text(own)
    (tmp_path / "mine.py").write_text("from configs.digits import get_config")
    code = "from resnet.config import load_config; print(load_config({!r}).seed)"
    for given, seed in (("digits_small", b"0\n"), (str(tmp_path / "mine.py"), b"7\n")):
        environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
        command = [sys.executable, "-c", code.format(given)]
        assert subprocess.run(command, env=environment, capture_output=True, check=True).stdout == seed


# Types a line, lets bash complete it, and prints what it offers.
OFFER = r"""
source /dev/stdin
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_resnet
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def completion():
    done = subprocess.run(
        [sys.executable, "-m", "resnet", "completion", "bash"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("resnet tr", ["train"]),
        ("resnet train --work", ["--workdir="]),
        ("resnet train --config.model.dept", ["--config.model.depth="]),
        ("resnet train --config = digits_r", ["digits_rotation"]),  # as bash splits it
        ("resnet train --config=digits_r", ["--config=digits_rotation"]),  # as zsh leaves it
        ("resnet study --study = high", ["highway"]),
        ("resnet analyze --question = les", ["lesion"]),
        ("resnet predict LICEN", ["LICENSE"]),
    ],
)
def test_bash_completes(completion, line, offered):
    command = ["bash", "-c", OFFER, "bash", *line.split()]
    done = subprocess.run(command, cwd=ROOT, input=completion, capture_output=True, text=True)
    assert done.stdout.split() == offered, done.stderr


@pytest.mark.parametrize(
    ("call", "page"),
    [
        (lambda: find_images([]), "docs/weights.md"),
        (lambda: DataConfig(name="cifar11").check(), "docs/data.md"),
        (lambda: check_parameters({"gres": "gpu:2"}), "docs/clusters.md"),
        (lambda: load_folder("nowhere"), "docs/studies.md"),
        (lambda: load_task(Path("nowhere")), "docs/reliability.md"),
        (lambda: load_config("nowhere"), ""),
    ],
)
def test_an_error_names_the_page_that_helps(call, page, capsys):
    with pytest.raises(SystemExit), ending.in_one_line():
        call()
    line = capsys.readouterr().err
    assert line.endswith(f" ({page})\n") if page else "docs/" not in line


def test_every_page_that_an_error_names_is_there():
    assert all((ROOT / page).is_file() for page in PAGES.values())
    assert all(list((ROOT / "resnet").glob(f"{part}*")) for part in PAGES)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The command of a fresh environment in which the wheel is installed; its libraries are those of ours."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=True)
    python, (packages,) = folder / "env/bin/python", folder.glob("env/lib/*/site-packages")
    (packages / "libraries.pth").write_text(str(Path(pytest.__file__).parents[1]))
    install = [python, "-m", "pip", "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return folder / "env/bin"


TINY = ("--config.train.duration=4 steps", "--config.data.train_limit=64", "--config.model.depth=8")


@pytest.mark.slow
def test_the_wheel_trains_evaluates_and_loads_in_an_empty_folder(installed, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words):
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    resnet = str(installed / "resnet")
    result = json.loads(run(resnet, "train", "--config=digits", "--workdir=run", *TINY))
    assert json.loads(run(resnet, "evaluate", "--workdir=run"))["loss"] == pytest.approx(result["loss"])
    session = json.loads((tmp_path / "run/run.json").read_text())["sessions"][0]
    assert session["command"].startswith("resnet train --config=digits --workdir=run")
    load = "import resnet; run = resnet.load('run'); print(run.step, resnet.__file__)"
    step, file = run(installed / "python", "-c", load).split()
    assert step == "4" and Path(file).is_relative_to(installed.parent)
    # A study builds on recipes, which the wheel brings too.
    study = ("study", "--study=shortcut_on_off", "--study.scale=small", "--workdir=study", "--dry_run")
    assert json.loads(run(resnet, *study))["not started"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
