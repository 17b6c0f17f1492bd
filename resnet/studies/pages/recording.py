"""From a study's folder to rows of the ledger, and rows for the claims that were not run."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from resnet.config import Config, config_hash
from resnet.errors import InputError
from resnet.runs.metrics.records import to_json
from resnet.studies.folder import StudyFolder
from resnet.studies.kept import STUDIES, open_study
from resnet.studies.pages.effects import judged
from resnet.studies.pages.ledger import (
    LEDGER,
    NUMBERS,
    ROOT,
    Row,
    outdated,
    read_ledger,
    write_ledger,
)
from resnet.studies.pages.rows import TEST, ArmRow, arm_rows, metric_of, run_rows
from resnet.studies.pages.verdict import NOT_RUN
from resnet.studies.study import Arm, ResolvedArm, Study, load_study, resolve, study_of


def record(workdir: str | Path, path: Path = LEDGER) -> list[Row]:
    """Writes what a study's folder says of its claims into the ledger, and returns those rows."""
    folder = open_study(workdir)
    if folder.origin is None:
        raise InputError(f"{workdir} holds a study without a file, or of before studies noted theirs; "
                         "start it again from its file")  # fmt: skip
    metric = metric_of(folder)
    if metric.name != "top1" or metric.split != TEST:
        raise InputError("the ledger holds test errors of classifiers")
    study = study_of(folder.origin)
    for name, arm in resolve(study).items():
        if name in folder.arms and config_hash(arm.config) != config_hash(folder.arms[name].config):
            raise InputError(f"arm {name!r} of {folder.origin.file} is not the one in {workdir} any more")
    found = {row.arm: row for row in arm_rows(folder)}
    over = {name for name, row in found.items() if _ended(folder, name) >= row.expected}
    measured = [_row_of(folder, study, name, found, over) for name in found if name in study.arms]
    rows = [row for row in measured if row is not None]
    keys = {row.key for row in rows}
    write_ledger(judged([*(row for row in read_ledger(path) if row.key not in keys), *rows]), path)
    return [row for row in read_ledger(path) if row.key in keys]


def add_what_was_not_run(path: Path = LEDGER, files: Iterable[Path] | None = None) -> list[Row]:
    """Gives each claim at paper scale without a row one that says so; judges all anew and returns them.

    `files` are the studies' files, all those in configs/studies by default.
    """
    rows = [row for row in read_ledger(path) if row.verdict != NOT_RUN]
    known = {(row.study, row.arm) for row in rows if row.scale == "paper"}
    for file in sorted(STUDIES.glob("*.py")) if files is None else files:
        try:
            study = load_study(file, "paper")
        except InputError as error:
            logging.info("%s has no claims at paper scale: %s", file, error)
            continue
        claims = [name for name, arm in study.arms.items() if arm.published is not None]
        arms = resolve(study) if claims else {}
        for name in claims:
            if (_from_root(file), name) not in known:
                macs, n = arms[name].macs / 1e6, len(study.seeds)
                reason = f"{n} runs of {arms[name].config.train.duration}, {macs:,.0f} million multiply"
                rows.append(_row(study, arms, name, verdict=NOT_RUN, reason=f"{reason}-accumulates an image"))
    for row, reason in outdated(rows).items():
        logging.warning("%s, arm %s: %s", row.study, row.arm, reason)
    rows = judged(rows)
    write_ledger(rows, path)
    return rows


def _ended(folder: StudyFolder, name: str) -> int:
    """How many of the runs that stand for an arm finished or failed."""
    return sum(run.over for run in folder.runs(name))


def _row_of(
    folder: StudyFolder, study: Study, name: str, rows: Mapping[str, ArmRow], over: set[str]
) -> Row | None:
    """The row of an arm. None without a claim, or while runs of the arm or of its reference are to come."""
    if study.arms[name].published is None:
        return None
    found, reference = rows[name], rows.get(rows[name].reference)
    if not over >= {name, found.reference or name}:
        logging.warning("arm %s, or what it is compared with, is not finished, and not recorded", name)
        return None
    counted = _counted(folder, name)
    images = {row.get("test_images") or "" for row in counted}
    c = found.comparison
    return _row(
        study,
        folder.arms,
        name,
        error=100 - found.summary.mean if found.summary else None,
        std=found.summary.std if found.summary else None,
        n=_number(found),
        failed=found.failed,
        runs=_ended(folder, name),
        reference_n=_number(reference) if reference else None,
        # Of errors, and not of accuracies as in the report.
        difference=-c.mean if c else None,
        pairs=c.n if c else None,
        low=-c.high if c and c.high is not None else None,
        high=-c.low if c and c.low is not None else None,
        detectable=c.detectable if c else None,
        p=c.p if c else None,
        test_images=images.pop() if len(images) == 1 else "",
        epochs=f"{found.epochs:g}" if found.epochs is not None else "",
        learning_rate=_rates(counted),
        reference_rate=_rates(_counted(folder, found.reference)) if found.reference else "",
        commit=", ".join(sorted({row["commit"] for row in counted if row["commit"]})),
    )


def _counted(folder: StudyFolder, name: str) -> list[dict[str, Any]]:
    """Returns the rows of the runs that an arm's result is the mean of."""
    return [row for row in run_rows(folder) if row["arm"] == name and row["in_table"]]


def _rates(rows: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(f"{rate:g}" for rate in sorted({row["learning_rate"] for row in rows}))


def _number(row: ArmRow) -> int:
    return row.summary.n if row.summary else 0


def _row(study: Study, arms: Mapping[str, ResolvedArm], name: str, **values: Any) -> Row:
    """A row with what the study says of the arm; what `values` lacks was not measured."""
    arm, origin, config = study.arms[name], study.origin, arms[name].config
    assert origin is not None
    paper, table = _source(study, arm)
    reference = arms[name].reference
    texts = "test_images", "epochs", "learning_rate", "reference_rate", "commit", "verdict", "reason"
    empty = dict.fromkeys(texts, "")
    measured: dict[str, Any] = {
        **dict.fromkeys(NUMBERS),
        **empty,
        **dict.fromkeys(("n", "failed", "runs"), 0),
        **dict.fromkeys(("pairs", "reference_n")),
        **values,
    }
    return Row(
        paper=paper,
        table=table,
        study=_from_root(origin.file),
        scale=origin.scale,
        arm=name,
        reference=reference,
        published=str(arm.published),
        data=_data(config),
        changes=to_json(dict(sorted(origin.changes.items()))) if origin.changes else "",
        config_hash=config_hash(config),
        reference_hash=config_hash(arms[reference].config) if reference else "",
        **measured,
    )


def _source(study: Study, arm: Arm) -> tuple[str, str]:
    """(paper, table) of an arm's claim."""
    source = arm.published.source if arm.published is not None else ""
    return (source, "") if source else (study.paper, study.table)


def _data(config: Config) -> str:
    """The data set, with what makes it another one."""
    data = config.data
    folder = f" ({Path(data.dir).name})" if data.name == "image_folder" else ""
    return f"{data.name}{folder}" + (f", {data.train_limit} images" if data.train_limit else "")


def _from_root(file: str | Path) -> str:
    path = Path(file).absolute()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
