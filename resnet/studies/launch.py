"""A study started, resumed or, as a dry run, estimated; here or on a cluster."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from resnet.errors import InputError, check_at_least, check_choice
from resnet.files import local_path
from resnet.runs.open_run import FAILURE_FILE
from resnet.runs.task import check_apart_from_images
from resnet.studies.folder import FAILURE, StudyFolder, order_of_work, states
from resnet.studies.kept import with_kept
from resnet.studies.launchers.cluster import check_cluster, check_parameters, submit
from resnet.studies.launchers.jobs import run_in_jobs, share_devices
from resnet.studies.runner import Piece, pieces_of_work, run_pieces
from resnet.studies.stored import FILE, locked, open_folder, save_folder
from resnet.studies.study import Study

LAUNCHERS = ("local", "slurm")


def launch(
    study: Study,
    workdir: Path,
    *,
    only: tuple[str, ...] = (),
    dry_run: bool = False,
    retry: bool = False,
    seeds_together: int | None = None,
    launcher: str = "local",
    slurm: Mapping[str, str] | None = None,
    jobs: int = 1,
    kept: Path | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Starts or resumes a study; returns how many of its runs are in which state.

    `only` names arms; `retry` runs failed runs again; what ended on the page in the folder `kept` counts as
    done; `seeds_together` limits how many seeds of an arm are one program. The launcher "slurm" submits an
    array job with the parameters `slurm` (see check_parameters) and returns at once; "local" returns when all
    is done, by so many `jobs` at once.
    """
    _check_launcher(launcher, jobs, slurm or {})
    if seeds_together is not None:
        check_at_least("seeds_together", seeds_together, 1)
    if jobs > 1:
        share_devices()
    parameters = _parameters(launcher, slurm or {}, dry_run)
    workdir = local_path(workdir)
    opened = functools.partial(_opened, study, workdir, command, kept, only if retry else None)
    before, folder = _written(workdir), opened()
    names = list(order_of_work(folder, only))  # refuses unknown ones before anything is written
    for data in {folder.arms[name].config.data for name in names}:
        check_apart_from_images(data, workdir)
    if dry_run:
        pieces = pieces_of_work(folder, only, seeds_together)
        found = _describe(folder, names)
        return found | (_describe_array(pieces) if launcher == "slurm" else {})
    with locked(workdir):
        if _written(workdir) != before:  # by a start beside this one, whose seeds and rows count too
            folder = opened()
        save_folder(folder)
    for path in folder.again:
        (path / FAILURE_FILE).unlink(missing_ok=True)
    folder = dataclasses.replace(folder, again=frozenset())
    if jobs > 1:
        return run_in_jobs(folder, only, seeds_together, jobs, command)
    pieces = pieces_of_work(folder, only, seeds_together)
    if parameters is None:
        return run_pieces(folder, pieces, command)
    return states(folder) | submit(folder, pieces, parameters, command)


def _opened(
    study: Study, workdir: Path, command: str, kept: Path | None, again: tuple[str, ...] | None
) -> StudyFolder:
    """Opens the study's folder and adds the runs of kept pages; writes nothing.

    Failed runs of the arms `again` are not over, and are trained again. () stands for all arms, and None
    for none.
    """
    folder = with_kept(open_folder(study, workdir, command), study, kept)
    if again is None:
        return folder
    names = list(order_of_work(folder, again))
    rows = folder.rows.items()
    still = {path: row for path, row in rows if row["state"] != FAILURE or row["arm"] not in names}
    failed = {run.workdir for name in names for run in folder.all_runs(name) if run.state == FAILURE}
    return dataclasses.replace(folder, rows=still, again=frozenset(failed))


def _written(workdir: Path) -> bytes:
    """What study.json holds; nothing where there is none."""
    path = workdir / FILE
    return path.read_bytes() if path.is_file() else b""


def _check_launcher(launcher: str, jobs: int, slurm: Mapping[str, str]) -> None:
    """Raises InputError for an unknown launcher, or what is given for the other one."""
    check_choice("launcher", launcher, LAUNCHERS)
    check_at_least("jobs", jobs, 1)
    if jobs > 1 and launcher != "local":
        raise InputError(f"`jobs` is for the launcher local; {launcher} takes array_parallelism; got {jobs}")
    if slurm and launcher != "slurm":
        given = ",".join(f"{name}={value}" for name, value in slurm.items())
        raise InputError(
            f"`slurm` is for the launcher slurm; got {given} with {launcher}: choose the launcher slurm too"
        )


def _parameters(launcher: str, slurm: Mapping[str, str], dry_run: bool) -> dict[str, str | int] | None:
    """Parameters of the array job, if one is to be submitted; InputError before there is a folder."""
    if launcher != "slurm":
        return None
    parameters = check_parameters(slurm)
    if not dry_run:
        check_cluster()
    return parameters


def _describe(folder: StudyFolder, names: list[str]) -> dict[str, Any]:
    """Logs the runs that are left and their estimates; writes nothing."""
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


def _describe_array(pieces: list[Piece]) -> dict[str, Any]:
    """The jobs of the array, by index."""
    lines = [f"{index}: {piece}" for index, piece in enumerate(pieces)]
    logging.info("an array of %d jobs%s", len(pieces), "".join(f"\n  {line}" for line in lines))
    return {"array": lines}


def _minutes(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds / 60:.1f}"


def _megabytes(size: float | None) -> str:
    return "?" if size is None else f"{size / 1e6:,.0f}"
