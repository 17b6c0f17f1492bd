"""Listings kept on disk: a folder or a tar of a million images is listed once."""

import contextlib
import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from resnet.data.files.listing import Listing
from resnet.files import USER_CACHE, replacing

KEPT_FROM = 10_000  # images or records; fewer are listed in no time
LOOKED_AT = 1_000  # files of a kept listing, in some hundredths of a second
CACHE = f"{USER_CACHE}/indexes"
VERSION = 2
NO_ARRAYS = ("place", "classes", "reader", "state")
ARRAYS = [field.name for field in dataclasses.fields(Listing) if field.name not in NO_ARRAYS]


def kept_listings(
    place: Path, state: Any, make: Callable[[], dict[str, Listing]], read: int = 0
) -> dict[str, Listing]:
    """What `make` lists of a folder or tar, by split, or what it listed when the `state` was the same.

    `read` is the number of files or records that `make` reads, where it may list fewer of them.

    Kept beside the place where that can be written, else in the user's cache. Overwriting a file does not
    change its folder's state, so the sizes of some files are compared too.
    """
    key = json.dumps([VERSION, os.path.abspath(place), state], allow_nan=False)
    for path in _paths(place):
        if (found := _load(path, key, place)) is not None and all(map(_as_listed, found.values())):
            logging.info("%s: %d images, as listed in %s", place, sum(map(len, found.values())), path)
            return found
    listings = make()
    if max(read, sum(map(len, listings.values()))) >= KEPT_FROM:
        _save(_paths(place), key, listings)
    return listings


def _as_listed(listing: Listing) -> bool:
    """Whether up to LOOKED_AT files of a folder have the sizes that were listed."""
    looked_at = () if listing.in_tar else range(0, len(listing), len(listing) // LOOKED_AT + 1)
    return all(listing.size_now(index) == listing.sizes[index] for index in looked_at)


def _paths(place: Path) -> list[Path]:
    """Where the index of a place may lie."""
    place = Path(os.path.abspath(place))
    known = hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
    paths = [place.with_name(f".{place.name}.index.npz")]
    with contextlib.suppress(RuntimeError):  # a user without a home folder
        paths.append(Path(CACHE).expanduser() / f"{known}.npz")
    return paths


def _load(path: Path, key: str, place: Path) -> dict[str, Listing] | None:
    """The listings in an index; None if there is none, or of another state."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if arrays["key"].tobytes() != key.encode():
                return None
            splits = json.loads(arrays["splits"].tobytes())
            return {
                split: Listing(place, tuple(classes), **{name: arrays[f"{split}/{name}"] for name in ARRAYS})
                for split, classes in splits.items()
            }
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return None  # the last two where a damaged file seems encrypted, or packed otherwise


def _save(paths: Sequence[Path], key: str, listings: Mapping[str, Listing]) -> None:
    """Writes an index to the first of the paths that can be written, whole."""
    arrays = {f"{split}/{name}": getattr(each, name) for split, each in listings.items() for name in ARRAYS}
    splits = json.dumps({split: each.classes for split, each in listings.items()}, allow_nan=False)
    arrays |= {
        "key": np.frombuffer(key.encode(), np.uint8),
        "splits": np.frombuffer(splits.encode(), np.uint8),
    }
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                np.savez(temporary, **arrays)
            logging.info("the listing is kept as %s", path)
            return
        except OSError:
            continue
