"""Images that are listed by class, read into memory or streamed from their files."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from resnet.data.files.crops import Fitted
from resnet.data.files.decoders import decode_cut
from resnet.data.files.listing import Listing
from resnet.data.files.resident import decode_images
from resnet.data.files.stream import BadImages, Sizes, StreamSplit
from resnet.data.images import BadImage, Image8, decode_image
from resnet.data.splits import Source, Split
from resnet.errors import InputError

AUTO, MEMORY, STREAM = STORAGES = ("auto", "memory", "stream")
GIGABYTE = 10**9


class _Files(Sequence[Path | bytes]):
    """The files of several listings, one after the other, each read when it is asked for."""

    def __init__(self, listings: Sequence[Listing]):
        self.rows = [(listing, index) for listing in listings for index in range(len(listing))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        listing, row = self.rows[index]
        return listing.file(row)

    def names(self) -> list[str]:
        return [listing.name(row) for listing, row in self.rows]


def load_files(
    root: Path,
    listings: Mapping[str, Listing],
    sizes: Sizes,
    *,
    storage: str,
    memory_gb: float,
    bad_limit: float,
    skip: bool = False,
    chosen: Sequence[str] = (),
    only: str = "",
) -> Source:
    """The images that are listed by split; `root` is where they lie, in messages.

    With `skip`, images that cannot be read are left out of memory, and listed. Of `chosen` classes, if there
    are all of them, no others are read. They are streamed where `storage` says so, and by `auto` where they
    are cut anew for each batch or would take more than `memory_gb`. Where training images are the `only` ones
    that count, those of a validation split are not read: it is empty.
    """
    classes = next(iter(listings.values())).classes
    if chosen and set(chosen) <= set(classes):
        listings = {name: listing.of_classes(chosen) for name, listing in listings.items()}
    has_validation = "validation" in listings
    if only == "train":
        listings = {"train": listings["train"]}
    if reason := _why_stream(listings, sizes, storage, memory_gb):
        logging.info("%s is streamed: %s", root, reason)
        source = _streamed(listings, sizes, bad_limit)
    else:
        source = _read(root, listings, sizes, skip)
    if has_validation and source.validation is None:
        return dataclasses.replace(source, validation=source.train[:0])
    return source


def are_streamed(storage: str, sizes: Sizes, gigabytes: float, memory_gb: float) -> bool:
    """Tells whether images in files are streamed that would take so many GB of memory together."""
    return storage == STREAM or sizes.cut_anew or (storage == AUTO and gigabytes > memory_gb)


def _why_stream(listings: Mapping[str, Listing], sizes: Sizes, storage: str, memory_gb: float) -> str:
    """The reason to stream images; nothing, if they are to be held in memory."""
    if sizes.cut_anew and storage == MEMORY:
        raise InputError(
            "`data.storage` must be auto or stream where images are cut anew for each batch, as by "
            "`data.random_resized_crop`, `data.eval_size` or `data.eval_crop`; got 'memory'"
        )
    count = sum(map(len, listings.values()))
    gigabytes = count * (sizes.train**2 * 3 or _first_size(listings)) / GIGABYTE
    if not are_streamed(storage, sizes, gigabytes, memory_gb):
        return ""
    if storage == STREAM:
        return "`data.storage` is stream"
    if sizes.cut_anew:
        return "its images are cut anew for each batch"
    reason = f"{count:,} images would take {gigabytes:.1f} GB of memory, more than `data.memory_gb`"
    if not sizes.train:
        raise InputError(f"`data.image_size` must be given where images are streamed: {reason}; got 0")
    return reason


def _first_size(listings: Mapping[str, Listing]) -> int:
    """Bytes of the first good image when it is decoded; 0 if all are bad, which reading them all will say."""
    for listing in listings.values():
        for index in range(len(listing)):
            with contextlib.suppress(BadImage):
                return decode_image(listing.file(index), listing.name(index)).size
    return 0


def _streamed(listings: Mapping[str, Listing], sizes: Sizes, bad_limit: float) -> Source:
    """Splits that stay in their files."""
    bad = BadImages(bad_limit)
    splits = {
        name: StreamSplit(listing, np.arange(len(listing)), sizes, listing.labels, bad)
        for name, listing in listings.items()
    }
    return _source(splits, listings, bad)


def _read(root: Path, listings: Mapping[str, Listing], sizes: Sizes, skip: bool) -> Source:
    """The images of all splits, decoded together, so that all are of one size."""

    def decode(file: Path | bytes, name: str) -> Image8:
        if not sizes.train:
            return decode_image(file, name)
        return decode_cut(file, name, Fitted(sizes.train), sizes.decoder)

    files = _Files(list(listings.values()))
    logging.info("reading %d images from %s", len(files), root)
    try:
        images, bad = decode_images(files, files.names(), decode, skip=skip)
    except BadImage as error:
        raise InputError(f"{error}, or set `data.on_bad_image` to skip") from None
    if bad:
        logging.warning("skipping %d of %d images, e.g. %s", len(bad), len(files), next(iter(bad.values())))
    good = np.delete(np.arange(len(files)), list(bad))
    splits, place = {}, 0
    for name, listing in listings.items():
        # The rows of this split among those that could be read.
        start, stop = np.searchsorted(good, (place, place + len(listing)))
        kept = good[start:stop] - place
        labels = listing.labels[kept]
        for folder in listing.folders_without(labels):
            raise InputError(f"class folder {folder} holds no image that can be read")
        known = listing.files[kept]
        own = images[start:stop] if len(listings) == 1 else images[start:stop].copy()  # holds no other split
        splits[name] = Split(own, labels, known)
        place += len(listing)
    return _source(splits, listings, tuple(bad.values()))


def _source(splits: Mapping[str, Any], listings: Mapping[str, Listing], skipped: Sequence[str]) -> Source:
    """What a loader gives, of the splits that there are."""
    first = next(iter(splits))
    nothing = splits[first][np.arange(0)]  # a copy, which holds no image
    return Source(
        train=splits.get("train", nothing),
        test=splits.get("test", nothing),
        class_names=listings[first].classes,
        validation=splits.get("validation"),
        skipped=skipped,
    )
