"""The way of one batch from scripts/train.py to the loss: how many frames of ours a reader passes."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST = 6
# In a process of its own, as the script defines flags: frames of ours when the loss is traced.
REACH = """
import json, runpy, sys, traceback
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
    print(json.dumps([(frame.filename, frame.name) for frame in found]))
"""
TINY = (
    "--config.data.train_limit=64",
    "--config.model.family=chain",
    "--config.model.blocks=(1,)",
    "--config.model.width=0.25",
    "--config.train.batch_size=16",
    "--config.train.duration=1 steps",
)


def test_six_frames_from_the_script_to_the_loss(tmp_path):
    """The script's file, cli.run, main, train, Step.train and the loss that is differentiated."""
    script = str(ROOT / "scripts" / "train.py")
    command = [sys.executable, "-c", REACH, script, "--config=configs/digits.py", f"--workdir={tmp_path}/run"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"}
    done = subprocess.run([*command, *TINY], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    ours = (f"{ROOT}/resnet/", f"{ROOT}/scripts/")
    frames = [
        (name.removeprefix(f"{ROOT}/"), function)
        for name, function in json.loads(done.stdout)
        if name.startswith(ours)
    ]
    assert len(frames) <= MOST, frames
    assert frames[-2:] == [
        ("resnet/training/step.py", "train"),
        ("resnet/training/step.py", "loss_function"),
    ]
