"""How often a promise is tried: few times in the suite, TRIES times for the record, kept in RECORD."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from resnet.runs.provenance import this_session


def tries(few: int) -> int:
    """TRIES of the environment, else `few`."""
    return int(os.environ.get("TRIES", few))


def record(name: str, fault: str, happens: str, tries: int, phases: Mapping[str, int] | None = None) -> None:
    """Writes RECORD/<name>.json, where RECORD is set, in the form of the rows of results/reliability.md.

    To be called when all tries have passed their assertions: nothing was lost.
    """
    if not (folder := os.environ.get("RECORD")):
        return
    test = os.environ["PYTEST_CURRENT_TEST"].split(" ")[0]
    often = f"TRIES={os.environ['TRIES']} " if "TRIES" in os.environ else ""
    part = {"tries": tries, "losses": 0, "phases": dict(phases or {})}
    part |= this_session(f"RECORD=results/reliability {often}python -m pytest {test}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    row = {"fault": fault, "happens": happens, "parts": [part]}
    (Path(folder) / f"{name}.json").write_text(json.dumps(row, indent=1) + "\n")
