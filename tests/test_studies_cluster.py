"""A study on a real Slurm: preempted, requeued, finished, and equal to the study run here."""

import logging
import subprocess
import sys
import types

import pytest
from absl import logging as absl_logging

from resnet.config import replaced
from resnet.errors import InputError
from resnet.runs import lock
from resnet.runs.lock import WorkdirHeld
from resnet.runs.metrics import records
from resnet.runtime.devices import make_mesh
from resnet.runtime.signals import RunStopped
from resnet.studies import runner
from resnet.studies.launch import launch
from resnet.studies.launchers import cluster
from resnet.studies.launchers.cluster import _not_in, _without_choosing, check_parameters
from resnet.studies.runner import Piece, pieces_of_work
from resnet.studies.stored import load_folder, open_folder, save_folder
from resnet.training.loop import train
from tests.processes_cases import free_port
from tests.studies_cases import tiny_config, tiny_study
from tests.studies_slurm import missing, slurm, slurm_says, wait_until


def test_a_study_is_cut_into_pieces_that_need_not_wait_for_each_other(tmp_path):
    folder = open_folder(tiny_study(seeds=(0, 1, 2)), tmp_path, "")
    assert pieces_of_work(folder, ("none",)) == [Piece("none", ((0, 1, 2),))]
    both = [Piece(name, (seeds,)) for name in ("identity", "none") for seeds in ((0, 1), (2,))]
    assert pieces_of_work(folder, seeds_together=2) == both
    grid = open_folder(tiny_study(seeds=(0, 1, 2), learning_rates=(0.1, 0.05)), tmp_path, "")
    assert pieces_of_work(grid, ("none",), 2) == [Piece("none", ((0, 1), (2,)))]
    finished = tmp_path / "none" / "seed2"
    finished.mkdir(parents=True)
    (finished / "result.json").write_text("{}")
    assert pieces_of_work(folder, ("none",), 2) == [Piece("none", ((0, 1),))]


def test_seeds_of_an_arm_wait_for_the_job_that_chooses_its_learning_rate(tmp_path):
    """Their own job would end at once, as they have no learning rate yet."""
    folder = open_folder(tiny_study(seeds=(0, 1, 2), learning_rates=(0.1, 0.05)), tmp_path, "")
    queued = {"1_0": Piece("none", ((0, 1),)), "1_1": Piece("of an older file", ((0,),))}
    pieces = pieces_of_work(folder)
    assert {piece.arm for piece in _without_choosing(folder, queued, pieces)} == {"identity"}
    plain = open_folder(tiny_study(seeds=(0, 1, 2)), tmp_path / "plain", "")
    pieces = pieces_of_work(plain, ("none",))
    assert _not_in(queued, _without_choosing(plain, queued, pieces)) == [Piece("none", ((2,),))]


def test_warnings_of_single_runs_stay_in_the_log_of_a_study():
    def shown(level):
        record = logging.getLogger().makeRecord("x", level, records.__file__, 1, "text", (), None)
        return bool(absl_logging.get_absl_handler().filter(record))

    with runner._without_metrics():
        assert not shown(logging.INFO) and shown(logging.WARNING) and shown(logging.ERROR)
    assert shown(logging.INFO)


def test_runs_that_another_process_is_at_are_left_to_it(tmp_path, monkeypatch):
    trained = []

    def train(config, workdirs, *_, **__):
        if any(lock.is_held(workdir) for workdir in workdirs.values()):
            raise WorkdirHeld("in use by process 1")
        trained.append((config.model.shortcut, *workdirs))
        return {seed: {"failed": "tried"} for seed in workdirs}

    monkeypatch.setattr(runner, "train", train)
    with lock.holding(tmp_path / "identity/seed0"):
        assert launch(tiny_study(), tmp_path)["not started"] == 4
        with lock.holding(tmp_path / "identity/seed1"):
            launch(tiny_study(), tmp_path, only=("identity",))
    assert trained == [("identity", 1), ("none", 0, 1)]


@pytest.mark.parametrize(("code", "asked"), [(143, 1), (1, 0)])
def test_a_job_goes_back_into_the_queue_after_a_signal_alone(tmp_path, monkeypatch, code, asked):
    """What a full disk refused would be refused again."""
    save_folder(open_folder(tiny_study(), tmp_path, ""))
    requeued = []

    def run_piece(*_):
        raise RunStopped("stopped", exit_code=code)

    for name in ("may_end_process", "log_to_stderr", "prepare"):
        monkeypatch.setattr(cluster, name, lambda *_: None)
    monkeypatch.setattr(cluster, "run_piece", run_piece)
    monkeypatch.setattr(cluster, "_requeue_if_running", lambda: requeued.append(0))
    monkeypatch.setattr(cluster, "BEFORE_LEAVING", [])
    with pytest.raises(RunStopped):
        cluster.run_job(str(tmp_path), Piece("identity", ((0, 1),)), "")
    assert len(requeued) == asked


def test_parameters_of_jobs_are_checked_before_anything_is_submitted():
    assert check_parameters({"partition": "gpu", "gpus_per_node": "1"}) == {
        "time": 60,
        "partition": "gpu",
        "gpus_per_node": 1,
    }
    for wrong, message in (
        ({"gpu": "1"}, "--slurm knows time, nodes, ntasks_per_node"),
        ({"time": "1:00:00"}, "--slurm=time=… must be a whole number, at least 1; got '1:00:00'"),
        (
            {"array_parallelism": "0"},
            "--slurm=array_parallelism=… must be a whole number, at least 1; got '0'",
        ),
        ({"time": "2"}, "must be at least 5 minutes"),
    ):
        with pytest.raises(InputError, match=message):
            check_parameters(wrong)


def test_without_submitit_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match="needs submitit: pip install -r requirements-slurm.txt"):
        launch(tiny_study(), tmp_path / "s", launcher="slurm")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("found", [True, False])
def test_a_cluster_that_does_not_answer_leaves_no_folder(tmp_path, monkeypatch, found):
    pytest.importorskip("submitit")

    def asked(command, **_):
        if not found:
            raise FileNotFoundError(command[0])
        return types.SimpleNamespace(returncode=1, stdout="", stderr="squeue: error:\nno controller\n")

    monkeypatch.setattr(cluster.subprocess, "run", asked)
    told = (
        "squeue fails: squeue: error: no controller" if found else "Slurm, and there is no `squeue` on this"
    )
    with pytest.raises(InputError, match=told):
        launch(tiny_study(), tmp_path / "s", launcher="slurm")
    assert not (tmp_path / "s").exists()


@pytest.mark.thorough
def test_a_dry_run_shows_the_array(tmp_path):
    counts = launch(tiny_study(), tmp_path / "s", launcher="slurm", dry_run=True, seeds_together=1)
    assert counts["array"][:2] == ["0: identity: seeds 0", "1: identity: seeds 1"]
    assert len(counts["array"]) == 4 and not (tmp_path / "s").exists()


def results(workdir):
    """What came out of every run, but where and how fast."""
    folder, others = load_folder(workdir), ("seconds", "images_per_second", "workdir")
    runs = [run for name in folder.arms for run in folder.runs(name)]
    kept = [{key: value for key, value in run.result.items() if key not in others} for run in runs]
    return {(run.arm, run.seed): result for run, result in zip(runs, kept, strict=True)}


def says(workdir, text, job=""):
    """Whether the jobs, or one of them, have logged it, and how often."""
    return sum(path.read_text().count(text) for path in (workdir / "slurm").glob(f"{job}*.err"))


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing() or "there is Slurm")
def test_the_tasks_of_a_job_train_each_run_together(tmp_path, monkeypatch):
    """One job of two tasks: the weights are those of one process with two devices, seed by seed."""
    pytest.importorskip("submitit", reason="submitit is not installed (requirements-slurm.txt)")
    # The one node of this Slurm has no name that the network knows.
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", f"127.0.0.1:{free_port()}")
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    study = tiny_study(base=replaced(tiny_config(), {"parallel.host_devices": 1}))
    parameters = {"partition": "main", "time": "10", "nodes": "1", "ntasks_per_node": "2"}
    (tmp_path / "cluster").mkdir()
    there = tmp_path / "there"
    with slurm(tmp_path / "cluster"):
        submitted = launch(study, there, launcher="slurm", slurm=parameters, only=("identity",))["submitted"]
        assert len(submitted) == 1
        wait_until(lambda: not slurm_says("squeue", "--noheader"), 300)
    assert says(there, "process 1 of 2") or says(there, "process 0 of 2")
    config = load_folder(there).arms["identity"].at(0, None)
    expected = train(config, {seed: tmp_path / f"here{seed}" for seed in (0, 1)}, mesh=make_mesh(2))
    found = {run.seed: run.result for run in load_folder(there).runs("identity")}
    assert {seed: found[seed]["sha256"] for seed in found} == {
        seed: expected[seed]["sha256"] for seed in expected
    }


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing() or "there is Slurm")
def test_preempted_jobs_resume_and_end_as_they_would_have_here(tmp_path):
    pytest.importorskip("submitit", reason="submitit is not installed (requirements-slurm.txt)")
    changes = {
        "train.duration": "1000 steps",
        "train.log_every": "20 steps",
        "train.evaluate_every": "500 steps",
        "checkpoint.every": "250 steps",
        "parallel.host_devices": 2,  # as many as the tests' own process has
    }
    study = tiny_study(base=replaced(tiny_config(), changes))
    there, here = tmp_path / "there %x", tmp_path / "here"  # %x is a pattern of Slurm
    options = {"launcher": "slurm", "slurm": {"partition": "main", "time": "10"}}
    (tmp_path / "cluster").mkdir()
    with slurm(tmp_path / "cluster"):
        jobs = launch(study, there, **options)["submitted"]
        assert jobs == ["1_0", "1_1"]
        again = launch(study, there, **options)
        assert again["submitted"] == [] and again["queued_before"] == jobs
        # Both train: what is sent away before its first step has nothing to resume from.
        wait_until(lambda: all(says(there, "of 1000, epoch", job) for job in jobs), 90)
        # One is sent away by a more urgent job; it saves, and asks to come back.
        urgent = ["sbatch", "--partition=urgent", "--output=/dev/null", "--wrap=exit"]
        subprocess.run(urgent, check=True, capture_output=True)
        wait_until(lambda: says(there, "goes back into the queue"), 30)
        # Slurm would make it wait for two minutes.
        wait_until(lambda: slurm_says("squeue", "--noheader", "--format=%r") == "BeginTime", 60)
        for job in jobs:
            slurm_says("scontrol", "update", f"jobid={job}", "StartTime=now")
        launch(study, here)
        wait_until(lambda: not slurm_says("squeue", "--noheader"), 60)
        assert launch(study, there, **options)["submitted"] == []
    assert says(there, "resuming at step") == 1
    assert results(there) == results(here) and all(results(here).values())
