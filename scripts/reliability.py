"""The page of what was tried to lose a run: python scripts/reliability.py --rows=results/reliability

Each JSON file there is a row: {"fault", "happens", "tries", "losses", "phases", "command", "git"}, or the
first two and "parts", which have the others. Only "fault", "tries" and "losses" are needed.
"""

import collections
from pathlib import Path
from typing import Any

import cli

ROOT = Path(__file__).resolve().parents[1]


def main(overrides: list[str]) -> dict[str, Any]:
    """Writes <rows>.md; the sums."""
    cli.refuse_overrides(overrides, "no config is read here")
    from resnet.files import read_object, write_text
    from resnet.runs.tables import markdown_table

    folder = cli.FLAGS.rows.resolve()  # "." has a name, too
    remedy = "take it from version control again"
    rows = [read_object(path, "fault", remedy=remedy) for path in sorted(folder.glob("*.json"))]
    if not rows:
        raise cli.InputError(f"--rows: {folder} holds no rows, which are JSON files; name another folder")
    headers = ("fault", "what happens", "tries", "losses", "met during")
    table = markdown_table([cells(row) for row in rows], headers)
    commands = sorted({(part["command"], commit(part)) for part in parts(*rows) if "command" in part})
    listed = "\n".join(f"- `{command}` (commit {at})" for command, at in commands)
    page = folder.with_suffix(".md")
    told = [
        f"- {row['fault']}: {text}." for row in rows for part in parts(row) for text in part.get("lost", [])
    ]
    lost = "\n".join(["What was lost:", "", *told, ""]) if told else ""
    write_text(page, f"{HEAD}\n{table}\n\n{lost}\nMade by\n\n{listed}\n")
    totals = {name: sum(part[name] for part in parts(*rows)) for name in ("tries", "losses")}
    return totals | {"page": str(page)}


HEAD = """# What was tried to lose a run

A loss is a run that did not start again, or did not end as the undisturbed one: the same SHA-256 of the final
weights, the same metrics line by line, none twice and none missing, the same test result.
"""


def parts(*rows: dict[str, Any]) -> list[dict[str, Any]]:
    """The tries that rows were put together from."""
    return [part for row in rows for part in row.get("parts", [row])]


def cells(row: dict[str, Any]) -> tuple:
    """One line of the table, summed over its parts."""
    met = collections.Counter()
    for part in parts(row):
        met.update(part.get("phases", {}))
    during = ", ".join(f"{phase} {count}" for phase, count in met.most_common())
    sums = [sum(part[name] for part in parts(row)) for name in ("tries", "losses")]
    return row["fault"], row.get("happens", ""), *sums, during


def commit(part: dict[str, Any]) -> str:
    """The commit that a part was made at, marked where files differed."""
    git = part.get("git") or {"commit": "unknown", "dirty": False}
    return git["commit"][:7] + (" with changes" if git["dirty"] else "")


def define() -> None:
    """Defines the flags."""
    cli.define_path("rows", str(ROOT / "results/reliability"), "Folder of the rows; the page lies beside it.")


if __name__ == "__main__":
    cli.run(main, define)
