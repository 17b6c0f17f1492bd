"""How often a promise is tried: few times in the suite, TRIES times for the record, kept in RECORD."""

import json
import os
from pathlib import Path
from typing import Any

from resnet.training.provenance import git_state, versions


def tries(few: int) -> int:
    """TRIES of the environment, else `few`."""
    return int(os.environ.get("TRIES", few))


def record(fault: str, **found: Any) -> None:
    """Writes what was found to RECORD/<fault>.json, where RECORD is set, with what it was found on."""
    if folder := os.environ.get("RECORD"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        git = git_state(Path(__file__).parents[1]) or {"commit": "unknown"}
        origin = {"commit": git["commit"], "versions": versions(), "cpus": os.cpu_count()}
        content = {"fault": fault, **found, **origin}
        (Path(folder) / f"{fault}.json").write_text(json.dumps(content, indent=1) + "\n")
