"""Image folders: what is read, in what order, and a clear word about everything that is not."""

import io
import shutil
import struct
import zlib

import numpy as np
import pytest
from absl import logging
from PIL import Image

from resnet.data.files.crops import Fitted
from resnet.data.files.decoders import decode_cut
from resnet.data.files.resident import decode_images
from resnet.data.images import decode_image
from tests.folder_cases import load, noted, refused, save, two_classes
from tests.images_cases import chunk, png


@pytest.fixture
def root(tmp_path):
    return two_classes(tmp_path)


@pytest.fixture
def warnings(monkeypatch):
    return noted(monkeypatch)


# Reading


def test_labels_follow_the_sorted_folder_names(root):
    data = load(root)
    assert data.class_names == ("cat", "dog")
    assert len(data.train) + len(data.validation) == 8 and len(data.validation) and len(data.test) == 4
    for split in (data.train, data.validation, data.test):
        np.testing.assert_array_equal(split.images[:, 0, 0, 0], 100 * split.labels)
    np.testing.assert_array_equal(data.test.images[:, 0, 0, 1], [50, 51, 50, 51])


@pytest.mark.parametrize("tested", (True, False))
def test_a_split_in_memory_holds_no_image_of_another(root, tested):
    if not tested:
        shutil.rmtree(root / "test")
    data = load(root, train_limit=4)
    for split in (data.train, data.validation, data.test):
        whole = split.images
        while whole.base is not None:
            whole = whole.base
        assert whole.size == split.images.size


def test_suffixes_in_any_case_and_hidden_files(root, monkeypatch):
    save(root / "train" / "cat" / "big.JPG")
    save(root / "train" / "cat" / "long.Jpeg")
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"")
    (root / "train" / ".cache").mkdir()
    (root / "train" / "README.md").write_text("not a class")
    monkeypatch.setattr(logging, "warning", lambda *_: pytest.fail("nothing was left out"))
    assert len(load(root, validation=0.0).train) == 10


def test_other_files_are_left_out_with_a_warning(root, warnings):
    (root / "train" / "cat" / "notes.txt").write_text("")
    assert len(load(root, validation=0.0).train) == 8
    notes = root / "train" / "cat" / "notes.txt"
    assert warnings == [f"ignoring 1 files not in .jpg, .jpeg, .png, e.g. {notes}"]


def test_home_is_expanded(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(load(f"~/{root.name}").test) == 4


def test_image_size_resizes_the_shorter_side_and_keeps_the_centre(root):
    wide = Image.new("RGB", (60, 20), "black")
    wide.paste("white", (20, 0, 40, 20))  # the centre
    wide.save(root / "test" / "dog" / "wide.png")
    data = load(root, image_size=10)
    assert data.image_shape == (10, 10, 3)
    assert (data.test.images[-1, :, 1:-1] == 255).all()


def test_resizing_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 255
    file = io.BytesIO()
    Image.fromarray(stripes).save(file, "PNG")
    shrunk = decode_cut(file.getvalue(), "stripes", Fitted(8), "pillow")
    assert np.abs(shrunk[1:-1].astype(int) - 127).max() < 8


def test_more_files_than_one_thread_takes():
    files = []
    for value in range(600):
        file = io.BytesIO()
        Image.new("RGB", (1, 1), (value % 256, value // 256, 0)).save(file, "PNG")
        files.append(file.getvalue())
    images, bad = decode_images(files, ["image"] * 600)
    assert not bad
    np.testing.assert_array_equal(images[:, 0, 0, 0] + 256 * images[:, 0, 0, 1].astype(int), range(600))


# Modes


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 255), (77, 77, 77)),
        ("LA", (77, 0), (255, 255, 255)),
        ("I;16", 0x4DFF, (77, 77, 77)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
    ],
)
def test_png_of_any_mode_becomes_rgb(mode, color, expected):
    file = io.BytesIO()
    Image.new(mode, (3, 2), color).save(file, "PNG")
    image = decode_image(file.getvalue(), "image")
    np.testing.assert_array_equal(image, np.broadcast_to(np.uint8(expected), (2, 3, 3)))


def test_palette_becomes_its_colours_and_transparency_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=bytes([255, 0]))
    image = decode_image(file.getvalue(), "image")
    np.testing.assert_array_equal(image, [[[10, 20, 30], [255, 255, 255]]])


WHITE = 255, 255, 255


@pytest.mark.parametrize(
    ("bits", "colour", "row", "transparent", "expected"),
    [
        (1, 0, bytes([0b10000000]), (1,), [WHITE, (0, 0, 0)]),
        (2, 0, bytes([0b10010000]), (2,), [WHITE, (85, 85, 85)]),
        (4, 0, bytes([0x35]), (3,), [WHITE, (85, 85, 85)]),
        (8, 0, bytes([7, 9]), (7,), [WHITE, (9, 9, 9)]),
        (16, 0, struct.pack(">2H", 0x1234, 0x1235), (0x1234,), [WHITE, (18, 18, 18)]),
        (8, 2, bytes([1, 2, 3, 4, 5, 6]), (1, 2, 3), [WHITE, (4, 5, 6)]),
        (16, 2, struct.pack(">6H", 256, 513, 770, 1024, 1280, 1536), (256, 513, 770), [WHITE, (4, 5, 6)]),
    ],
)
def test_a_transparent_colour_of_any_depth_becomes_white(bits, colour, row, transparent, expected):
    value = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    file = png(2, 1, bits, colour, b"\0" + row, value)
    np.testing.assert_array_equal(decode_image(file, "image"), [expected])


def test_cmyk_jpeg_becomes_rgb():
    file = io.BytesIO()
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(file, "JPEG", quality=100)
    image = decode_image(file.getvalue(), "image").astype(int)
    assert np.abs(image - [0, 255, 255]).max() <= 3  # cyan


def test_class_folders_without_a_split_are_for_training(root, tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    shutil.rmtree(root / "test")
    split = load(root)
    flat = load((root / "train").rename(tmp_path / "animals"))
    assert f"no folder of {tmp_path}/animals is named like a split: all its images are for" in caplog.text
    assert flat.class_names == ("cat", "dog") and flat.fingerprint == split.fingerprint
    np.testing.assert_array_equal(flat.train.images, split.train.images)
    np.testing.assert_array_equal(flat.validation.images, split.validation.images)


# Bad input


def test_missing_folder(root):
    refused(root / "nowhere", f"`data.dir`: there is no folder or tar {root}/nowhere; it must hold train/")


def test_missing_train(root):
    shutil.rmtree(root / "train")
    refused(root, f"there is no folder {root}/train; `data.dir` must hold train/<class>/")


def test_empty_class_folder(root):
    (root / "train" / "emu").mkdir()
    refused(root, f"class folder {root}/train/emu holds no image .* fill it or remove it")


def test_one_class_is_no_classification(tmp_path):
    save(tmp_path / "train" / "cat" / "a.png")
    save(tmp_path / "test" / "cat" / "a.png")
    refused(tmp_path, f"{tmp_path}/train must hold at least two class folders")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_classes_that_differ_from_train(root, split):
    save(root / split / "emu" / "a.png")
    save(root / split / "cat" / "a.png")
    if split == "test":
        (root / "test" / "dog").rename(root / "dog")
    message = f"{root}/{split} must hold the same class folders as train; missing: dog; unknown: emu"
    refused(root, message)


@pytest.mark.parametrize("content", [b"", b"\0", b"not an image", b"GIF89a" + bytes(50)])
def test_not_an_image(root, content):
    (root / "train" / "dog" / "9.jpg").write_bytes(content)
    refused(
        root,
        f"{root}/train/dog/9.jpg is not a JPEG or PNG image: replace it or remove it, or set "
        "`data.on_bad_image` to skip",
    )


def test_other_image_formats_are_not_taken_for_jpeg(root):
    Image.new("RGB", (6, 6)).save(root / "train" / "dog" / "9.jpg", "BMP")
    refused(root, f"{root}/train/dog/9.jpg is not a JPEG or PNG image")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_image(root, suffix, share):
    path = root / "train" / "dog" / f"9.{suffix}"
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(root, f"{path} (cannot be decoded|is not a JPEG or PNG image)", image_size=6)


def test_png_with_a_flipped_bit(root):
    path = root / "test" / "cat" / "0.png"
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 1
    path.write_bytes(content)
    refused(root, f"{path} cannot be decoded")


@pytest.mark.parametrize("split", ["train", "test"])
def test_image_of_another_size(root, split):
    save(root / split / "dog" / "9.png", size=(7, 5))
    refused(
        root,
        f"{root}/{split}/dog/9.png is 7x5 pixels, but {root}/train/cat/0.png is 6x6: "
        "set `data.image_size` to resize all images to one size",
    )


@pytest.mark.parametrize("side", [10_000, 60_000])  # above Pillow's warning, above its error
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb(root, side):
    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    (root / "train" / "cat" / "9.png").write_bytes(bomb)
    refused(root, f"{root}/train/cat/9.png has more than 89,478,485 pixels", image_size=6)
