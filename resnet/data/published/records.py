"""Records of tensorflow-datasets in their files, array_record or TFRecord, read without TensorFlow.

A record is an Example of named features, in the wire format of protocol buffers:
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto
"""

import itertools
import os
import resource
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

AT_ONCE = 256  # records of array_record that are read in one call
OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # for reading here and there, as the library has it
OTHER_FILES = 1000  # that a process may open later, beside records: logs, checkpoints
HEAD, CHECKSUM = 12, 4  # bytes before a TFRecord: its length and a checksum; and after it
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
Range = tuple[int, int]  # first byte, and the one after the last


class TfRecords:
    """TFRecord files: each image is a range of their bytes, which are counted through all of them."""

    def __init__(self, paths: Sequence[Path], feature: str):
        self.paths = paths
        sizes = [path.stat().st_size for path in paths]
        self.starts = np.cumsum([0, *sizes[:-1]])

    def scan(self) -> Iterator[tuple[int, bytes]]:
        """(where the record begins, what it holds) of each; OSError for a damaged file."""
        for path, start in zip(self.paths, self.starts, strict=True):
            with path.open("rb") as file:
                while head := file.read(HEAD):
                    size, begins = int.from_bytes(head[:8], "little"), file.tell()
                    left = os.fstat(file.fileno()).st_size - begins
                    if len(head) < HEAD or size + CHECKSUM > left:
                        raise OSError(0, f"{path.name} ends within a record")
                    yield int(start) + begins, file.read(size)
                    file.seek(CHECKSUM, os.SEEK_CUR)

    def place_of(self, begins: int, image: Range) -> int:
        """What `read` takes for an image, a range of the record that begins there: its first byte."""
        return begins + image[0]

    def read(self, at: int, size: int) -> bytes:
        """So many bytes from there on; OSError if they cannot be read."""
        shard = int(np.searchsorted(self.starts, at, "right")) - 1
        with self.paths[shard].open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, at - int(self.starts[shard]))


class ArrayRecords:
    """array_record files, which stay open: records are numbered through all of them."""

    def __init__(self, paths: Sequence[Path], feature: str):
        """OSError for a file that cannot be opened."""
        self.feature = feature
        allow_files(len(paths))
        self._readers = [_reader(path) for path in paths]
        self._starts = np.cumsum([0, *(reader.num_records() for reader in self._readers)])
        self._lock = threading.Lock()

    def scan(self) -> Iterator[tuple[int, bytes]]:
        """(its number, what it holds) of each; OSError for a damaged file."""
        for reader, start in zip(self._readers, self._starts, strict=False):
            for first in range(0, reader.num_records(), AT_ONCE):
                numbers = range(first, min(first + AT_ONCE, reader.num_records()))
                for number, record in zip(numbers, self._records(reader, numbers), strict=True):
                    yield int(start) + number, record

    def place_of(self, begins: int, image: Range) -> int:
        """What `read` takes for the image of a record: the record's number."""
        return begins

    def read(self, at: int, size: int) -> bytes:
        """The image of the record of this number; OSError if it cannot be read."""
        shard = int(np.searchsorted(self._starts, at, "right")) - 1
        with self._lock:
            (record,) = self._records(self._readers[shard], [at - int(self._starts[shard])])
        start, stop = features_of(record)[self.feature]
        return record[start:stop]

    @staticmethod
    def _records(reader: Any, numbers: Sequence[int]) -> list[bytes]:
        try:
            found = reader.read(list(numbers))
        except Exception as error:  # a type of the library's own
            raise OSError(0, " ".join(str(error).split())) from None
        if None in found:  # what it gives for a record that it cannot read
            raise OSError(0, "a record is damaged")
        return found


def _reader(path: Path) -> Any:
    # Here, because most runs need it not; a compiled module, which type checkers do not see.
    from array_record.python import array_record_module  # type: ignore[attr-defined]

    try:
        reader = array_record_module.ArrayRecordReader(str(path), OPTIONS)
    except Exception as error:  # a type of the library's own
        raise OSError(0, " ".join(str(error).split())) from None
    if not reader.ok():  # it has no records then, and says nothing
        path.open("rb").close()  # whose error names the reason
        raise OSError(0, f"{path.name} is no array_record file")
    return reader


def allow_files(more: int) -> None:
    """Raises the limit of open files, as far as the process may, if it leaves no room for so many more."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/dev/fd")) + more + OTHER_FILES
    if limit != resource.RLIM_INFINITY and limit < needed:
        allowed = needed if most == resource.RLIM_INFINITY else min(needed, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))


FORMATS = {"array_record": ArrayRecords, "tfrecord": TfRecords}


def features_of(record: bytes) -> dict[str, Range]:
    """Where the first value of each feature stands in an Example: bytes, or packed numbers.

    OSError if it is none.
    """
    found = {}
    try:
        for features in _fields(record, (0, len(record)), 1):
            for entry in _fields(record, features, 1):
                (name,), (value,) = (list(_fields(record, entry, key)) for key in (1, 2))
                for kind in (1, 2, 3):  # a list of bytes, of floats or of integers
                    for values in _fields(record, value, kind):
                        for first in itertools.islice(_fields(record, values, 1), 1):
                            found[record[slice(*name)].decode()] = first
    except (IndexError, ValueError) as error:
        raise OSError(0, f"a record is no Example ({error})") from None
    return found


def integer(record: bytes, at: Range) -> int:
    """The first of the packed integers at a range; OSError if the record ends within it."""
    try:
        value, _ = _varint(record, at[0])
    except IndexError:
        raise OSError(0, "a record ends within a number") from None
    return value - 2**64 if value >= 2**63 else value


def _fields(record: bytes, within: Range, number: int) -> Iterator[Range]:
    """The ranges of a message's fields of this number."""
    at, end = within
    while at < end:
        key, begins = _varint(record, at)
        kind = key & 7
        if kind == BYTES:
            size, begins = _varint(record, begins)
            at = begins + size
        elif kind == VARINT:
            _, at = _varint(record, begins)
        elif kind in (FIXED64, FIXED32):
            at = begins + (8 if kind == FIXED64 else 4)
        else:
            raise ValueError(f"wire type {kind}")
        if at > end:
            raise ValueError("a field is cut off")
        if key >> 3 == number:
            yield begins, at


def _varint(record: bytes, at: int) -> tuple[int, int]:
    """(the number that begins there, the byte after it)."""
    value = shift = 0
    while True:
        byte = record[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
