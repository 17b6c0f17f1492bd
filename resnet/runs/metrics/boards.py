"""Copies of the metrics for what draws them: training does not wait for it, or fail because of it."""

import collections
import dataclasses
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from absl import logging

from resnet.errors import check_choice, check_installed
from resnet.fields import Fields
from resnet.files import write_text
from resnet.runs.metrics.tensorboard import TensorBoard

SEND_SECONDS, LAST_SECONDS = 30.0, 10.0  # between sendings; at most for the last one
PROJECT = "resnet"  # where the environment names none


@runtime_checkable
class Board(Protocol):
    """What draws the metrics of a run."""

    def add(self, split: str, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics after `step` finished steps."""

    def close(self) -> None:
        """Hands on what waits; may be called twice."""


Point = tuple[str, float, int, float]
"""Split/metric, value, step, and the time in seconds."""


@runtime_checkable
class Client(Protocol):
    """The run at a service; making one may fail, and so may its methods."""

    def send(self, points: Sequence[Point]) -> None:
        """Adds points to the curves."""

    def end(self) -> None:
        """Says that this process sends nothing more."""


class Service:
    """A board at a service: a thread sends what waits every half minute, and tries again what failed."""

    def __init__(self, name: str, connect: Callable[[Path], Client], workdir: Path):
        self.name, self.workdir = name, workdir
        self._connect = connect
        self._client: Client | None = None
        self._waiting: collections.deque[Point] = collections.deque()
        self._work: threading.Thread | None = None
        self._begun, self._warned = time.monotonic(), False

    def add(self, split: str, step: int, metrics: Mapping[str, float]) -> None:
        """Keeps the points, and has them sent if it is time and no sending is under way."""
        now = time.time()
        self._waiting.extend((f"{split}/{name}", float(value), step, now) for name, value in metrics.items())
        if time.monotonic() - self._begun >= SEND_SECONDS and self._is_idle():
            self._begun = time.monotonic()
            self._start(self._send)

    def close(self) -> None:
        """Sends what waits for the last time, and gives up after LAST_SECONDS without an answer."""
        end = time.monotonic() + LAST_SECONDS
        for last in (self._send, self._end):
            if self._is_idle(end):
                self._start(last)
        self._is_idle(end)
        if self._waiting:
            logging.error("%s: %d points never reached %s", self.workdir, len(self._waiting), self.name)
            self._waiting = collections.deque()

    def _is_idle(self, until: float = 0.0) -> bool:
        """Whether no sending is under way; waits for one that is, until then."""
        if self._work:
            self._work.join(max(0.0, until - time.monotonic()))
        return not (self._work and self._work.is_alive())

    def _start(self, work: Callable[[], None]) -> None:
        # A daemon, which does not keep the process from its end.
        self._work = threading.Thread(target=work, daemon=True)
        self._work.start()

    def _send(self) -> None:
        """Sends the points that wait now; they stay where the service refuses them."""
        waiting, points = self._waiting, list(self._waiting)
        if not points:
            return
        try:
            self._client = self._client or self._connect(self.workdir)
            self._client.send(points)
        except Exception as error:  # of any kind: each service has its own
            if not self._warned:
                logging.warning("%s: %s takes no metrics: %s", self.workdir, self.name, error)
            self._warned = True
            return
        for _ in points:
            waiting.popleft()

    def _end(self) -> None:
        client, self._client = self._client, None
        try:
            if client:
                client.end()
        except Exception as error:
            logging.warning("%s: %s did not end the run: %s", self.workdir, self.name, error)


class MLflow:
    """A run of MLflow, at $MLFLOW_TRACKING_URI: https://mlflow.org/docs/latest/ml/tracking."""

    def __init__(self, workdir: Path):
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        self._id = kept_id(workdir, "mlflow", lambda: self._new(workdir.name))

    def _new(self, name: str) -> str:
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(project)
        experiment = known.experiment_id if known else self._client.create_experiment(project)
        return self._client.create_run(experiment, run_name=name).info.run_id

    def send(self, points: Sequence[Point]) -> None:
        """Adds the points, a thousand at a time, which is as many as MLflow takes."""
        from mlflow.entities import Metric

        metrics = [Metric(name, value, round(1000 * at), step) for name, value, step, at in points]
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(self._id, metrics[start : start + 1000])

    def end(self) -> None:
        """Marks the run as finished; a later session adds to it all the same."""
        self._client.set_terminated(self._id)


class WandB:
    """A run of Weights & Biases, in $WANDB_PROJECT: https://docs.wandb.ai/ref/python."""

    def __init__(self, workdir: Path):
        import wandb

        kept = kept_id(workdir, "wandb", lambda: uuid.uuid4().hex[:8])
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=workdir.name,
            id=kept,
            resume="allow",
            dir=str(workdir),
        )

    def send(self, points: Sequence[Point]) -> None:
        """Adds the points."""
        for name, value, step, _ in points:
            self._run.log({name: value}, step=step)

    def end(self) -> None:
        """Uploads what is left."""
        self._run.finish()


def kept_id(workdir: Path, service: str, make: Callable[[], str]) -> str:
    """What the run is called at a service: made once, and kept in its folder for later sessions."""
    path = workdir / f"{service}.txt"
    if not path.exists():
        write_text(path, f"{make()}\n")
    return path.read_text("utf-8").strip()


SERVICES: dict[str, Callable[[Path], Client]] = {"mlflow": MLflow, "wandb": WandB}
"""Package and client of each service."""
TENSORBOARD = "tensorboard"


@dataclasses.dataclass(unsafe_hash=True)
class RecordsConfig(Fields, section="records"):
    """Where metrics go, beside metrics.jsonl."""

    boards: tuple[str, ...] = (TENSORBOARD,)
    """What draws the metrics while the run goes: tensorboard (files in the workdir), mlflow, wandb."""

    def check(self) -> None:
        """Raises InputError naming the field."""
        for name in self.boards:
            check_choice("records.boards", name, (TENSORBOARD, *SERVICES))


def check_boards_installed(names: Sequence[str]) -> None:
    """Raises InputError for a service whose package is not installed."""
    services = [name for name in names if name in SERVICES]
    check_installed(services, "pip install it, or leave it out of `records.boards`")


def open_boards(names: Sequence[str], workdir: Path, first_step: int) -> list[Board]:
    """The boards of a run that goes on after `first_step`."""
    boards: list[Board] = [Service(name, SERVICES[name], workdir) for name in names if name in SERVICES]
    return [*boards, TensorBoard(workdir, first_step)] if TENSORBOARD in names else boards
