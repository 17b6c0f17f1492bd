"""Which library decodes a JPEG: Pillow, or simplejpeg, at a fraction of its size where that serves."""

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from resnet.data.files.crops import Cut, Size
from resnet.data.files.listing import read_whole
from resnet.data.images import MAX_PIXELS, Image8, decode_image
from resnet.errors import check_installed

PILLOW, SIMPLEJPEG = DECODERS = ("pillow", "simplejpeg")
# Whole sides over decoded ones; libjpeg-turbo has vector instructions for these and is slow with others.
FACTORS = (8, 4, 2)
ORIENTATION = 0x0112  # EXIF's tag of how an image is turned upright; 1 is upright


def check_decoder_installed(name: str) -> None:
    """Raises InputError unless the decoder is installed. A run's config names it where nothing is decoded."""
    if name == SIMPLEJPEG:
        remedy = f"pip install simplejpeg, or set `data.decoder`, of a Net its `decoder`, to {PILLOW}"
        check_installed([SIMPLEJPEG], remedy)


def decode_cut(file: Path | bytes, name: str, cut: Cut, decoder: str) -> Image8:
    """The square that is cut out of an image, RGB; BadImage for what cannot be read.

    What simplejpeg does not take, such as PNG, CMYK and images that are damaged or to be turned, Pillow
    decodes.
    """
    if decoder == SIMPLEJPEG and (image := _decode_small(file, cut)) is not None:
        return image
    return decode_image(file, name, cut=lambda image: cut(image, image.size))


def _decode_small(file: Path | bytes, cut: Cut) -> Image8 | None:
    """The square of a JPEG decoded by simplejpeg at the smallest size that serves; None where Pillow must."""
    import simplejpeg

    try:
        content = file if isinstance(file, bytes) else read_whole(str(file))
        with Image.open(io.BytesIO(content), "r", ["JPEG"]) as header:
            whole, mode = header.size, header.mode
            turned = header.getexif().get(ORIENTATION, 1) != 1
        if turned or mode not in ("L", "RGB") or math.prod(whole) > MAX_PIXELS:
            return None
        width, height = _size(whole, cut.least(whole))
        pixels = simplejpeg.decode_jpeg(content, "RGB", min_width=width, min_height=height)
    except Exception:  # Pillow's reader of EXIF raises many types, and decodes the image all the same.
        return None
    return np.asarray(cut(Image.fromarray(pixels), whole))


def _size(whole: Size, least: Size) -> Size:
    """The smallest size that an image is decoded at quickly and that is not below the least one."""
    for factor in FACTORS:
        size = math.ceil(whole[0] / factor), math.ceil(whole[1] / factor)
        if size[0] >= least[0] and size[1] >= least[1]:
            return size
    return whole
