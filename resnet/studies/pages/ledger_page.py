"""The ledger as a page: how many claims hold, and a table for each paper's table."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

from resnet.errors import InputError
from resnet.files import write_text
from resnet.runs.tables import markdown_table
from resnet.studies.pages.ledger import LEDGER, Row
from resnet.studies.pages.recording import add_what_was_not_run, record
from resnet.studies.pages.verdict import (
    LEVEL,
    NOT_RUN,
    POINTS,
    REPRODUCED,
    REVERSED,
    TIMES,
    UNDECIDED,
    VERDICTS,
    as_text,
)

HEADERS = ("arm", "published", "ours", "n", "failed", "difference to", "points", "p (Holm)", "scale, data",
           "epochs", "verdict", "reason", "commit")  # fmt: skip


def update(workdir: str | Path | None = None, path: Path = LEDGER) -> dict[str, Any]:
    """Records a study if one is given, adds what was not run, and writes the page beside the ledger.

    Returns the number of rows with each verdict. InputError outside of a clone, where there is no ledger.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} does not exist: the ledger is kept in a clone of the repository")
    recorded = record(workdir, path) if workdir else []
    rows = add_what_was_not_run(path)
    write_text(path.with_suffix(".md"), page(rows))
    return {"recorded": len(recorded), "ledger": Counter(row.verdict for row in rows)}


def page(rows: list[Row]) -> str:
    """The page as Markdown."""
    lines = ["# Ledger of published claims", "", _reading(), ""]
    lines += [markdown_table(_counts(rows), ("verdict", "claims", "effects")), ""]
    order = sorted(rows, key=lambda row: (row.paper, row.table, row.study, row.scale))
    for (paper, where), group in itertools.groupby(order, key=lambda row: (row.paper, row.table)):
        cells = list(group)
        lines += [f"## {', '.join(filter(None, (paper, where)))}", ""]
        lines += [
            f"From {', '.join(f'`{study}`' for study in dict.fromkeys(row.study for row in cells))}.",
            "",
        ]
        text = markdown_table(map(_cells, cells), HEADERS, disable_numparse=True)
        lines += [text, ""]
    return "\n".join(lines)


def _reading() -> str:
    return (
        "Test errors in percent, of the last epoch's weights, mean ± standard deviation over n seeds; "
        "differences are paired by seed, with 95 % intervals by Student's t. Verdicts are computed. Runs "
        "of the paper's nets, data, steps and learning rate reproduce an error that they meet within "
        f"{POINTS:g} points, in the order that the paper has the two arms, and with no failed run; they "
        "reproduce a bound by being beyond it. Other runs can show the order of an arm and its reference. "
        f'Such a row is "{REPRODUCED}" or "{REVERSED}" where p < {LEVEL:g} after Holm\'s correction over all '
        f'effects in the ledger; it is "{REPRODUCED}" only if the interval of its difference holds a value '
        f'within {TIMES:g} times of the published one. All else is "{UNDECIDED}", with the difference that '
        "these runs would show in 80 of 100 studies if it were the only comparison. "
        f'"{NOT_RUN}" says what it would take. Two rows that compare the same two configs at the '
        "same learning rates measure one effect, which counts once. "
        "The rows, with config hashes, are in [ledger.csv](ledger.csv); `python scripts/report.py --ledger` "
        "makes this page of them, and with `--workdir=…` records a finished study first. What rounding alone "
        "changes is in no interval: see [rounding](rounding/repeated.md)."
    )


def _counts(rows: list[Row]) -> list[tuple[str, int, int]]:
    """(verdict, claims, effects of them)."""
    effects = {verdict: {row.effect for row in rows if row.verdict == verdict} for verdict in VERDICTS}
    return [(v, sum(row.verdict == v for row in rows), len(found)) for v, found in effects.items()]


def _cells(row: Row) -> tuple[str, ...]:
    place = f"{row.scale}, {row.data}"
    changes = f" {row.changes}" if row.changes else ""
    n, failed = (str(row.n), str(row.failed)) if row.verdict != NOT_RUN else ("", "")
    commits = ", ".join(text[:8] + text[40:] for text in row.commit.split(", "))
    spread = f" ± {row.std:.2f}" if row.std is not None else ""
    ours = f"{row.error:.2f}{spread}" if row.error is not None else ""
    p = f"{row.p_holm:.2g}" if row.p_holm is not None else ""
    difference = as_text(row.difference, row.low, row.high)
    return (row.arm, row.published, ours, n, failed, row.reference, difference, p, place + changes,
            row.epochs, row.verdict, row.reason, commits)  # fmt: skip
