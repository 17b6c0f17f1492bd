"""A study started, resumed or, as a dry run, estimated."""

from pathlib import Path
from typing import Any

from absl import logging

from resnet.studies.folder import (
    StudyFolder,
    open_folder,
    order_of_work,
    save_folder,
    states,
)
from resnet.studies.runner import run_arms
from resnet.studies.study import Study
from resnet.training.member import FAILURE as FAILED


def launch(
    study: Study,
    workdir: Path,
    *,
    only: tuple[str, ...] = (),
    dry_run: bool = False,
    retry: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Starts or resumes a study; returns how many of its runs are in which state.

    `only` names arms; `retry` runs failed runs again.
    """
    folder = open_folder(study, workdir, command)
    names = list(order_of_work(folder, only))
    if dry_run:
        return _describe(folder, names)
    save_folder(folder)
    if retry:
        for run in (run for name in names for run in folder.all_runs(name)):
            (run.workdir / FAILED).unlink(missing_ok=True)
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
