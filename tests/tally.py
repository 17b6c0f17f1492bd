"""How often a promise is tried: few times in the suite, TRIES times for the record, kept in RECORD."""

import json
import os
import platform
from pathlib import Path
from typing import Any


def tries(few: int) -> int:
    """TRIES of the environment, else `few`."""
    return int(os.environ.get("TRIES", few))


def record(fault: str, **found: Any) -> None:
    """Writes what was found to RECORD/<fault>.json, where RECORD is set."""
    if folder := os.environ.get("RECORD"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        machine = {"python": platform.python_version(), "cpus": os.cpu_count()}
        content = {"fault": fault, **found, "machine": machine}
        (Path(folder) / f"{fault}.json").write_text(json.dumps(content, indent=1) + "\n")
