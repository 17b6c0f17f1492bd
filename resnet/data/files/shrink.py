"""Smaller copies of images, in one tar: what a stream reads and decodes faster."""

import io
import itertools
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from resnet.data.files.layout import find_listings
from resnet.data.files.listing import Listing
from resnet.data.images import BadImage, decode_image, without_warnings
from resnet.errors import InputError, check_at_least
from resnet.files import check_suffix
from resnet.processors import processors

QUALITY = 90  # of the JPEGs
AT_ONCE = 256  # images in memory


def shrink_images(
    source: Path, target: Path, short_side: int, report: Callable[[str, int, int], None]
) -> dict[str, int]:
    """Writes the images under `source`, a folder or a tar, to the tar `target`; returns how many there are.

    An image whose shorter side is longer than `short_side` pixels is resized to it (Lanczos) and saved as
    JPEG; others keep their bytes. Those that cannot be read are left out, and counted as "bad".
    """
    check_at_least("--short_side", short_side, 1)
    check_suffix("--to", target, ".tar")
    if target.exists():
        raise InputError(f"--to: {target} exists already: remove it, or name another tar")
    listings = find_listings(source)
    total, done = sum(map(len, listings.values())), 0
    counts = {"images": 0, "resized": 0, "bad": 0, "bytes_before": 0, "bytes": 0}
    part = target.with_name(f"{target.name}.part")
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
                        counts["bad"] += 1
                        continue
                    before = int(listing.sizes[index])
                    counts["images"] += 1
                    counts["resized"] += content[1]
                    counts["bytes_before"] += before
                    counts["bytes"] += len(content[0])
                    _add(archive, f"{split}/{_path(listing, index, resized=content[1])}", content[0])
        os.replace(part, target)
    except OSError as error:
        raise InputError(f"--to: {target} cannot be written ({error.strerror})") from None
    finally:
        part.unlink(missing_ok=True)
    return counts


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


def _path(listing: Listing, index: int, resized: bool) -> str:
    """<class>/<file> of an image; its suffix is that of JPEG once it is one."""
    file = Path(listing.relative(index)).name
    if resized and Path(file).suffix.lower() == ".png":
        file += ".jpg"
    return f"{listing.classes[listing.labels[index]]}/{file}"


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))
