"""What a run leaves to read: metrics.jsonl and TensorBoard's files; JSON, whole or set aside."""

import json
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from resnet.files import free_name, local_path, sync, write_text
from resnet.runs.metrics.boards import TENSORBOARD, Board, open_boards
from resnet.runtime.processes import index_of_this

METRICS_FILE, RESULT = "metrics.jsonl", "result.json"
EPOCH_DIGITS = 4  # behind the point, of the epoch of a record
# What reading a damaged file, or looking into what it holds, raises.

_DAMAGED = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)


def json_values(value: Any) -> Any:
    """`value` as JSON has it: arrays as lists and numbers, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(item) for item in value]
    if hasattr(value, "tolist"):
        return json_values(value.tolist())
    # The standard has no NaN, and most readers turn null into one.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON that every reader takes: what is not finite is null."""
    return json.dumps(json_values(value), indent=indent, allow_nan=False)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes one JSON document so that no reader ever sees half of it; of several processes, the first."""
    if index_of_this():
        return
    write_text(Path(path), to_json(value, indent=2) + "\n")


def is_result(value: Any) -> bool:
    """Whether JSON is what RESULT holds."""
    return isinstance(value["step"], int)


def read_json(path: Path, good: Callable[[Any], Any], *, aside: bool = False) -> Any:
    """The content of a JSON file; None if the file is missing, or, with a warning, if it is damaged.

    `good` tells whether the value is what the file should hold; it may fail at what is not. With `aside`,
    which is for the holder of the folder, a damaged file is moved out of the way.
    """
    try:
        value = json.loads(path.read_bytes())
        if not good(value):
            raise ValueError("other JSON than this file should hold")
        return value
    except FileNotFoundError:
        return None
    except _DAMAGED as error:
        fate = f"it is set aside as {_set_aside(path).name}" if aside else "it is not counted in"
        logging.warning("%s is damaged (%s); %s", path, error, fate)
        return None


def keep_original(path: Path) -> None:
    """Moves a file with damaged lines aside, with a warning; the caller writes its good lines anew."""
    logging.warning("%s has damaged lines, which are left out; it is kept as %s", path, _set_aside(path).name)


def _set_aside(path: Path) -> Path:
    """Moves a file to <name>.damaged[.n], of several processes the first; nothing is deleted."""
    target = free_name(path.with_name(f"{path.name}.damaged"))
    if not index_of_this():
        path.rename(target)
    return target


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a run in the order written, without lines that are damaged or cut short by a kill."""
    return [record for line in _lines(local_path(workdir)) if (record := _record(line)) is not None]


def _lines(workdir: Path) -> list[bytes]:
    path = workdir / METRICS_FILE
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def _record(line: bytes) -> dict[str, Any] | None:
    """The record in a line; None if there is none."""
    try:
        record = json.loads(line)
        kinds = {"step": int, "epoch": (int, float), "split": str}
        return record if all(isinstance(record[name], kind) for name, kind in kinds.items()) else None
    except _DAMAGED:
        return None


def forget_records_after(workdir: Path, step: int, again: Collection[str] = ("test",)) -> None:
    """Drops the records that a run resumed at `step` finished steps will write anew.

    Among them those of the splits in `again` at this step: the test split's, which is evaluated after
    the last checkpoint, and validation's where its evaluation was interrupted.
    """
    lines = _lines(workdir)
    # A last line without its end was cut short by a kill, which is no damage.
    if any(_record(line) is None for line in lines if line.endswith(b"\n") or line[:1] != b"{"):
        keep_original(workdir / METRICS_FILE)
    records = filter(None, map(_record, lines)) if step else []
    kept = [r for r in records if r["step"] < step or (r["step"] == step and r["split"] not in again)]
    write_text(workdir / METRICS_FILE, "".join(to_json(record) + "\n" for record in kept))


class Lines:
    """Lines at the end of a file. Those that the disk refuses wait, and go before the next."""

    def __init__(self, path: Path):
        self.path = path
        path.touch()
        self._end, self._waiting = path.stat().st_size, b""

    def add(self, line: str) -> None:
        """Writes a line; if the disk refuses, logs a warning and keeps the line for later."""
        before = self._waiting
        self._waiting += line.encode() + b"\n"
        if not self.flush() and not before:
            logging.warning("%s cannot be written; its lines are kept until it can be", self.path)

    def sync(self) -> bool:
        """Writes the lines that wait and syncs the disk; returns whether all lines are written."""
        try:
            if not self.flush():
                return False
            sync(self.path)
        except OSError:
            return False
        return True

    def flush(self) -> bool:
        """Writes the lines that wait; returns whether all lines are written."""
        if not self._waiting:
            return True
        try:
            # Opened each time, because a folder that was away comes back as another.
            with self.path.open("r+b", buffering=0) as file:
                file.truncate(self._end)  # of what was written in part
                file.seek(self._end)
                while self._waiting:
                    written = file.write(self._waiting)
                    self._end, self._waiting = self._end + written, self._waiting[written:]
        except OSError:
            return False
        return True


class Records:
    """Metrics of one run, from `step` finished steps on; of several processes, the first writes them.

    All records of a step but the test split's must be written before its checkpoint is: then a run
    that was killed and resumed holds each record once. `again` is as in forget_records_after.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        steps_per_epoch: int,
        step: int = 0,
        again: Collection[str] = ("test",),
        boards: Sequence[str] = (TENSORBOARD,),
    ):
        self.workdir = Path(workdir)
        self.steps_per_epoch = steps_per_epoch
        self.boards: list[Board] = []
        self.lines: Lines | None = None
        if index_of_this():
            return
        self.workdir.mkdir(parents=True, exist_ok=True)
        forget_records_after(self.workdir, step, again)
        self.lines = Lines(self.workdir / METRICS_FILE)
        self.boards = open_boards(boards, self.workdir, step)

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, step: int, metrics: Mapping[str, Any], split: str) -> None:
        """Adds one line after `step` finished steps; not-a-number and infinities become null."""
        if self.lines is None:
            return
        record = {"step": step, "epoch": round(step / self.steps_per_epoch, EPOCH_DIGITS), "split": split}
        self.lines.add(to_json(record | dict(metrics)))
        if split != "train":
            results = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            logging.info("epoch %g, %s: %s", record["epoch"], split, results)
        for board in self.boards:
            board.add(split, step, metrics)

    def flush(self) -> bool:
        """Writes the lines that the disk refused before; returns whether all lines are on disk."""
        return self.lines is None or self.lines.sync()

    def close(self) -> None:
        """Writes everything that waits; may be called twice."""
        if not self.flush():
            logging.error("%s: the last lines could not be written and are lost", self.workdir / METRICS_FILE)
        for board in self.boards:
            board.close()
