"""The image files of one split, told apart by number: millions of them as a few arrays."""

import dataclasses
import functools
import hashlib
import os
import stat
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64, UInt8, UInt64

from resnet.data.images import AwayImage, BadImage
from resnet.errors import InputError


@dataclasses.dataclass(frozen=True)
class Entry:
    """An image file while it is listed."""

    name: str
    """Relative to the folder; in a tar, what stands for it in messages."""
    size: int
    """Bytes; -1 where that cannot be told."""
    offset: int = 0
    """Of its first byte in the tar."""


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """Image files by class, and in a class by name."""

    place: Path
    """The folder that they lie in, or the tar."""
    classes: tuple[str, ...]
    labels: Int32[np.ndarray, " n"]
    sizes: Int64[np.ndarray, " n"]
    offsets: Int64[np.ndarray, " k"]
    """Of their first bytes in the tar; empty for a folder."""
    text: UInt8[np.ndarray, " bytes"]
    """All names, one after the other."""
    ends: Int64[np.ndarray, " n"]
    """Where each name ends in the text."""
    hashes: UInt64[np.ndarray, " n"]
    """Of class and file name."""
    reader: Callable[[int, int], bytes] | None = None
    """Reads (offset, size) where the files are no byte ranges of the place; raises OSError."""
    state: tuple[int, int] | None = None
    """Of a tar when it was listed: its size in bytes, and when it had changed, in ns."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_tar(self) -> bool:
        """Whether the files are parts of another, such as byte ranges of a tar."""
        return len(self.offsets) > 0

    @property
    def files(self) -> UInt64[np.ndarray, "n 2"]:
        """The hash and the size of each file, by which it is known."""
        return np.column_stack([self.hashes, self.sizes.astype(np.uint64)])

    def name(self, index: int) -> str:
        """What stands for a file in messages."""
        relative = self.relative(index)
        return f"{relative} in {self.place}" if self.in_tar else f"{self.place}/{relative}"

    def file(self, index: int) -> Path | bytes:
        """The path of a file in a folder, the content of one in a tar; BadImage if it has changed."""
        if self.in_tar:
            return self.read(index)
        if (size := self.size_now(index)) not in (-1, self.sizes[index]):
            raise self._changed(index, size)
        return self.place / self.relative(index)

    def size_now(self, index: int) -> int:
        """The current size of a file in a folder, in bytes; -1 if the file system does not tell it."""
        try:
            return os.stat(f"{self.place}/{self.relative(index)}").st_size
        except OSError:
            return -1

    def _changed(self, index: int, size: int) -> BadImage:
        return BadImage(
            f"{self.name(index)} has {size} bytes, and had {self.sizes[index]} when it was listed: put it "
            "back, or "
            + ("prepare the data again" if self.reader else f"run `touch {self.place}` for a new list")
        )

    def read(self, index: int) -> bytes:
        """The content of a file; BadImage if it is gone or has changed."""
        size = int(self.sizes[index])
        try:
            if self.reader:
                content = self.reader(int(self.offsets[index]), size)
            elif self.in_tar:
                content = os.pread(self._tar, size, int(self.offsets[index]))
            else:
                content = read_whole(f"{self.place}/{self.relative(index)}")
        except OSError as error:
            raise AwayImage(
                f"{self.name(index)} cannot be read ({error.strerror}): replace it or remove it"
            ) from None
        if len(content) != size:
            raise self._changed(index, len(content))
        return content

    def of_classes(self, chosen: Sequence[str]) -> "Listing":
        """The files of the classes that are chosen; the order of the classes stays."""
        classes = tuple(name for name in self.classes if name in chosen)
        kept = np.flatnonzero(np.isin(self.labels, [self.classes.index(name) for name in classes]))
        entries: dict[str, list[Entry]] = {name: [] for name in classes}
        for index in kept:
            offset = int(self.offsets[index]) if self.in_tar else 0
            entry = Entry(self.relative(int(index)), int(self.sizes[index]), offset)
            entries[self.classes[self.labels[index]]].append(entry)
        listing = make_listing(self.place, entries, in_tar=self.in_tar, classes=classes)
        return dataclasses.replace(listing, reader=self.reader, state=self.state)

    def folders_without(self, labels: Int32[np.ndarray, " m"]) -> list[Path]:
        """The class folders without an image that was read; `labels` belong to the images that were read."""
        return [self.place / self.classes[label] for label in np.setdiff1d(self.labels, labels)]

    def relative(self, index: int) -> str:
        """The name of a file in its folder; in a tar, class and file."""
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.text[start : self.ends[index]].tobytes())

    @functools.cached_property
    def _tar(self) -> int:
        """A descriptor that all threads read from; InputError if the tar is not the one that was listed."""
        opened = os.open(self.place, os.O_RDONLY)
        weakref.finalize(self, os.close, opened)
        if self.state not in (None, state_of_file(os.fstat(opened))):
            raise InputError(f"{self.place} has changed since it was listed: put it back, or start again")
        return opened


def state_of_file(status: os.stat_result) -> tuple[int, int]:
    """The size of a file in bytes, and the time of its last change in ns."""
    return status.st_size, status.st_mtime_ns


def make_listing(
    place: Path, groups: Mapping[str, Sequence[Entry]], *, in_tar: bool, classes: Sequence[str] = ()
) -> Listing:
    """Lists the files of each class, sorted by name; the classes are in the order given, or sorted too."""
    classes = tuple(classes) or tuple(sorted(groups))
    rows = [(label, e) for label, name in enumerate(classes) for e in sorted(groups[name], key=_by_name)]
    names = [os.fsencode(entry.name) for _, entry in rows]
    known = [os.fsencode(classes[label]) + b"/" + name.rpartition(b"/")[2]
             for (label, _), name in zip(rows, names, strict=True)]  # fmt: skip
    return Listing(
        place,
        classes,
        labels=np.array([label for label, _ in rows], np.int32),
        sizes=np.array([entry.size for _, entry in rows], np.int64),
        offsets=np.array([entry.offset for _, entry in rows] if in_tar else [], np.int64),
        text=np.frombuffer(b"".join(names), np.uint8),
        ends=np.cumsum([len(name) for name in names], dtype=np.int64),
        hashes=np.array([hash_name(name) for name in known], np.uint64),
    )


def hash_name(name: bytes) -> int:
    """64 bits that stand for the name of a file."""
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def fingerprint_of_files(files: UInt64[np.ndarray, "n 2"], labels: Int32[np.ndarray, " n"]) -> str:
    """Tells images in files from others: by hashes of names, sizes and labels, in any order."""
    rows = np.column_stack([files, labels.astype(np.uint64)])
    found = hashlib.sha256(rows[np.lexsort(rows.T)].reshape(-1).data)
    return f"{len(labels)} images, sha256 {found.hexdigest()[:16]}"


def _by_name(entry: Entry) -> str:
    return entry.name


def read_whole(path: str) -> bytes:
    """The content of an ordinary file; reading a pipe or a device might never end."""
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        status = os.fstat(opened)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "it is no ordinary file")
        return os.pread(opened, status.st_size, 0)
    finally:
        os.close(opened)
