"""What a run leaves to read: metrics.jsonl and TensorBoard's files; JSON written whole or not at all."""

import contextlib
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from resnet.files import local_path
from resnet.runs.boards import Board
from resnet.runtime.processes import index_of_this

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, whole, if the block succeeds."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """`value` as JSON has it: scalars of arrays as numbers, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    # The standard has no NaN, and most readers turn null into one.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes one JSON document so that no reader ever sees half of it; of several processes, the first."""
    if index_of_this():
        return
    with replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a run in the order written; a last line cut short by a kill is left out."""
    records = []
    path = local_path(workdir) / METRICS_FILE
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def forget_after(workdir: Path, step: int, again: Collection[str] = ("test",)) -> None:
    """Drops the records that a run resumed at `step` finished steps will write anew.

    Among them those of the splits in `again` at this step: the test split's, which is evaluated after
    the last checkpoint, and validation's where its evaluation was interrupted.
    """
    records = read_metrics(workdir) if step else []
    kept = [r for r in records if r["step"] < step or (r["step"] == step and r["split"] not in again)]
    with replacing(workdir / METRICS_FILE) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))


class Lines:
    """Lines at the end of a file. Those that the disk refuses wait, and go before the next."""

    def __init__(self, path: Path):
        self.path = path
        path.touch()
        self._end, self._waiting = path.stat().st_size, b""

    def add(self, line: str) -> None:
        """Writes a line, now or, with a warning, later."""
        before = self._waiting
        self._waiting += line.encode() + b"\n"
        if not self.flush() and not before:
            logging.warning("%s cannot be written; its lines are kept until it can be", self.path)

    def flush(self) -> bool:
        """Writes what waits; whether nothing is left."""
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
    that was killed and resumed holds each record once. `again` is as in forget_after.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        steps_per_epoch: int,
        step: int = 0,
        again: Collection[str] = ("test",),
        tensorboard: bool = True,
    ):
        self.workdir = Path(workdir)
        self.steps_per_epoch = steps_per_epoch
        self.first_step = step
        self.boards: dict[str, Board] | None = {} if tensorboard else None
        self.lines: Lines | None = None
        if index_of_this():
            return
        self.workdir.mkdir(parents=True, exist_ok=True)
        forget_after(self.workdir, step, again)
        self.lines = Lines(self.workdir / METRICS_FILE)

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, step: int, metrics: Mapping[str, Any], split: str) -> None:
        """Adds one line after `step` finished steps; not-a-number and infinities become null."""
        if self.lines is None:
            return
        record = {"step": step, "epoch": round(step / self.steps_per_epoch, 4), "split": split}
        self.lines.add(json.dumps(plain(record | dict(metrics)), allow_nan=False))
        if split != "train":
            results = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            logging.info("epoch %g, %s: %s", record["epoch"], split, results)
        if self.boards is not None:
            # One TensorBoard run a split, so that the splits share the axes of a metric.
            folder = self.workdir / TENSORBOARD_FOLDER / split
            self.boards.setdefault(split, Board(folder, self.first_step)).add(step, metrics)

    def flush(self) -> bool:
        """Tries again what the disk refused; whether all lines are written."""
        return self.lines is None or self.lines.flush()

    def close(self) -> None:
        """Writes everything that waits; may be called twice."""
        if not self.flush():
            logging.error("%s: the last lines could not be written and are lost", self.workdir / METRICS_FILE)
        for board in (self.boards or {}).values():
            board.close()
