"""Boxes and sizes are torchvision's, byte by byte on Pillow; draws are pinned."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from resnet.data.files.crops import RATIOS, Fitted, Middle, centred, cropped, random_box
from resnet.data.files.decoders import decode_cut
from resnet.data.files.stream import Sizes
from resnet.data.images import BadImage
from resnet.data.streams import CROP, host_draws
from tests.stream_cases import jpeg

LONG = (4, 20_000)
SIZES = [(500, 375), (375, 500), (64, 64), (300, 31), (31, 300), (20, 20)]


def reference_box(draws, width, height, least):
    """get_params of torchvision's RandomResizedCrop, which takes the same draws one by one."""
    for area, ratio, top, left in draws:
        target = height * width * (least + area * (1 - least))
        aspect = math.exp(math.log(3 / 4) + ratio * (math.log(4 / 3) - math.log(3 / 4)))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            i, j = int(top * (height - h + 1)), int(left * (width - w + 1))
            return i, j, h, w
    if width / height < 3 / 4:
        w, h = width, round(width / (3 / 4))
    elif width / height > 4 / 3:
        h, w = height, round(height * (4 / 3))
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", SIZES)
def test_boxes_are_torchvisions(size):
    for step in range(200):
        draws = host_draws(0, CROP, step, 40).reshape(10, 4)
        top, left, height, width = reference_box(draws, *size, 0.08)
        assert random_box(draws, *size, 0.08) == (left, top, left + width, top + height)
        assert left >= 0 and left + width <= size[0] and top >= 0 and top + height <= size[1]


def test_boxes_cover_the_shares_and_the_ratios_asked_for():
    boxes = [random_box(host_draws(1, CROP, s, 40).reshape(10, 4), 400, 300, 0.25) for s in range(2000)]
    widths, heights = np.array([(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]).T
    shares, ratios = widths * heights / (400 * 300), widths / heights
    assert 0.24 < shares.min() < 0.27 and shares.max() > 0.9
    assert RATIOS[0] - 0.02 < ratios.min() < 0.8 and 1.25 < ratios.max() < RATIOS[1] + 0.02


@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_torchvisions(size):
    """resized_crop is crop, then resize; Resize and CenterCrop are these lines of torchvision's."""
    content = jpeg(3, size)
    image = Image.open(io.BytesIO(content)).convert("RGB")
    draws = host_draws(0, CROP, 5, 40).reshape(10, 4)
    box = random_box(draws, *size, 0.08)
    expected = image.crop(box).resize((24, 24), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(cropped(image, box, 24), expected)
    sizes = Sizes(24, 0.08, 28, 0.875)
    decoded = decode_cut(content, "x", sizes.for_training(draws), "pillow")
    np.testing.assert_array_equal(decoded, expected)
    width, height = size
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = 32, int(32 * long / short)
    new = (new_short, new_long) if width <= height else (new_long, new_short)
    resized = image.resize(new, Image.Resampling.BILINEAR)
    top, left = round((new[1] - 28) / 2.0), round((new[0] - 28) / 2.0)
    expected = resized.crop((left, top, left + 28, top + 28))
    np.testing.assert_array_equal(centred(image, 28, 0.875), expected)
    np.testing.assert_array_equal(decode_cut(content, "x", sizes.for_evaluation, "pillow"), expected)


@pytest.mark.parametrize(("size", "share", "side"), [(224, 0.875, 256), (224, 0.95, 236), (224, 0.965, 232)])
def test_the_usual_shares(size, share, side):
    assert round(size / share) == side


def test_draws_are_pinned():
    """Others would mean that a run goes on with other crops than it began with."""
    found = host_draws(3, CROP, 7, 6)
    assert found[:3].tolist() == [0.48881347188012536, 0.48044904741700967, 0.7791511691258074]
    np.testing.assert_array_equal(host_draws(3, CROP, 7, 40)[:6], found)
    for other in (host_draws(4, CROP, 7, 6), host_draws(3, CROP, 8, 6), host_draws(3, 9, 7, 6)):
        assert (other != found).all()
    many = host_draws(0, CROP, 0, 100_000)
    assert many.min() >= 0 and many.max() < 1 and abs(many.mean() - 0.5) < 0.005


@pytest.mark.parametrize("decoder", ["pillow", "simplejpeg"])
@pytest.mark.parametrize("size", [LONG, LONG[::-1]])
def test_a_narrow_image_is_not_resized_beyond_the_memory(decoder, size):
    if decoder == "simplejpeg":
        pytest.importorskip("simplejpeg")
    message = (
        r"image has more than 89,478,485 pixels, or would when resized, .* shrink it, cut it or remove it"
    )
    with pytest.raises(BadImage, match=message):
        decode_cut(jpeg(0, size), "image", Middle(224, 0.875), decoder)
    assert decode_cut(jpeg(0, size), "image", Fitted(224), decoder).shape == (224, 224, 3)
