"""What a run leaves to read: complete, never twice, never half a file."""

import io
import json
import math
import os
import pty
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from absl import logging
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event

from resnet.config import Config
from resnet.runs import provenance
from resnet.runs.metrics import curves, tensorboard
from resnet.runs.metrics.curves import plot_curves
from resnet.runs.metrics.records import Records, read_metrics, write_json
from resnet.runs.metrics.tensorboard import TensorBoard
from resnet.runs.provenance import write_run_json
from resnet.runtime import progress
from resnet.runtime.progress import Clock, ProgressBar

ROOT = Path(__file__).parents[1]


def run(workdir, first, last, total=12, every=2):
    """The records of steps first+1 ... last, as the loop writes them."""
    with Records(workdir, steps_per_epoch=4, step=first, boards=()) as out:
        for step in range(first + 1, last + 1):
            if step % every == 0:
                out.write(step, {"loss": 1 / step}, "train")
            if step % 4 == 0:
                out.write(step, {"loss": 2 / step, "top1": 0.5, "n": 10}, "validation")
        if last == total:  # after the last checkpoint
            out.write(last, {"loss": 0.1}, "test")


def test_a_line_holds_step_epoch_split_and_metrics(tmp_path):
    with Records(tmp_path, steps_per_epoch=4, boards=()) as out:
        out.write(6, {"loss": np.float32(0.5), "n": 3}, "train")
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()  # flushed before close
    assert json.loads(lines[0]) == {"step": 6, "epoch": 1.5, "split": "train", "loss": 0.5, "n": 3}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_what_is_not_finite_is_null(tmp_path, value):
    with Records(tmp_path, steps_per_epoch=4, boards=()) as out:
        out.write(1, {"loss": value}, "train")
    assert read_metrics(tmp_path)[0]["loss"] is None
    write_json(tmp_path / "a.json", {"a": [value, (1, value)]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, [1, None]]}


@given(killed=st.integers(0, 12), saved=st.integers(0, 12), torn=st.booleans())
def test_resumed_records_equal_uninterrupted_ones(tmp_path_factory, killed, saved, torn):
    saved = min(saved, killed)
    whole, halves = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("halves")
    run(whole, 0, 12)
    run(halves, 0, killed)
    if torn:  # killed in the middle of a line
        with (halves / "metrics.jsonl").open("a") as file:
            file.write('{"step": 12, "epo')
    run(halves, saved, 12)
    assert (halves / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_a_run_from_the_start_forgets_what_lay_there(tmp_path):
    with Records(tmp_path, steps_per_epoch=4, boards=()) as out:
        out.write(0, {"loss": 1.0}, "validation")
    Records(tmp_path, steps_per_epoch=4, boards=()).close()
    assert read_metrics(tmp_path) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def shown(folder) -> list[tuple[int, str, float]]:
    """The points of the curves that TensorBoard shows: a START hides what came before it from its step on."""
    points = []
    for path in sorted(folder.iterdir()):
        for event in map(Event.FromString, payloads(path.read_bytes())):
            if event.session_log.status == 1:
                points = [point for point in points if point[0] < event.step]
            points += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return points


@pytest.mark.parametrize("saved", [0, 2])
def test_tensorboard_shows_no_step_twice(tmp_path, saved):
    for first in (0, saved, saved):  # killed after step 3, twice
        with Records(tmp_path, steps_per_epoch=4, step=first) as out:
            for step in range(first + bool(first), 4):
                out.write(step, {"loss": step / 4}, "train")
    assert shown(tmp_path / "tensorboard" / "train") == [(step, "loss", step / 4) for step in range(4)]


def test_tensorboard_holds_each_split_and_drops_steps_past_the_resumed_one(tmp_path):
    for step in (0, 5):
        with Records(tmp_path, steps_per_epoch=4, step=step) as out:
            out.write(step + 1, {"loss": 0.25}, "train")
            out.write(step + 1, {"loss": 0.5}, "validation")
    assert sorted(os.listdir(tmp_path / "tensorboard")) == ["train", "validation"]
    events = [
        Event.FromString(payload)
        for path in sorted((tmp_path / "tensorboard" / "train").iterdir())
        for payload in payloads(path.read_bytes())
    ]
    values = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert sorted(values) == [(1, "loss", 0.25), (6, "loss", 0.25)]
    assert 6 in [event.step for event in events if event.session_log.status == 1]  # START: purge


def payloads(data: bytes):
    """The records of a TFRecord file: length, its checksum, payload, its checksum."""
    while data:
        length = int.from_bytes(data[:8], "little")
        yield data[12 : 12 + length]
        data = data[16 + length :]


def test_without_a_terminal_progress_is_logged_now_and_then(tmp_path, monkeypatch):
    lines, clock = [], iter([0.0, 10.0, 20.0, 50.0, 60.0])
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(logging, "info", lambda message, *values: lines.append(message % values))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    bar = ProgressBar(100, steps_per_epoch=20, step=50)
    for step in (50, 60, 70, 90, 100):
        bar.show(step, 1234.5 if 50 < step < 90 else 0.0)
    with Records(tmp_path, steps_per_epoch=20, step=50, boards=()) as out:
        out.write(100, {"loss": 0.25, "n": 360}, "test")
    assert lines == [
        "step 50 of 100, epoch 2.5, ? images/s, ETA ?",
        # 40 steps since the start took 50 s: earlier ones do not count.
        "step 90 of 100, epoch 4.5, 1,234 images/s, ETA 0:00:12",
        "step 100 of 100, epoch 5.0, 1,234 images/s, ETA 0:00:00",
        "epoch 5, test: loss 0.25, n 360",
    ]


def test_a_speed_that_nothing_measures_is_none(monkeypatch):
    monkeypatch.setattr(progress.time, "monotonic", iter([0.0, 0.0, 2.0, 3.0, 4.0]).__next__)
    clock = Clock(10)
    clock.tick(range(4))  # one call, which compiles
    clock.pause()
    assert clock.mean is None
    for steps in (range(4, 6), range(6, 8)):
        clock.tick(steps)
    clock.pause()
    assert clock.mean == 10.0  # 2 steps of 10 images in 2 s


BAR = """
import sys
from absl import logging
from resnet.runtime.progress import ProgressBar
logging.use_absl_handler()
logging.set_verbosity("info")
bar = ProgressBar(100, 20, step=50)
bar.show(60, 1000.0)
logging.info("a line of the log")
bar.show(100, 1000.0)
bar.close()
logging.info("after")
print("result")
"""


@pytest.mark.thorough
def test_on_a_terminal_a_bar_is_drawn_on_standard_error_below_the_log():
    screen, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-c", BAR]
    done = subprocess.run(command, stdout=-1, stderr=terminal, env=environment, timeout=60)
    os.close(terminal)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", os.read(screen, 100_000).decode())  # no colours
    os.close(screen)
    assert done.stdout == b"result\n"
    assert " 50/100 compiling" in shown
    assert "100/100 epoch 5.0, 1,000 images/s, ETA 0:00:00" in shown
    assert "a line of the log\r\n" in shown and "after\r\n" in shown


def test_run_json_keeps_every_session(tmp_path):
    write_run_json(tmp_path, Config(init_drop="a"), ("train.py", "--config=a b.py"))
    write_run_json(tmp_path, Config(seed=3), "train.py again")
    first, second = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert first["command"] == "train.py '--config=a b.py'"
    assert second["command"] == "train.py again"
    assert (first["config"]["init_drop"], second["config"]["seed"]) == ("a", 3)
    assert first["numerics"]["generator"] == "threefry2x32" and first["numerics"]["deterministic"]
    assert first["devices"]["backend"] == "cpu"
    assert first["devices"]["instructions"]
    packages = {"python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"}
    assert set(first["versions"]) == packages


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(("git", *identity, "-C", folder, *arguments), check=True, capture_output=True)


def test_git_state_knows_the_commit_and_whether_files_differ(tmp_path):
    assert provenance.git_state(tmp_path) is None
    git(tmp_path, "init")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "a")
    state = provenance.git_state(tmp_path)
    assert len(state["commit"]) == 40 and not state["dirty"]
    (tmp_path / "a").write_text("2")
    changed = provenance.git_state(tmp_path)
    assert changed == {"commit": state["commit"], "dirty": True, "code": changed["code"]}
    assert provenance.commit({"git": changed}).endswith(f" and uncommitted changes (code {changed['code']})")
    (tmp_path / "inside").mkdir()
    assert provenance.git_state(tmp_path / "inside") is None  # installed into another's repository


def test_curves_are_drawn_of_whatever_was_recorded(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plot_curves(tmp_path).read_bytes().startswith(b"\x89PNG")  # of nothing yet
        with Records(tmp_path, steps_per_epoch=4, boards=()) as out:
            out.write(4, {"loss": 0.0, "mae": 3.0}, "train")
            out.write(4, {"loss": math.nan}, "validation")
            out.write(12, {"loss": math.nan, "top1": 0.99}, "test")
        plot_curves(tmp_path)
    assert curves._title(tmp_path, read_metrics(tmp_path)).endswith("\ntest: top-1 accuracy 99 %")
    assert sorted(os.listdir(tmp_path)) == ["curves.png", "metrics.jsonl"]


@pytest.mark.parametrize(
    ("losses", "marker"),
    [((1.0,), "o"), ((1.0, 0.5), "None"), ((1.0, math.nan, 0.5), "o"), ((math.nan, 1.0, 0.5), "None")],
)
def test_a_point_without_a_neighbour_is_seen(losses, marker):
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    records = [{"split": "train", "epoch": i, "loss": loss} for i, loss in enumerate(losses)]
    curves._draw(axes, records, *curves.PANELS[0])
    assert [line.get_marker() for line in axes.lines] == [marker]


def test_curves_import_no_pytorch(tmp_path):
    """Of a user who has it: importing it takes seconds, and afterwards it can still be imported."""
    (tmp_path / "torch.py").write_text("raise SystemExit('imported')")
    program = (
        "from pathlib import Path; from resnet.runs.metrics.tensorboard import TensorBoard\n"
        "board = TensorBoard(Path('run'), 0); Path('run').mkdir()\n"
        "board.add('train', 1, {'loss': 1.0}); board.close(); print('written'); import torch"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("written\n", "imported\n")
    assert any((tmp_path / "run/tensorboard/train").iterdir())


def test_a_clock_that_is_set_back_delays_no_points(tmp_path, monkeypatch):
    clocks = {"time": 1e9, "monotonic": 1e3}
    for name in clocks:
        monkeypatch.setattr(tensorboard.time, name, lambda name=name: clocks[name])
    board = TensorBoard(tmp_path, 0)
    board.add("train", 1, {"loss": 1.0})
    clocks.update(time=1e9 - 3600, monotonic=1e3 + 31)
    before = sum(path.stat().st_size for path in (tmp_path / "tensorboard/train").iterdir())
    board.add("train", 2, {"loss": 1.0})
    assert sum(path.stat().st_size for path in (tmp_path / "tensorboard/train").iterdir()) > before
    board.close()
