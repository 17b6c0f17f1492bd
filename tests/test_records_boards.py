"""Boards beside the metrics' file: which there are, what they get, and what a service that fails costs."""

import sys
import threading
import time
import types

import pytest

from resnet.config import Config, check_config
from resnet.errors import InputError
from resnet.runs.metrics import boards
from resnet.runs.metrics.boards import Service
from resnet.runs.metrics.records import Records
from resnet.training.loop import train


class Client:
    """A service in memory, which refuses as often as it is told to."""

    def __init__(self, refuses: int = 0):
        self.points, self.refuses, self.ended = [], refuses, 0

    def send(self, points):
        if self.refuses:
            self.refuses -= 1
            raise ConnectionError("no route to the service")
        self.points += [point[:3] for point in points]

    def end(self):
        self.ended += 1


@pytest.fixture
def warned(monkeypatch):
    lines = []
    for level in ("warning", "error"):
        monkeypatch.setattr(boards.logging, level, lambda text, *values: lines.append(text % values))
    return lines


def test_a_service_gets_the_metrics_of_each_split(tmp_path, monkeypatch):
    client = Client()
    monkeypatch.setitem(boards.SERVICES, "mlflow", lambda workdir: client)
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    with Records(tmp_path, steps_per_epoch=4, boards=("mlflow",)) as records:
        records.write(1, {"loss": 2.0, "top1": 0.5}, "train")
        records.write(1, {"loss": 3.0}, "validation")
    assert client.points == [("train/loss", 2.0, 1), ("train/top1", 0.5, 1), ("validation/loss", 3.0, 1)]
    assert client.ended == 1 and not (tmp_path / "tensorboard").exists()


def test_what_a_service_refuses_is_sent_again(tmp_path, monkeypatch, warned):
    monkeypatch.setattr(boards, "SEND_SECONDS", 0.0)
    client = Client(refuses=2)
    service = Service("wandb", lambda workdir: client, tmp_path)
    for step in range(1, 5):
        service.add("train", step, {"loss": float(step)})
        service._work.join()
    service.close()
    assert client.points == [("train/loss", float(step), step) for step in range(1, 5)]
    assert warned == [f"{tmp_path}: wandb takes no metrics: no route to the service"]


def test_a_service_that_is_gone_ends_no_run(tmp_path, warned):
    def connect(workdir):
        raise OSError("not logged in")

    service = Service("wandb", connect, tmp_path)
    service.add("train", 1, {"loss": 1.0})
    service.close()
    service.close()
    assert warned == [
        f"{tmp_path}: wandb takes no metrics: not logged in",
        f"{tmp_path}: 1 points never reached wandb",
    ]


def test_a_service_that_does_not_answer_is_left(tmp_path, monkeypatch, warned):
    monkeypatch.setattr(boards, "LAST_SECONDS", 0.1)
    silent, client = threading.Event(), Client()
    monkeypatch.setattr(client, "send", lambda points: silent.wait(60))
    service = Service("wandb", lambda workdir: client, tmp_path)
    service.add("train", 1, {"loss": 1.0})
    begun = time.monotonic()
    service.close()
    assert time.monotonic() - begun < 30 and service._work.daemon
    assert warned == [f"{tmp_path}: 1 points never reached wandb"]
    silent.set()
    service._work.join()


def test_a_run_keeps_its_name_at_a_service(tmp_path):
    assert boards.kept_id(tmp_path, "wandb", lambda: "first") == "first"
    assert boards.kept_id(tmp_path, "wandb", lambda: "second") == "first"


def test_a_board_that_cannot_be_had_is_refused(tmp_path, monkeypatch):
    config = Config()
    config.records.boards = ("visdom",)
    with pytest.raises(InputError, match="`records.boards` must be one of tensorboard, mlflow, wandb; got"):
        check_config(config)
    monkeypatch.setitem(boards.SERVICES, "no_such_package", Client)
    config.records.boards = ("no_such_package",)
    check_config(config)  # a run that had it can be read
    with pytest.raises(InputError, match="no_such_package, .* is not installed: pip install it"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_mlflow_keeps_the_curves_in_its_files(tmp_path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for step in (1, 2):  # two sessions of one run
        with Records(tmp_path / "run", steps_per_epoch=4, step=step - 1, boards=("mlflow",)) as records:
            records.write(step, {"loss": 1.0 / step}, "train")
    client = tracking.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("resnet").experiment_id])
    found = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in found] == [(1, 1.0), (2, 0.5)]
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
