"""The ledger as a page: how many claims hold, and a table for each paper's table."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

from resnet.errors import InputError
from resnet.files import replacing
from resnet.runs.tables import markdown_table
from resnet.studies.pages.ledger import LEDGER, Row, add_what_was_not_run, record
from resnet.studies.pages.verdict import NOT_RUN, POINTS, VERDICTS

HEADERS = ("arm", "published", "ours", "n", "failed", "difference to", "points", "scale, data", "epochs",
           "verdict", "reason", "commit")  # fmt: skip


def update(workdir: str | Path | None = None, path: Path = LEDGER) -> dict[str, Any]:
    """Records a study if one is given, adds what was not run, and writes the page beside the ledger.

    Returns the number of rows with each verdict. InputError outside of a clone, where there is no ledger.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} does not exist: the ledger is kept in a clone of the repository")
    recorded = record(workdir, path) if workdir else []
    rows = add_what_was_not_run(path)
    with replacing(path.with_suffix(".md")) as temporary:
        temporary.write_text(page(rows))
    return {"recorded": len(recorded), "ledger": Counter(row.verdict for row in rows)}


def page(rows: list[Row]) -> str:
    """The page as Markdown."""
    counts = Counter(row.verdict for row in rows)
    lines = ["# Ledger of published claims", "", _reading(), ""]
    table = [(verdict, counts[verdict]) for verdict in VERDICTS]
    lines += [markdown_table(table, ("verdict", "claims")), ""]
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
        "Test errors in percent, of the last epoch's weights, mean ± standard deviation over n seeds. "
        "Verdicts are computed: runs at paper scale (the paper's net, data, steps and learning rate) "
        f"reproduce an error within {POINTS:g} points, or a bound by being beyond it. Runs at small scale, "
        "or of arms that each chose a learning rate, can show the order of an arm and its reference, and do "
        "where the 95 % interval of the difference, paired by seed, leaves out zero; how large it is, and "
        f'how large the published one, stands beside it. "{NOT_RUN}" says what it would take. The rows, '
        "with config hashes, are in [ledger.csv](ledger.csv); `python scripts/report.py --ledger` makes this "
        "page of them, and with `--workdir=…` records a finished study first."
    )


def _cells(row: Row) -> tuple[str, ...]:
    place = f"{row.scale}, {row.data}"
    changes = f" {row.changes}" if row.changes else ""
    n, failed = (str(row.n), str(row.failed)) if row.verdict != NOT_RUN else ("", "")
    commits = ", ".join(text[:8] + text[40:] for text in row.commit.split(", "))
    return (row.arm, row.published, row.ours, n, failed, row.reference, row.difference, place + changes,
            row.epochs, row.verdict, row.reason, commits)  # fmt: skip
