"""What a run leaves to read: metrics.jsonl and TensorBoard's files; JSON written whole or not at all."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from resnet.training.processes import index_of_this

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
    path = Path(workdir) / METRICS_FILE
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def forget_after(workdir: Path, step: int) -> None:
    """Drops the records that a run resumed at `step` finished steps will write anew.

    Among them the test split's: it is evaluated after the last checkpoint, at the same step.
    """
    records = read_metrics(workdir) if step else []
    kept = [record for record in records if record["step"] <= step and record["split"] != "test"]
    with replacing(workdir / METRICS_FILE) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))


class Records:
    """Metrics of one run, from `step` finished steps on; of several processes, the first writes them.

    All records of a step but the test split's must be written before its checkpoint is: then a run
    that was killed and resumed holds each record once.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        steps_per_epoch: int,
        step: int = 0,
        tensorboard: bool = True,
    ):
        self.workdir = Path(workdir)
        self.steps_per_epoch = steps_per_epoch
        self.first_step = step
        self.boards: dict[str, Any] | None = {} if tensorboard else None
        self.file = None
        if index_of_this():
            return
        self.workdir.mkdir(parents=True, exist_ok=True)
        forget_after(self.workdir, step)
        self.file = (self.workdir / METRICS_FILE).open("a", buffering=1)  # flushed at each line

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, step: int, metrics: Mapping[str, Any], split: str) -> None:
        """Adds one line after `step` finished steps; not-a-number and infinities become null."""
        if self.file is None:
            return
        record = {"step": step, "epoch": round(step / self.steps_per_epoch, 4), "split": split}
        self.file.write(json.dumps(plain(record | dict(metrics)), allow_nan=False) + "\n")
        if split != "train":
            results = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            logging.info("epoch %g, %s: %s", record["epoch"], split, results)
        for name, value in metrics.items() if self.boards is not None else ():
            self._board(split).add_scalar(name, value, step)

    def _board(self, split: str) -> Any:
        """One TensorBoard run a split, so that the splits share the axes of a metric."""
        assert self.boards is not None
        if split not in self.boards:
            from tensorboardX import SummaryWriter

            folder = str(self.workdir / TENSORBOARD_FOLDER / split)
            purge = self.first_step + 1 if self.first_step else None
            # The suffix, because file names hold whole seconds, and an older file is overwritten.
            suffix = f".{self.first_step}"
            self.boards[split] = SummaryWriter(str(folder), purge_step=purge, filename_suffix=suffix)
        return self.boards[split]

    def close(self) -> None:
        """Flushes and closes everything; may be called twice."""
        if self.file:
            self.file.close()
        for board in (self.boards or {}).values():
            board.close()
