"""simplejpeg in place of Pillow: near it, the same bits each time, and Pillow for what it does not take."""

import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from resnet.config import config_from_dict
from resnet.data.config import DataConfig
from resnet.data.datasets import load_dataset
from resnet.data.files import decoders
from resnet.data.files.crops import Fitted, Middle, RandomPart
from resnet.data.files.decoders import decode_cut
from resnet.data.images import BadImage, without_warnings
from resnet.data.streams import CROP, host_draws
from resnet.errors import InputError
from resnet.training.loop import check_packages, train
from tests.stream_cases import batches, digests, folders, jpeg, stream

SIZE = (400, 300)
DRAWS = [host_draws(0, CROP, step, 40).reshape(10, 4) for step in range(4)]
CUTS = [Fitted(40), Middle(40, 0.875), *(RandomPart(40, 0.3, draws) for draws in DRAWS)]


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    monkeypatch.delitem(sys.modules, "simplejpeg")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    given = {"name": "image_folder", "dir": str(tmp_path), "image_size": 8, "decoder": "simplejpeg"}
    # A run that was trained elsewhere can be read: its config names a decoder, and nothing is decoded.
    config = config_from_dict({"data": given, "records": {"boards": ["tensorboard"]}})
    message = "simplejpeg, which this needs, is not installed: pip install simplej"
    for work in (check_packages, lambda config: load_dataset(config.data)):
        with pytest.raises(InputError, match=message):
            work(config)
    with pytest.raises(InputError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="`data.decoder` must be one of pillow, simplejpeg; got 'opencv'"):
        DataConfig(decoder="opencv").check()


@pytest.mark.parametrize("cut", CUTS)
def test_an_image_may_be_decoded_small_and_still_not_be_enlarged(cut):
    width, height = cut.least(SIZE)
    small = Image.open(io.BytesIO(jpeg(1, SIZE))).convert("RGB")
    whole = np.asarray(cut(small, SIZE)).astype(int)
    shrunk = small.resize((width, height), Image.Resampling.BOX)
    assert width < SIZE[0] and height < SIZE[1]
    found = np.asarray(cut(shrunk, SIZE)).astype(int)
    assert found.shape == (40, 40, 3) and np.abs(found - whole).mean() < 4


@pytest.fixture
def simplejpeg():
    return pytest.importorskip("simplejpeg")


def saved(mode="RGB", exif=None, kind="JPEG"):
    image = Image.open(io.BytesIO(jpeg(1, SIZE))).convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **({"exif": exif} if exif else {}))
    return file.getvalue()


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_its_pixels_are_near_pillows(simplejpeg, cut, mode):
    content = saved(mode)
    ours, theirs = (decode_cut(content, "x", cut, decoder).astype(int) for decoder in decoders.DECODERS)
    assert ours.shape == theirs.shape == (40, 40, 3)
    assert np.abs(ours - theirs).mean() < 6 and (ours != theirs).any()


def test_pillow_decodes_what_it_does_not_take(simplejpeg, tmp_path):
    turned = Image.Exif()
    turned[decoders.ORIENTATION] = 6
    for content in (saved(kind="PNG"), saved("CMYK"), saved(exif=turned)):
        one, two = (decode_cut(content, "x", Fitted(40), decoder) for decoder in decoders.DECODERS)
        np.testing.assert_array_equal(one, two)
    (tmp_path / "image").write_bytes(saved())
    path = decode_cut(tmp_path / "image", "x", Fitted(40), "simplejpeg")
    np.testing.assert_array_equal(path, decode_cut(saved(), "x", Fitted(40), "simplejpeg"))
    for content in (b"", b"no JPEG", saved()[:2000]):
        with pytest.raises(BadImage, match="x (is not a JPEG|cannot be decoded)"):
            decode_cut(content, "x", Fitted(40), "simplejpeg")


def test_its_batches_are_the_same_bits_for_any_threads(simplejpeg, tmp_path):
    data = stream(folders(tmp_path), decoder="simplejpeg")
    first = digests(batches(data, threads=1))
    assert digests(batches(data, threads=5, ahead=4)) == first
    assert digests(batches(data, range(4, 11), threads=2)) == first[4:]
    assert digests(batches(stream(tmp_path), threads=2)) != first


def test_an_odd_exif_is_left_to_pillow(simplejpeg, monkeypatch):
    """Pillow's reader of EXIF raises many types, and its decoder takes such an image all the same."""
    expected = decode_cut(saved(), "x", Fitted(40), "pillow")

    def fail(self):
        raise struct.error("unpack requires a buffer of 4 bytes")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    with without_warnings():
        np.testing.assert_array_equal(decode_cut(saved(), "x", Fitted(40), "simplejpeg"), expected)
