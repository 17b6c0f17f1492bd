"""The way of one batch from scripts/train.py to the loss: how many frames of ours a reader passes."""

import sys
import traceback
from pathlib import Path

import pytest

from resnet.training import step

ROOT = Path(__file__).parents[1]
MOST = 6
TINY = (
    "--config.data.train_limit=64",
    "--config.model.family=chain",
    "--config.model.blocks=(1,)",
    "--config.model.width=0.25",
    "--config.train.batch_size=16",
    "--config.train.duration=1 steps",
)


class Reached(Exception):
    """The loss was traced."""


def test_six_frames_from_the_script_to_the_loss(tmp_path, monkeypatch):
    """The script's file, cli.run, main, train, Step.train and the loss that is differentiated."""

    def loss(*_, **__):
        raise Reached

    monkeypatch.setattr(step, "example_losses", loss)
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script = ROOT / "scripts" / "train.py"
    arguments = (f"--config={ROOT / 'configs' / 'digits.py'}", f"--workdir={tmp_path / 'run'}", *TINY)
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    code = compile(script.read_text(), str(script), "exec")
    with pytest.raises(Reached) as reached:
        exec(code, {"__name__": "__main__", "__file__": str(script)})
    ours = (f"{ROOT}/resnet/", f"{ROOT}/scripts/")
    frames = [
        (frame.filename.removeprefix(f"{ROOT}/"), frame.name)
        for frame in traceback.extract_tb(reached.value.__traceback__)
        if frame.filename.startswith(ours)
    ]
    assert len(frames) <= MOST, frames
    assert frames[-2:] == [
        ("resnet/training/step.py", "train"),
        ("resnet/training/step.py", "loss_function"),
    ]
