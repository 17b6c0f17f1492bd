"""Files and folders that answers and studies read and make; each fault is an error of one line."""

import json
from pathlib import Path
from typing import Any

from resnet.errors import InputError


def read_object(path: str | Path, *needed: str, remedy: str = "delete it") -> dict[str, Any]:
    """The object in a JSON file, with the keys `needed`; InputError, naming the file, for anything else."""
    try:
        value = json.loads(Path(path).read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is unreadable: {error}; {remedy}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} is unreadable: it holds no JSON object; {remedy}")
    missing = [name for name in needed if name not in value]
    if missing:
        raise InputError(f"{path} is unreadable: {missing[0]!r} is missing; {remedy}")
    return value


def make_folder(path: str | Path) -> Path:
    """The folder, created if it is missing; InputError if it cannot be created."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file lies there" if path.is_file() else error.strerror
        raise InputError(f"cannot make the folder {str(path)!r}: {reason}; choose another") from None
    return path
