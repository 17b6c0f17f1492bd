"""Smaller copies of images, in one tar: what a stream reads and decodes faster."""

import io
import itertools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image

from resnet.data.files.layout import find_listings
from resnet.data.files.listing import Listing, fingerprint_of_files
from resnet.data.files.tars import GrowingTar, growing
from resnet.data.images import BadImage, decode_image, shrunk_shape, without_warnings
from resnet.errors import InputError, check_at_least, first_of
from resnet.files import check_suffix, write_text
from resnet.processors import processors

QUALITY = 90  # of the JPEGs
AT_ONCE = 256  # images in memory
Numbered = tuple[str, Listing, int]  # an image: its split, the listing of that, and its number there


def shrink_images(
    source: Path, target: Path, short_side: int, report: Callable[[str, int, int], None]
) -> dict[str, int]:
    """Writes the images under `source`, a folder or a tar, to the tar `target`; counts them.

    An image whose shorter side is longer than `short_side` pixels is resized to it (Lanczos) and saved as
    JPEG; others keep their bytes. All keep their names, on which depends what is held out for validation.
    Those that cannot be read are left out, counted as "bad" and listed in `target`.skipped.json, each with
    its reason. What was interrupted goes on when it is called again. InputError, and no tar, if none of a
    class can be read.
    """
    check_at_least("--short_side", short_side, 1)
    check_suffix("--to", target, ".tar")
    if target.exists():
        raise InputError(f"--to: {target} exists already: remove it, or name another tar")
    listings = find_listings(source)
    total = sum(map(len, listings.values()))
    counts = {"images": 0, "bytes_before": 0, "bytes": 0}
    bad, written = [], {split: [] for split in listings}  # reasons, and labels
    try:
        with (
            growing(target, _known_by(listings, short_side)) as tar,
            ThreadPoolExecutor(processors()) as pool,
            without_warnings(),
        ):
            if tar.goes_on:
                logging.info("going on with %s.part", target)
            for done, (image, size) in enumerate(_added(tar, pool, listings, short_side), 1):
                report(target.name, done, total)
                split, listing, index = image
                if isinstance(size, BadImage):
                    bad.append(str(size))
                    continue
                written[split].append(listing.labels[index])
                counts["images"] += 1
                counts["bytes_before"] += int(listing.sizes[index])
                counts["bytes"] += size
            _check_classes(listings, written)
    except OSError as error:
        raise InputError(f"--to: {target} cannot be written ({error.strerror})") from None
    if bad:
        listed = target.with_name(f"{target.name}.skipped.json")
        write_text(listed, json.dumps({"n": len(bad), "images": bad}, indent=2, allow_nan=False) + "\n")
        logging.warning("%d images are left out, see %s: %s", len(bad), listed, first_of(bad))
    return counts | {"bad": len(bad)}


def _added(
    tar: GrowingTar, pool: ThreadPoolExecutor, listings: dict[str, Listing], short_side: int
) -> Iterator[tuple[Numbered, int | BadImage]]:
    """Adds images that the tar lacks; yields each image with its bytes there, or why it cannot be read."""
    for images in _portions(listings):
        sizes = [tar.take(_path(*image)) for image in images]
        left = [image for image, size in zip(images, sizes, strict=True) if size is None]
        made = pool.map(lambda image: _smaller(image[1], image[2], short_side), left)
        for image, size in zip(images, sizes, strict=True):
            if size is None:
                content = next(made)
                if isinstance(content, BadImage):
                    yield image, content
                    continue
                tar.add(_path(*image), content)
                size = len(content)
            yield image, size


def _known_by(listings: dict[str, Listing], short_side: int) -> str:
    """Returns a text that identifies the images and the size and quality of their copies."""
    splits = [f"{split}: {fingerprint_of_files(each.files, each.labels)}" for split, each in listings.items()]
    return "; ".join([f"shorter side {short_side}, quality {QUALITY}", *splits])


def _check_classes(listings: dict[str, Listing], written: dict[str, list]) -> None:
    """Raises InputError for a class of which no image was written; `written` are labels by split."""
    for split, listing in listings.items():
        for folder in listing.folders_without(np.array(written[split], np.int32)):
            raise InputError(f"class folder {folder} ({split}) holds no image that can be read")


def _portions(listings: dict[str, Listing]) -> Iterator[list[Numbered]]:
    """All images, AT_ONCE at a time."""
    rows = ((split, each, i) for split, each in listings.items() for i in range(len(each)))
    while portion := list(itertools.islice(rows, AT_ONCE)):
        yield portion


def _smaller(listing: Listing, index: int, short_side: int) -> bytes | BadImage:
    """Makes the shorter side of an image at most `short_side` pixels, or tells why it cannot be read."""
    name = listing.name(index)
    resized = False

    def scaled(image: Image.Image) -> Image.Image:
        nonlocal resized
        resized = min(image.size) > short_side
        if not resized:
            return image
        height, width, _ = shrunk_shape((image.height, image.width, 3), short_side)
        return image.resize((width, height), Image.Resampling.LANCZOS)

    try:
        content = listing.read(index)
        pixels = decode_image(content, name, cut=scaled)
    except BadImage as error:
        return error
    if not resized:
        return content
    file = io.BytesIO()
    try:
        Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    except OSError:  # a side beyond those of JPEGs
        return content
    return file.getvalue()


def _path(split: str, listing: Listing, index: int) -> str:
    """The path of an image in the tar: <split>/<class>/<file>."""
    return f"{split}/{listing.classes[listing.labels[index]]}/{Path(listing.relative(index)).name}"
