"""The way of one batch from scripts/train.py to the loss: how many frames of ours a reader passes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST = 6
# The script checks what was typed before it imports more, and train() what anybody calls it with.
CHECKS = {"check_config": 2, "check_net": 2}
# In a process of its own, as the script defines flags: frames of ours when the loss is traced, and how often
# the config was checked by then. Each check is replaced before any other module imports it.
REACH = """
import collections, functools, json, runpy, sys, traceback

checks = collections.Counter()

def count(module, name):
    check = getattr(module, name)

    @functools.wraps(check)
    def counted(config):
        checks[name] += 1
        check(config)

    setattr(module, name, counted)

from resnet.models import grammar
count(grammar, "check_net")
import resnet.config
count(resnet.config, "check_config")
from resnet.training import step

class Reached(Exception):
    pass

def loss(*_, **__):
    raise Reached

step.example_losses = loss
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except Reached as reached:
    found = traceback.extract_tb(reached.__traceback__)
    print(json.dumps([checks, [(frame.filename, frame.name) for frame in found]]))
"""
TINY = (
    "--config.data.train_limit=64",
    "--config.model.family=chain",
    "--config.model.blocks=(1,)",
    "--config.model.width=0.25",
    "--config.train.batch_size=16",
    "--config.train.duration=1 steps",
)


@pytest.fixture(scope="module")
def reached(tmp_path_factory):
    """(how often the config was checked, the frames of ours) when scripts/train.py has reached the loss."""
    workdir = tmp_path_factory.mktemp("spine") / "run"
    script = str(ROOT / "scripts" / "train.py")
    command = [sys.executable, "-c", REACH, script, "--config=configs/digits.py", f"--workdir={workdir}"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"}
    done = subprocess.run([*command, *TINY], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    ours = (f"{ROOT}/resnet/", f"{ROOT}/scripts/")
    checks, frames = json.loads(done.stdout)
    frames = [(name, function) for name, function in frames if name.startswith(ours)]
    return checks, [(name.removeprefix(f"{ROOT}/"), function) for name, function in frames]


@pytest.mark.thorough
def test_six_frames_from_the_script_to_the_loss(reached):
    """The script's file, cli.run, main, train, Step.train and the loss that is differentiated."""
    _, frames = reached
    assert len(frames) <= MOST, frames
    assert frames[-2:] == [
        ("resnet/training/step.py", "train"),
        ("resnet/training/step.py", "loss_function"),
    ]


@pytest.mark.thorough
def test_a_config_is_checked_once_where_it_is_made_and_once_where_it_is_trained(reached):
    assert reached[0] == CHECKS
