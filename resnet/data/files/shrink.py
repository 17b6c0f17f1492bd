"""Smaller copies of images, in one tar: what a stream reads and decodes faster."""

import io
import itertools
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image

from resnet.data.files.layout import find_listings
from resnet.data.files.listing import Listing
from resnet.data.images import BadImage, decode_image, without_warnings
from resnet.errors import InputError, check_at_least, first_of
from resnet.files import check_suffix
from resnet.processors import processors

QUALITY = 90  # of the JPEGs
AT_ONCE = 256  # images in memory


def shrink_images(
    source: Path, target: Path, short_side: int, report: Callable[[str, int, int], None]
) -> dict[str, int]:
    """Writes the images under `source`, a folder or a tar, to the tar `target`; returns how many there are.

    An image whose shorter side is longer than `short_side` pixels is resized to it (Lanczos) and saved as
    JPEG; others keep their bytes. All keep their names, on which depends what is held out for validation.
    Those that cannot be read are left out, counted as "bad" and named in the log. InputError, and no tar, if
    none of a class can be read.
    """
    check_at_least("--short_side", short_side, 1)
    check_suffix("--to", target, ".tar")
    if target.exists():
        raise InputError(f"--to: {target} exists already: remove it, or name another tar")
    listings = find_listings(source)
    total, done = sum(map(len, listings.values())), 0
    counts = {"images": 0, "resized": 0, "bytes_before": 0, "bytes": 0}
    part = target.with_name(f"{target.name}.part")
    bad, written = [], {split: [] for split in listings}  # names, and labels
    try:
        with (
            tarfile.open(part, "w") as archive,
            ThreadPoolExecutor(processors()) as pool,
            without_warnings(),
        ):
            for names in _portions(listings):
                made = pool.map(lambda each: _smaller(each[1], each[2], short_side), names)
                for (split, listing, index), content in zip(names, made, strict=True):
                    done += 1
                    report(target.name, done, total)
                    if content is None:
                        bad.append(listing.name(index))
                        continue
                    written[split].append(listing.labels[index])
                    before = int(listing.sizes[index])
                    counts["images"] += 1
                    counts["resized"] += content[1]
                    counts["bytes_before"] += before
                    counts["bytes"] += len(content[0])
                    _add(archive, f"{split}/{_path(listing, index)}", content[0])
        _check_classes(listings, written)
        os.replace(part, target)
    except OSError as error:
        raise InputError(f"--to: {target} cannot be written ({error.strerror})") from None
    finally:
        part.unlink(missing_ok=True)
    if bad:
        logging.warning("%d images cannot be read and are left out: %s", len(bad), first_of(bad))
    return counts | {"bad": len(bad)}


def _check_classes(listings: dict[str, Listing], written: dict[str, list]) -> None:
    """Raises InputError for a class of which no image was written; `written` are labels by split."""
    for split, listing in listings.items():
        for folder in listing.folders_without(np.array(written[split], np.int32)):
            raise InputError(f"class folder {folder} ({split}) holds no image that can be read")


def _portions(listings: dict[str, Listing]) -> Iterator[list[tuple[str, Listing, int]]]:
    """(split, listing, number) of every image, so many at once."""
    rows = ((split, each, i) for split, each in listings.items() for i in range(len(each)))
    while portion := list(itertools.islice(rows, AT_ONCE)):
        yield portion


def _smaller(listing: Listing, index: int, short_side: int) -> tuple[bytes, bool] | None:
    """(content, whether it was resized); None for an image that cannot be read."""
    name = listing.name(index)
    resized = False

    def scaled(image: Image.Image) -> Image.Image:
        nonlocal resized
        resized = min(image.size) > short_side
        if not resized:
            return image
        width, height = image.size
        upright = width <= height
        size = (
            (short_side, round(short_side * height / width))
            if upright
            else (round(short_side * width / height), short_side)
        )
        return image.resize(size, Image.Resampling.LANCZOS)

    try:
        content = listing.read(index)
        pixels = decode_image(content, name, cut=scaled)
    except BadImage:
        return None
    if not resized:
        return content, False
    file = io.BytesIO()
    try:
        Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    except OSError:  # a side beyond those of JPEGs
        return content, False
    return file.getvalue(), True


def _path(listing: Listing, index: int) -> str:
    """The path of an image below its split in the tar: <class>/<file>."""
    return f"{listing.classes[listing.labels[index]]}/{Path(listing.relative(index)).name}"


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))
