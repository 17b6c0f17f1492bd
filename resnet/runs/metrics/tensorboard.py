"""TensorBoard's files: a copy of the metrics; training does not wait for them or fail because of them."""

import contextlib
import functools
import math
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"
FLUSH_SECONDS = 30.0


class TensorBoard:
    """The files of a run, in a folder for each split, so that the splits share the axes of a metric."""

    def __init__(self, workdir: Path, first_step: int):
        self.folder, self.first_step = workdir / FOLDER, first_step
        self._splits: dict[str, SplitFiles] = {}

    def add(self, split: str, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics after `step` finished steps."""
        files = self._splits.setdefault(split, SplitFiles(self.folder / split, self.first_step))
        files.add(step, metrics)

    def close(self) -> None:
        """Writes what waits; may be called twice."""
        for files in self._splits.values():
            files.close()


class SplitFiles:
    """The scalars of one split. What the disk refuses is kept, and written anew to another file.

    tensorboardX's own writer is no choice: its thread ends with the first error, and all who write
    to it wait for ever.
    """

    def __init__(self, folder: Path, first_step: int):
        """Hides what an earlier session wrote after `first_step`, because it will be written again."""
        self.folder, self.first_step = folder, first_step
        self._waiting: list[Any] = []
        self._written, self._begun = -math.inf, False
        self._writer: Any = None

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds a point to each curve, on disk within half a minute if it can be."""
        _import_alone()
        from tensorboardX.summary import scalar

        now = time.time()
        self._waiting += [
            _event(wall_time=now, step=step, summary=scalar(name, value)) for name, value in scalars.items()
        ]
        if time.monotonic() - self._written >= FLUSH_SECONDS:  # a clock may be set back
            self._flush()

    def close(self) -> None:
        """Writes what waits; may be called twice."""
        if self._waiting:
            self._flush()
        self._drop_writer()

    def _flush(self) -> None:
        self._written = time.monotonic()
        try:
            self._writer = self._writer or self._open()
            for event in self._waiting:
                self._writer.write(event.SerializeToString())
            self._writer.flush()
            self._waiting = []
        except OSError:
            # A record half written hides all that follow it in its file.
            self._drop_writer()

    def _open(self) -> Any:
        """Opens a new file. Its first record gives the format, and from which step on it replaces others."""
        from tensorboardX.record_writer import RecordWriter

        # Not the run's own folder: were it gone, another in its place would hide the one that comes back.
        self.folder.parent.mkdir(exist_ok=True)
        self.folder.mkdir(exist_ok=True)
        # TensorBoard reads files in the order of their names: two of the same second must differ.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        writer = RecordWriter(str(self.folder / name))
        heads = [_event(wall_time=time.time(), file_version="brain.Event:2")]
        if not self._begun:
            # From the beginning, everything comes again, step 0 too.
            again = self.first_step + 1 if self.first_step else 0
            heads.append(_event(step=again, session_log={"status": "START"}))
        self._waiting, self._begun = heads + self._waiting, True
        return writer

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer:
            with contextlib.suppress(OSError):
                writer.close()


@functools.cache
def _import_alone() -> None:
    """Imports tensorboardX without PyTorch, which it imports where it can, and which takes seconds."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tensorboardX  # noqa: F401
    finally:
        if hidden:
            del sys.modules["torch"]


def _event(**fields: Any) -> Any:
    from tensorboardX.proto import event_pb2

    return event_pb2.Event(**fields)  # type: ignore[attr-defined]
