"""Decoding of JPEG and PNG files on the host, with Pillow."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from resnet.errors import InputError

FORMATS = ("JPEG", "PNG")
MODES = {1: "L", 3: "RGB"}
MAX_PIXELS = 89_478_485  # where Pillow warns of a decompression bomb: a quarter GiB of RGB
CHUNK = 256  # files handed to a thread at once; one by one, the hand-over shows


def decode_images(
    files: Sequence[Path | bytes], names: Sequence[str], *, image_size: int = 0, channels: int = 3
) -> UInt8[np.ndarray, "n h w c"]:
    """Decodes all files, in threads; without `image_size`, all must have the size of the first.

    `names` stand for the files in errors.
    """

    def fill(start: int) -> None:
        for index in range(start, min(start + CHUNK, len(files))):
            image = decode_image(files[index], names[index], image_size, channels)
            if image.shape != images.shape[1:]:
                raise InputError(
                    f"{names[index]} is {_size(image)} pixels, but {names[0]} is {_size(first)}: "
                    "set `data.image_size` to resize all images to one size"
                )
            images[index] = image

    first = decode_image(files[0], names[0], image_size, channels)
    images = np.empty((len(files), *first.shape), np.uint8)
    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(0, len(files), CHUNK)))
    return images


def decode_image(
    file: Path | bytes, name: str, image_size: int = 0, channels: int = 3
) -> UInt8[np.ndarray, "h w c"]:
    """One image in grey (1 channel) or RGB (3), as stored: EXIF rotation is not applied.

    With `image_size`, the shorter side is resized to it (bilinear, antialiased), the centre kept.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, "r", FORMATS) as raw:
            if raw.width * raw.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image = _flatten(raw).convert(MODES[channels])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            f"{name} has more than {MAX_PIXELS:,} pixels, which may exhaust the memory: "
            "shrink it or remove it"
        ) from None
    except UnidentifiedImageError:
        raise InputError(f"{name} is not a JPEG or PNG image: replace it or remove it") from None
    except Exception as error:  # Pillow's decoders raise many types on a broken file
        raise InputError(f"{name} cannot be decoded ({error}): replace it or remove it") from error
    if image_size:
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _flatten(image: Image.Image) -> Image.Image:
    """The image at 8 bits, on white where it is transparent."""
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _size(image: UInt8[np.ndarray, "h w c"]) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
