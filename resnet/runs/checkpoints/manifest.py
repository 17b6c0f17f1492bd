"""Checksums of a folder's files, written last: a whole folder holds all of these files."""

import hashlib
import json
from pathlib import Path

from resnet.errors import first_of
from resnet.runs.metrics.records import write_json

FILE = "manifest.json"


def seal(folder: Path, without: tuple[str, ...] = ()) -> None:
    """Writes size and SHA-256 of every file in `folder`, at any depth, except those named in `without`."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (*without, FILE):
            files[name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    write_json(folder / FILE, {"files": files})


def damage(folder: Path) -> str:
    """What is wrong with the files that a sealed folder should hold, in words; "" if they are whole.

    A missing file is damage. A file that is there and cannot be read is not: it raises OSError.
    """
    try:
        files = json.loads((folder / FILE).read_bytes())["files"]
        faults = {name: _fault(folder / name, known) for name, known in files.items()}
    except FileNotFoundError:
        return f"{FILE} is missing: it was not finished"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{FILE} is no manifest"
    return first_of(f"{name} {fault}" for name, fault in faults.items() if fault)


def _fault(path: Path, known: dict) -> str:
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != known["bytes"]:
        return f"has {size} of {known['bytes']} bytes"
    return "" if _sha256(path) == known["sha256"] else "differs from its checksum"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
