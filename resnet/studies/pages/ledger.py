"""The ledger: claims of papers, each named by an arm of a study, with the result here and its verdict.

A row is known by its study file, scale, changes and arm, from which its config can be had again.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnet.config import as_tuples, config_hash
from resnet.errors import InputError
from resnet.files import write_text
from resnet.studies.study import Origin, resolve, study_of

ROOT = Path(__file__).parents[3]
LEDGER = ROOT / "results" / "ledger.csv"
NUMBERS = ("error", "std", "difference", "low", "high", "detectable", "p", "p_holm")


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
    error: float | None
    """Mean over seeds; None if no run finished."""
    std: float | None
    n: int
    failed: int
    runs: int
    """Runs that ended: `n` and `failed`, or all runs of the grid if it gave no learning rate."""
    reference_n: int | None
    """Runs of the reference that finished; None for a reference arm."""
    difference: float | None
    """To the reference arm, mean over common seeds; None for a reference arm."""
    pairs: int | None
    """Those seeds: of the `n` that finished, the reference may have failed some."""
    low: float | None
    """Ends of its 95 % interval."""
    high: float | None
    detectable: float | None
    """The true difference that these runs would show in 80 of 100 studies, as the only comparison."""
    p: float | None
    """Of the paired t test."""
    p_holm: float | None
    """The same, corrected over the effects in the ledger."""
    data: str
    test_images: str
    """Fingerprint of the images the errors are of."""
    epochs: str
    learning_rate: str
    """Of our runs; the one chosen on validation where the study has a grid."""
    reference_rate: str
    """That of the reference's runs; empty for a reference arm."""
    verdict: str
    reason: str
    changes: str
    """Fields of the base that the command line set, as JSON."""
    config_hash: str
    reference_hash: str
    """Of the reference arm's config: two rows with the same hashes and learning rates measure one effect."""
    commit: str

    @property
    def origin(self) -> Origin:
        """Where the config comes from."""
        changes = json.loads(self.changes or "{}").items()
        plain = {name: as_tuples(value) for name, value in changes}
        return Origin(str(ROOT / self.study), self.scale, plain)

    @property
    def key(self) -> tuple[str, ...]:
        """What no two rows share."""
        return self.study, self.scale, self.changes, self.arm

    @property
    def effect(self) -> tuple[str, str, str, str]:
        """What a row measures: one config against another, at the learning rates that the study chose."""
        return self.config_hash, self.reference_hash, self.learning_rate, self.reference_rate


def read_ledger(path: Path = LEDGER) -> list[Row]:
    """The rows of the file; none if there is none yet."""
    if not path.exists():
        return []
    try:
        reader = csv.DictReader(io.StringIO(path.read_text("utf-8")), strict=True)
        rows: list[dict[str, Any]] = list(reader)
        if set(reader.fieldnames or ()) != {field.name for field in dataclasses.fields(Row)}:
            raise ValueError("its first line does not name the columns")
        found = [_row_from(row) for row in rows]
    except (TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is unreadable: {error}; take it from version control again") from None
    return found


def _row_from(cells: dict[str, Any]) -> Row:
    """ValueError for a line that was cut short, or whose changes are not JSON."""
    if None in cells.values():
        raise ValueError(f"the row of arm {cells['arm']!r} is cut short")
    json.loads(cells["changes"] or "{}")
    return Row(**{name: _value(name, text) for name, text in cells.items()})


def _value(name: str, text: str) -> Any:
    """What a cell holds; a number that is empty is None."""
    if name in ("n", "failed", "runs") or (name in ("pairs", "reference_n") and text):
        return int(text)
    return (float(text) if text else None) if name in (*NUMBERS, "pairs", "reference_n") else text


def write_ledger(rows: Iterable[Row], path: Path = LEDGER) -> None:
    """Sorted, so that a change shows as one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Row)], lineterminator="\n")
    writer.writeheader()
    in_order = sorted(rows, key=lambda row: (row.paper, row.table, row.key))
    writer.writerows([dataclasses.asdict(row) for row in in_order])
    write_text(path, text.getvalue())


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
