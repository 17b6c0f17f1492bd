"""Fetching an archive: it goes on where it broke off, and is used only if size and SHA-256 are right."""

import dataclasses
import hashlib
import http.client
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

from absl import logging

from resnet.errors import InputError
from resnet.files import replacing

TRIES = 5  # in a row that bring no byte
PAUSE = 1.0  # seconds before the next of them, doubled each time
SECONDS = 60  # for which a server may be silent
CHUNK = 2**18  # bytes
REMEDY = "fetch it by other means and name it by --archive=FILE"

ShowProgress = Callable[[str, int, int], None]
"""Takes (file, its bytes that are here, all its bytes) as they come in."""


@dataclasses.dataclass(frozen=True)
class Archive:
    """A published file."""

    url: str
    size: int
    """Bytes."""
    sha256: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.url.rpartition("/")[2]


def fetch(archive: Archive, folder: Path, report: ShowProgress) -> Path:
    """The archive in `folder`, fetched unless it is there; InputError if it cannot be had whole.

    What has arrived lies in <name>.part until it is checked, so that a later call goes on from there.
    """
    path = folder / archive.name
    part = path.with_name(f"{path.name}.part")
    if path.is_file():
        check_archive(archive, path, "remove it, and it is fetched again")
        return path
    _make_room(archive, part)
    tries = 0
    while (here := _size(part)) < archive.size:
        try:
            _append(archive, part, report)
            reason = "the connection ended early"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        tries = 0 if _size(part) > here else tries + 1
        if tries == TRIES:
            raise InputError(
                f"{archive.url} cannot be fetched ({reason}): {_size(part):,} of {archive.size:,} bytes are "
                f"here, and the same command goes on from there; or {REMEDY}"
            )
        if _size(part) < archive.size:
            logging.warning("%s: %s; trying again", archive.url, reason)
            time.sleep(PAUSE * 2**tries)
    try:
        check_archive(archive, part, REMEDY)
    except InputError:
        part.unlink()
        raise
    os.replace(part, path)
    return path


def check_archive(archive: Archive, path: Path, remedy: str) -> None:
    """Raises InputError unless a file has the archive's size and SHA-256."""
    try:
        if (size := path.stat().st_size) != archive.size:
            raise InputError(
                f"{path} has {size:,} bytes, not the {archive.size:,} of {archive.url}: {remedy}"
            )
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    if found != archive.sha256:
        raise InputError(
            f"{path} has the SHA-256 {found}, not the {archive.sha256} of {archive.url}: it is another file, "
            f"or damaged; {remedy}"
        )


def unpack(path: Path, members: Iterable[str], folder: Path) -> None:
    """Writes the `members` of a tar into `folder`, each under the last part of its name."""
    try:
        with tarfile.open(path) as archive:
            for member in members:
                content = archive.extractfile(member)
                if content is None:
                    raise KeyError(f"{member} is no file")
                with replacing(folder / Path(member).name) as temporary, temporary.open("wb") as file:
                    shutil.copyfileobj(content, file)
    except (OSError, EOFError, KeyError, tarfile.TarError) as error:
        raise InputError(f"{path} cannot be unpacked into {folder} ({error})") from None


def _append(archive: Archive, part: Path, report: ShowProgress) -> None:
    """Adds to `part` what one answer of the server holds; OSError or HTTPException if it breaks off."""
    here = _size(part)
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={here}-"} if here else {})
    try:
        response = urllib.request.urlopen(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # it knows no byte so far behind: what is here is not of this file
            part.unlink()
        if error.code >= 500 or error.code == 416:
            raise
        raise InputError(f"{archive.url}: the server answers {error.code} {error.reason}; {REMEDY}") from None
    with response:
        if response.status == 206:
            sent = response.headers.get("Content-Range", "no range")
            if not sent.startswith(f"bytes {here}-"):
                raise InputError(f"{archive.url}: the server sends {sent}, not bytes {here}-; {REMEDY}")
        else:  # a server that knows no ranges begins again
            here = 0
        length = response.headers["Content-Length"]
        if length is not None and here + int(length) != archive.size:
            raise InputError(
                f"{archive.url}: the server offers {here + int(length):,} bytes, not the {archive.size:,} "
                f"published; {REMEDY}"
            )
        with _opened(part, here) as file:
            while here < archive.size and (chunk := response.read1(min(CHUNK, archive.size - here))):
                _write(file, chunk)
                here += len(chunk)
                report(archive.name, here, archive.size)


def _opened(part: Path, at: int):
    """The file, open to be written on from so many bytes."""
    try:
        file = part.open("r+b" if at else "wb")
        file.seek(at)
        return file
    except OSError as error:
        raise InputError(f"cannot write {part}: {error.strerror}") from None


def _write(file, chunk: bytes) -> None:
    """Writes a chunk; no trouble of the disk's is taken for one of the network's."""
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        raise InputError(f"cannot write {file.name}: {error.strerror}") from None


def _make_room(archive: Archive, part: Path) -> None:
    """Removes a part that is too long; InputError unless the disk holds what is left to fetch."""
    left, free = archive.size - _size(part), shutil.disk_usage(part.parent).free
    if left < 0:
        part.unlink()
    elif left > free:
        raise InputError(f"{part.parent} has {free:,} bytes free, and {archive.name} needs {left:,} more")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
