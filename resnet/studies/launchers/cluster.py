"""A study on a Slurm cluster: one array job, each of its jobs a piece of the work.

Slurm only starts and stops processes. What has been done is in the study's folder, which a job reads when
it starts, however often that is; submitit (an extra) only submits.
"""

import dataclasses
import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from resnet.errors import InputError
from resnet.files import read_object
from resnet.runs.lock import holding
from resnet.runs.metrics.records import write_json
from resnet.runtime.logs import log_to_stderr
from resnet.runtime.machine import prepare
from resnet.runtime.processes import together
from resnet.runtime.signals import BEFORE_LEAVING, RunStopped, may_end_process
from resnet.studies.folder import StudyFolder
from resnet.studies.runner import Piece, run_piece
from resnet.studies.stored import load_folder
from resnet.studies.study import JOBS_FOLDER as FOLDER

JOBS = "jobs.json"

_NUMBERS = (
    "time",
    "nodes",
    "ntasks_per_node",
    "cpus_per_task",
    "gpus_per_node",
    "gpus_per_task",
    "array_parallelism",
)
_WORDS = ("partition", "mem", "account", "qos", "constraint")
_NOTICE = 120  # seconds between the signal that asks a job to save and the end of its time
_LEAST_MINUTES = 5


def check_parameters(parameters: Mapping[str, str]) -> dict[str, str | int]:
    """Parameters of sbatch by submitit's names, `time` in minutes; InputError for what cannot work."""
    known = (*_NUMBERS, *_WORDS)
    checked: dict[str, str | int] = {"time": 60}
    for name, value in parameters.items():
        if name not in known:
            raise InputError(f"--slurm knows {', '.join(known)}; got {name!r}")
        if name in _NUMBERS and not (value.isdecimal() and int(value)):
            raise InputError(f"--slurm={name}=… must be a whole number, at least 1; got {value!r}")
        checked[name] = int(value) if name in _NUMBERS else value
    if int(checked["time"]) < _LEAST_MINUTES:
        raise InputError(f"--slurm=time=… must be at least {_LEAST_MINUTES} minutes, the last {_NOTICE} s "
                         f"of which are for saving; got {checked['time']}")  # fmt: skip
    return checked


def submit(
    folder: StudyFolder, pieces: list[Piece], parameters: dict[str, str | int], command: str
) -> dict[str, Any]:
    """Submits the pieces that no job waits with or works on, and returns at once.

    They are one array, or several where that would be too long for the cluster.
    """
    executor = _executor(folder, parameters)
    # Of two that submit at once, one is refused.
    with holding(folder.workdir / FOLDER):
        queue = _ask_queue()
        queued = {job: piece for job, piece in _jobs(folder.workdir).items() if job in queue}
        for job, piece in queued.items():
            logging.info("job %s is in the queue already: %s", job, piece)
        pieces = _not_in(queued, _without_choosing(folder, queued, pieces))
        submitted = {}
        # Noted after each array, so that what was submitted before one that is refused is known.
        for part in arrays(pieces, _longest_array()):
            submitted |= _submit(executor, folder.workdir, part, command)
            jobs = {job: dataclasses.asdict(piece) for job, piece in (queued | submitted).items()}
            write_json(folder.workdir / FOLDER / JOBS, jobs)
    return {"submitted": list(submitted), "queued_before": list(queued)}


def arrays(pieces: list[Piece], longest: int | None) -> list[list[Piece]]:
    """The pieces of each array, none of which has more than `longest` jobs (None: any number)."""
    size = longest or max(len(pieces), 1)
    return [pieces[i : i + size] for i in range(0, len(pieces), size)]


def _longest_array() -> int | None:
    """The most jobs that the cluster takes in one array; None if it does not say."""
    asked = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True)
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)\s*$", asked.stdout, re.MULTILINE)
    return int(found[1]) or None if found else None


def _submit(executor: Any, workdir: Path, pieces: list[Piece], command: str) -> dict[str, Piece]:
    """The array's jobs by their ids, such as "12_0"."""
    n = len(pieces)
    try:
        jobs = executor.map_array(run_job, [str(workdir.absolute())] * n, pieces, [command] * n)
    except Exception as error:  # submitit's have no base of their own
        raise InputError(f"sbatch refused the jobs: {error}") from None
    for job, piece in zip(jobs, pieces, strict=True):
        logging.info("job %s: %s", job.job_id, piece)
    return dict(zip((job.job_id for job in jobs), pieces, strict=True))


def _executor(folder: StudyFolder, parameters: dict[str, str | int]) -> Any:
    """Makes the object of submitit that submits jobs; InputError if `srun` is missing."""
    import submitit

    try:
        executor = submitit.SlurmExecutor(folder.workdir.absolute() / FOLDER)
    except RuntimeError:
        raise InputError("--launcher=slurm needs Slurm, and there is no `srun` on this machine") from None
    # Slurm hands a job's processors to its step only where the step asks for them again.
    step = [f"--cpus-per-task={parameters['cpus_per_task']}"] if "cpus_per_task" in parameters else []
    logs = log_patterns(folder.workdir.absolute() / FOLDER)
    paths = f'export PYTHONPATH={shlex.quote(str(Path(__file__).parents[3]))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
    executor.update_parameters(
        **parameters,
        job_name="study",
        setup=[paths],
        srun_args=[*step, *(f"--{name}={pattern}" for name, pattern in logs.items())],
        additional_parameters={"signal": f"TERM@{_NOTICE}", "requeue": True, **logs},
    )
    return executor


def log_patterns(folder: Path) -> dict[str, str]:
    """Slurm's patterns of the logs of an array's jobs in `folder`, whose own percent signs are doubled.

    InputError for a path that submitit or Slurm would take for another.
    """
    if found := re.search(r"%[jtaA]|[\\\r\n]", str(folder)):
        raise InputError(
            f"--launcher=slurm: submitit and Slurm read {found[0]!r} in {str(folder)!r} as a pattern; "
            "choose another workdir"
        )
    place = str(folder).replace("%", "%%")
    return {"output": f"{place}/%A_%a_0_log.out", "error": f"{place}/%A_%a_0_log.err"}


def _jobs(workdir: Path) -> dict[str, Piece]:
    """The jobs of earlier submissions, finished ones too."""
    path = workdir / FOLDER / JOBS
    remedy = "delete it once no job of the study is in the queue"
    known = read_object(path, remedy=remedy) if path.exists() else {}
    try:
        return {job: Piece(piece["arm"], tuple(map(tuple, piece["groups"]))) for job, piece in known.items()}
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is unreadable: {error}; {remedy}") from None


def check_cluster() -> None:
    """Raises InputError unless submitit is installed and Slurm answers."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise InputError("--launcher=slurm needs submitit: pip install -r requirements-slurm.txt") from None
    _ask_queue()


def _ask_queue() -> set[str]:
    """Jobs of this user that wait or run, such as "12_0"; InputError if Slurm does not answer."""
    try:
        asked = subprocess.run(
            ["squeue", "--me", "--array", "--noheader", "--format=%i"], capture_output=True, text=True
        )
    except FileNotFoundError:
        raise InputError("--launcher=slurm needs Slurm, and there is no `squeue` on this machine") from None
    if asked.returncode:
        raise InputError(f"squeue fails: {' '.join(asked.stderr.split())}")
    return set(asked.stdout.split())


def _without_choosing(folder: StudyFolder, queued: dict[str, Piece], pieces: list[Piece]) -> list[Piece]:
    """The pieces without those of arms whose learning rate a queued job chooses: their seeds wait for it."""
    grids = {name for name, arm in folder.arms.items() if arm.learning_rates}
    choosing = {piece.arm: job for job, piece in queued.items() if piece.arm in grids}
    for piece in pieces:
        if piece.arm in choosing:
            logging.info("%s waits for the learning rate that job %s chooses", piece, choosing[piece.arm])
    return [piece for piece in pieces if piece.arm not in choosing]


def _not_in(queued: dict[str, Piece], pieces: list[Piece]) -> list[Piece]:
    """The pieces without the seeds that already have a job."""
    taken = {(p.arm, seed) for p in queued.values() for group in p.groups for seed in group}
    left = []
    for piece in pieces:
        groups = (tuple(s for s in group if (piece.arm, s) not in taken) for group in piece.groups)
        if groups := tuple(group for group in groups if group):
            left.append(Piece(piece.arm, groups))
    return left


def run_job(workdir: str, piece: Piece, command: str) -> None:
    """Works on a job's piece from where the study's folder stands; each requeue calls it again.

    The tasks of a job, on one node or several, train each run together.
    """
    log_to_stderr()
    folder = load_folder(workdir)
    may_end_process()
    BEFORE_LEAVING.append(_requeue_if_running)
    try:
        with together():
            prepare(folder.arms[piece.arm].config)
            run_piece(folder, piece, command)
    except RunStopped as stopped:
        if stopped.exit_code > 128:  # by a signal; what the disk refused would be refused again
            _requeue_if_running()
        raise


def _requeue_if_running() -> None:
    """Puts this job back into the queue if its state in Slurm is still "running"; the first task does.

    In that state the signal announced a preemption or the end of the job's time. A job that was cancelled or
    requeued by others has another state.
    """
    if os.environ.get("SLURM_PROCID", "0") != "0":
        return
    array, index = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    job = f"{array}_{index}" if array else os.environ["SLURM_JOB_ID"]
    asked = ["squeue", f"--jobs={job}", "--noheader", "--format=%T"]
    state = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    if state == "RUNNING":
        logging.info("job %s goes back into the queue", job)
        subprocess.run(["scontrol", "requeue", job], check=True)
