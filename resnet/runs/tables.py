"""Markdown tables and code, in which any text is escaped, and the same rows as CSV."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def markdown_table(
    rows: Iterable[Mapping[str, Any] | Sequence[Any]], headers: Sequence[str] | None = None, **options: Any
) -> str:
    """A table of tuples below `headers`, or of dicts below their keys; `options` as tabulate has them."""
    import tabulate

    cells = [
        {cell(key): cell(value) for key, value in row.items()}
        if isinstance(row, Mapping)
        else [cell(value) for value in row]
        for row in rows
    ]
    heading: Any = "keys" if headers is None else [cell(header) for header in headers]
    options.setdefault("tablefmt", "github")
    return tabulate.tabulate(cells, heading, **options)


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV below their keys; a row that lacks a key has an empty cell. Nothing of no rows."""
    text = io.StringIO()
    if rows:
        # In the order of the row that has most, as rows of older files lack some.
        columns = dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row)
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def cell(value: Any) -> Any:
    """A value as it can stand in a cell: on one line, no end of the cell in it, and no HTML.

    Numbers stay numbers. In `code` a vertical bar is escaped too, because rows are cut before code is read.
    """
    if not isinstance(value, str):
        return value
    text = re.sub(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+\s*", " ", value)
    # Every other part is code, in which nothing else has a meaning.
    parts = re.split(r"(`+[^`]+`+)", text)
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return re.sub(r"(\\*)\|", lambda match: match[1] * 2 + r"\|", "".join(parts))


def code(text: str) -> str:
    """A text as code on one line, whatever backticks are in it."""
    text = " ".join(text.splitlines())
    longest = max(map(len, re.findall("`+", text)), default=0)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    mark = "`" * (longest + 1)
    return f"{mark}{space}{text}{space}{mark}"
