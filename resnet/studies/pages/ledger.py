"""The ledger: every claim of a paper that a study's arm names, what came out here, and what that shows.

A row is known by its study file, scale, changes and arm, from which its config can be had again.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from absl import logging

from resnet.config import Config, config_hash, replaced
from resnet.errors import InputError
from resnet.files import replacing
from resnet.runs.metrics.records import to_json
from resnet.studies.folder import StudyFolder, load_folder
from resnet.studies.pages.rows import ArmRow, arm_rows, metric_of, run_rows
from resnet.studies.pages.verdict import NOT_RUN, Outcome, as_text, judge
from resnet.studies.study import Arm, Origin, Study, load_study, resolve, with_base

ROOT = Path(__file__).parents[3]
LEDGER = ROOT / "results" / "ledger.csv"
STUDIES = ROOT / "configs" / "studies"
# Fields that say where the same data and programs lie, and not what a run is.
_SAME = ("data.name", "data.dir", "parallel.", "cache.")


@dataclasses.dataclass(frozen=True)
class Row:
    """One claim; errors and differences in percent and points of test error."""

    paper: str
    table: str
    study: str
    """Study file, from the repository's root."""
    scale: str
    arm: str
    reference: str
    published: str
    ours: str
    """Mean ± standard deviation over seeds."""
    n: int
    failed: int
    difference: str
    """To the reference arm, paired by seed, with its 95 % interval."""
    data: str
    epochs: str
    learning_rate: str
    """Of our runs; the one chosen on validation where the study has a grid."""
    verdict: str
    reason: str
    changes: str
    """Fields of the base that the command line set, as JSON."""
    config_hash: str
    commit: str

    @property
    def origin(self) -> Origin:
        """Where the config comes from."""
        changes = json.loads(self.changes or "{}").items()
        plain = {name: tuple(value) if isinstance(value, list) else value for name, value in changes}
        return Origin(str(ROOT / self.study), self.scale, plain)

    def check(self) -> None:
        """ValueError for a row that was cut short, or whose changes are not JSON."""
        if None in dataclasses.astuple(self):
            raise ValueError(f"the row of arm {self.arm!r} is cut short")
        json.loads(self.changes or "{}")

    @property
    def key(self) -> tuple[str, ...]:
        """What no two rows share."""
        return self.study, self.scale, self.changes, self.arm


def read_ledger(path: Path = LEDGER) -> list[Row]:
    """The rows of the file; none if there is none yet."""
    if not path.exists():
        return []
    try:
        reader = csv.DictReader(io.StringIO(path.read_text()), strict=True)
        rows: list[dict[str, Any]] = list(reader)
        if set(reader.fieldnames or ()) != {field.name for field in dataclasses.fields(Row)}:
            raise ValueError("its first line does not name the columns")
        for row in rows:
            row["n"], row["failed"] = int(row["n"]), int(row["failed"])
        found = [Row(**row) for row in rows]
        for row in found:
            row.check()
    except (TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is unreadable: {error}; take it from version control again") from None
    return found


def write_ledger(rows: Iterable[Row], path: Path = LEDGER) -> None:
    """Sorted, so that a change shows as one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Row)], lineterminator="\n")
    writer.writeheader()
    in_order = sorted(rows, key=lambda row: (row.paper, row.table, row.key))
    writer.writerows([dataclasses.asdict(row) for row in in_order])
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue())


def record(workdir: str | Path, path: Path = LEDGER) -> list[Row]:
    """Writes what a study's folder says of its claims into the ledger, and returns those rows."""
    folder = load_folder(workdir)
    if folder.origin is None:
        raise InputError(f"{workdir} holds a study without a file, or of before studies noted theirs; "
                         "start it again from its file")  # fmt: skip
    if metric_of(folder).name != "top1":
        raise InputError("the ledger holds test errors of classifiers")
    study = study_of(folder.origin)
    for name, arm in resolve(study).items():
        if name in folder.arms and config_hash(arm.config) != config_hash(folder.arms[name].config):
            raise InputError(f"arm {name!r} of {folder.origin.file} is not the one in {workdir} any more")
    found = [_row_of(folder, study, row) for row in arm_rows(folder) if row.arm in study.arms]
    rows = [row for row in found if row is not None]
    keys = {row.key for row in rows}
    write_ledger([row for row in read_ledger(path) if row.key not in keys] + rows, path)
    return rows


def add_what_was_not_run(path: Path = LEDGER, files: Iterable[Path] | None = None) -> list[Row]:
    """Gives each claim at paper scale that has no row one that says so; returns all rows.

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
                config, n = arms[name].config, len(study.seeds)
                reason = f"{n} runs of {config.train.duration}, {arms[name].macs / 1e6:,.0f} million multiply"
                reason += "-accumulates an image"
                rows.append(_row(study, name, config, NOT_RUN, reason))
    for row, reason in outdated(rows).items():
        logging.warning("%s, arm %s: %s", row.study, row.arm, reason)
    write_ledger(rows, path)
    return rows


def study_of(origin: Origin) -> Study:
    """The study as its file has it now, with the changes of the command line."""
    study = load_study(origin.file, origin.scale)
    return with_base(study, replaced(study.base, origin.changes))


def outdated(rows: Iterable[Row]) -> dict[Row, str]:
    """The rows that do not hold any more, each with why: its config is gone, or another."""
    reasons, arms = {}, {}
    for row in rows:
        place = (row.study, row.scale, row.changes)
        try:
            arms[place] = arms[place] if place in arms else resolve(study_of(row.origin))
        except InputError as error:
            reasons[row] = str(error)
            continue
        if row.arm not in arms[place]:
            reasons[row] = "the study has no such arm any more"
        elif (now := config_hash(arms[place][row.arm].config)) != row.config_hash:
            reasons[row] = f"its config hashes to {now}, and not to {row.config_hash}"
    return reasons


def _row_of(folder: StudyFolder, study: Study, found: ArmRow) -> Row | None:
    """The ledger's row of an arm; None where there is no claim, or nothing to compare it with yet."""
    arm, runs = study.arms[found.arm], [row for row in run_rows(folder) if row["arm"] == found.arm]
    if arm.published is None:
        return None
    n = found.summary.n if found.summary else 0
    if n + found.failed < found.expected:
        logging.warning("arm %s is not finished, and not recorded", found.arm)
        return None
    comparison = found.comparison
    outcome = Outcome(
        error=100 - found.summary.mean if found.summary else None,
        n=n,
        failed=found.failed,
        # Of errors, and not of accuracies as in the report.
        difference=-comparison.mean if comparison else None,
        low=-comparison.high if comparison and comparison.high is not None else None,
        high=-comparison.low if comparison and comparison.low is not None else None,
    )
    reference = study.arms[found.reference].published if found.reference else None
    assert study.origin is not None
    as_published = study.origin.scale == "paper" and not folder.arms[found.arm].learning_rates
    exact = as_published and all(name.startswith(_SAME) for name in study.origin.changes)
    verdict, reason = judge(arm.published, reference, outcome, exact=exact)
    if not verdict:
        return None
    counted = [row for row in runs if row["in_table"]]
    spread = f" ± {found.summary.std:.2f}" if found.summary and found.summary.std is not None else ""
    ours = {
        "ours": f"{outcome.error:.2f}{spread}" if outcome.error is not None else "",
        "n": n,
        "failed": found.failed,
        "difference": as_text(outcome),
        "epochs": f"{found.epochs:g}" if found.epochs is not None else "",
        "learning_rate": ", ".join(f"{rate:g}" for rate in sorted({row["learning_rate"] for row in counted})),
        "commit": ", ".join(sorted({row["commit"] for row in counted if row["commit"]})),
    }
    return _row(study, found.arm, folder.arms[found.arm].config, verdict, reason, **ours)


def _row(study: Study, name: str, config: Config, verdict: str, reason: str, **ours: Any) -> Row:
    """A row with what the study says of the arm; `ours` is empty where nothing was run."""
    arm, origin = study.arms[name], study.origin
    assert origin is not None
    paper, table = _source(study, arm)
    reference = arm.reference or study.reference
    words = ("ours", "difference", "epochs", "learning_rate", "commit")
    values: dict[str, Any] = {**dict.fromkeys(words, ""), "n": 0, "failed": 0, **ours}
    return Row(
        paper=paper,
        table=table,
        study=_from_root(origin.file),
        scale=origin.scale,
        arm=name,
        reference=reference if reference != name else "",
        published=str(arm.published),
        data=_data(config),
        verdict=verdict,
        reason=reason,
        changes=to_json(dict(sorted(origin.changes.items()))) if origin.changes else "",
        config_hash=config_hash(config),
        **values,
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
