"""Where a study runs: in this process, or as one Slurm array job with an element for each arm."""

import dataclasses
from pathlib import Path
from typing import Any

from absl import logging

from resnet.errors import InputError
from resnet.studies.folder import (
    FAILED,
    StudyFolder,
    load_folder,
    open_folder,
    order_of_work,
    save_folder,
    states,
)
from resnet.studies.runner import run_arm, run_arms
from resnet.studies.study import Study

SLURM_FOLDER = "slurm"
MINUTES = 600  # of an array element, unless --slurm=time=… says otherwise


def launch(
    study: Study,
    workdir: Path,
    *,
    launcher: str = "local",
    only: tuple[str, ...] = (),
    dry_run: bool = False,
    retry: bool = False,
    slurm: list[str] | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Starts or resumes a study; returns how many of its runs are in which state.

    `only` names arms; `retry` runs failed runs again; `slurm` holds options of sbatch, "name=value".
    """
    folder = open_folder(study, workdir, command)
    names = list(order_of_work(folder, only))
    if dry_run:
        return _describe(folder, names)
    save_folder(folder)
    if retry:
        for run in (run for name in names for run in folder.all_runs(name)):
            (run.workdir / FAILED).unlink(missing_ok=True)
    if launcher == "slurm":
        return submit(folder, names, dict(_option(text) for text in slurm or []), command)
    return run_arms(folder, only, command)


def _describe(folder: StudyFolder, names: list[str]) -> dict[str, Any]:
    """The runs that are left, and what they will take; nothing is written."""
    import tabulate

    from resnet.studies.estimate import estimate

    rows = estimate(folder, names)
    table = [
        (r.arm, r.runs_left, f"{r.parameters:,}", f"{r.macs:,}", _minutes(r.seconds), _megabytes(r.bytes))
        for r in rows
    ]
    headers = ("arm", "runs left", "parameters", "MACs", "minutes a run", "MB a run")
    logging.info("%s\n%s", folder.title, tabulate.tabulate(table, headers, disable_numparse=True))
    seconds = [row.seconds * row.runs_left for row in rows if row.seconds is not None]
    total = round(sum(seconds) / 60, 1) if len(seconds) == len(rows) else None
    matched = {name: folder.arms[name].matched for name in names if folder.arms[name].matched}
    return states(folder) | {"estimated_minutes": total, "matched": matched}


def _minutes(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds / 60:.1f}"


def _megabytes(size: float | None) -> str:
    return "?" if size is None else f"{size / 1e6:,.0f}"


@dataclasses.dataclass(frozen=True)
class ArmJob:
    """What an element of the array does. Submitted again after a preemption, it resumes the arm."""

    workdir: Path
    command: str

    def __call__(self, name: str) -> dict[str, int]:
        """Runs what is left of one arm."""
        logging.set_verbosity(logging.INFO)
        folder = load_folder(self.workdir)
        run_arm(folder, name, self.command)
        return states(folder)

    def checkpoint(self, name: str) -> Any:
        """The job that submitit puts back into the queue at the time limit: the same one."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, name)


def submit(
    folder: StudyFolder, names: list[str], options: dict[str, str | bool], command: str
) -> dict[str, Any]:
    """Submits one array job with an element for each arm that has runs left, and does not wait."""
    import submitit

    left = [n for n in names if sum(r.over for r in folder.all_runs(n)) < folder.expected(n)]
    if not left:
        return states(folder) | {"workdir": str(folder.workdir)}
    try:
        executor = submitit.SlurmExecutor(folder=(folder.workdir / SLURM_FOLDER).absolute())
    except RuntimeError as error:
        raise InputError(f"--launcher=slurm: {error}; run it where sbatch is installed") from None
    root = Path(__file__).parents[2]
    parameters: dict[str, Any] = {"time": MINUTES, "job_name": "study", "requeue": True} | options
    executor.update_parameters(
        time=parameters.pop("time"),
        job_name=parameters.pop("job_name"),
        setup=[f"export PYTHONPATH={root}:$PYTHONPATH", f"cd {root}"],
        use_srun=True,
        additional_parameters=parameters,
    )
    job = ArmJob(folder.workdir.absolute(), command)
    with executor.batch():
        jobs = [executor.submit(job, name) for name in left]
    first = jobs[0].job_id
    logging.info("submitted %d arms as %s; logs in %s", len(jobs), first, folder.workdir / SLURM_FOLDER)
    return states(folder) | {"workdir": str(folder.workdir), "job": first.split("_")[0]}


def _option(text: str) -> tuple[str, str | bool]:
    """("partition", "gpu") of "partition=gpu"; a name alone is a switch."""
    name, given, value = text.partition("=")
    return name, value if given else True
