"""Decoding of JPEG and PNG files on the host, with Pillow."""

import contextlib
import io
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from resnet.errors import InputError

Image8 = UInt8[np.ndarray, "h w c"]
Images = UInt8[np.ndarray, "n h w c"]


class BadImage(InputError):
    """An image file cannot be read; others may be fine."""


class AwayImage(BadImage):
    """An image file cannot be read now; a later attempt may succeed."""


FORMATS = ("JPEG", "PNG")
MODES = {1: "L", 3: "RGB"}
LEVELS = {"L;2": 3, "L;4": 15}  # the white of PNG's grey of few bits, by Pillow's names
MAX_PIXELS = 89_478_485  # where Pillow warns of a decompression bomb: a quarter GiB of RGB


def decode_image(
    file: Path | bytes,
    name: str,
    channels: int = 3,
    cut: Callable[[Image.Image], Image.Image] | None = None,
) -> Image8:
    """One image in grey (1 channel) or RGB (3), upright as its EXIF tells, the first of an animated one.

    `cut` makes something else of the whole image. BadImage, also where it raises DecompressionBombError.
    """
    try:
        # Reading a pipe or a device might never end.
        if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
            raise BadImage(f"{name} is no ordinary file: replace it or remove it")
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, "r", FORMATS) as raw:
            if raw.width * raw.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            _scale_transparency(raw)
            _set_upright(raw)
            image = _flatten(raw)
            image = image if image.mode == MODES[channels] else image.convert(MODES[channels])
            image = cut(image) if cut else image
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(
            f"{name} has more than {MAX_PIXELS:,} pixels, or would when resized, which may exhaust the "
            "memory: shrink it, cut it or remove it"
        ) from None
    except UnidentifiedImageError:
        raise BadImage(f"{name} is not a JPEG or PNG image: replace it or remove it") from None
    except Exception as error:  # Pillow's decoders raise many types on a broken file
        reason = error.strerror if isinstance(error, OSError) and error.errno else None
        what = f"read ({reason})" if reason else f"decoded ({' '.join(str(error).split())})"
        raise BadImage(f"{name} cannot be {what}: replace it or remove it") from error
    return np.asarray(image).reshape(image.height, image.width, channels)


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """While entered, what Pillow says of a damaged EXIF and the like is dropped: a stream meets it often."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.|resnet\.data\.images")
        yield


def _scale_transparency(image: ImageFile.ImageFile) -> None:
    """Brings the transparent colour of a PNG from the file's units, in which Pillow leaves it, to ours."""
    value = image.info.get("transparency")
    if image.format != "PNG" or value is None:
        return
    layout = image.tile[0].args  # known until the pixels are read
    if layout in LEVELS:
        image.info["transparency"] = value * 255 // LEVELS[layout]
    elif layout == "RGB;16B":  # decoded to 8 bits, so colours that look alike there are one
        image.info["transparency"] = tuple(channel >> 8 for channel in value)


def _set_upright(image: Image.Image) -> None:
    """Turns the image as its EXIF says; logs a warning if the EXIF cannot be read."""
    image.load()
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # Pillow's reader of EXIF raises many types
        warnings.warn(f"its EXIF cannot be read: {error}", stacklevel=1)


def _flatten(image: Image.Image) -> Image.Image:
    """The image at 8 bits, on white where it is transparent."""
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255
        grey = np.asarray(image)
        transparent = grey == image.info.get("transparency", -1)
        image = Image.fromarray(np.where(transparent, 255, grey >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def shrunk_shape(shape: tuple[int, ...], side: int) -> tuple[int, int, int]:
    """The shape [h, w, c] of an image whose shorter side is to have so many pixels."""
    height, width = (round(length * side / min(shape[:2])) for length in shape[:2])
    return height, width, shape[2]
