"""Image files of every sort that people have, and ways to break them; each with what must become of it."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, PngImagePlugin

SIDE = 24
BAD, EITHER = "an error", "an error or an image: the format has no checksum"
# What a file must be read as: an array, or one of the two above.
Expected = np.ndarray | str


def picture(random: Random) -> Image.Image:
    """A slope of colours, which JPEG changes little."""
    x, y = np.meshgrid(np.linspace(0, 1, SIDE), np.linspace(0, 1, SIDE))
    ends = np.array([[random.randint(0, 255) for _ in range(3)] for _ in range(2)])
    share = (x * 0.7 + y * 0.3)[..., None]
    return Image.fromarray(np.uint8(ends[0] * share + ends[1] * (1 - share)))


def written(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG file by hand, for what Pillow does not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    parts = (header, *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# Readable: (bytes, suffix, array)


def plain(random):
    image, kind = picture(random), random.choice(["PNG", "JPEG"])
    return written(image, kind), random.choice([".png", ".jpg", ".JPEG"]), rgb(image)


def progressive(random):
    image = picture(random)
    return written(image, "JPEG", progressive=True, optimize=True), ".jpg", rgb(image)


def other_mode(random):
    image = picture(random).convert(random.choice(["L", "LA", "1", "P", "RGBA"]))
    return written(image, "PNG"), ".png", rgb(image)


def cmyk(random):
    image = picture(random).convert("CMYK")
    return written(image, "JPEG", quality=95), ".jpg", rgb(image)


def sixteen_bits(random):
    value = random.randint(0, 65535)
    if random.random() < 0.5:
        grey = Image.fromarray(np.full((SIDE, SIDE), value, np.uint16))
        return written(grey, "PNG"), ".png", np.full((SIDE, SIDE, 3), value >> 8, np.uint8)
    rows = (b"\0" + struct.pack(">HHH", value, 0, 65535 - value) * SIDE) * SIDE
    expected = np.broadcast_to(np.uint8([value >> 8, 0, (65535 - value) >> 8]), (SIDE, SIDE, 3))
    return png(SIDE, SIDE, 16, 2, rows), ".png", expected


def palette(random):
    image = picture(random).quantize(random.choice([2, 4, 16, 256]))
    return written(image, "PNG"), ".png", rgb(image)


def transparent(random):
    image = picture(random)
    image.putalpha(0)
    return written(image, "PNG"), ".png", np.full((SIDE, SIDE, 3), 255, np.uint8)


def animated(random):
    frames = [picture(random) for _ in range(3)]
    return written(frames[0], "PNG", save_all=True, append_images=frames[1:]), ".png", rgb(frames[0])


def several_pictures(random):
    frames = [picture(random) for _ in range(2)]
    return written(frames[0], "MPO", save_all=True, append_images=frames[1:]), ".jpg", rgb(frames[0])


def turned(random):
    image, exif = picture(random), Image.Exif()
    number = random.randint(2, 8)
    exif[0x0112] = number
    turns = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    turns |= {6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}
    upright = image.transpose(Image.Transpose[turns[number]])
    return written(image, random.choice(["PNG", "JPEG"]), exif=exif), ".jpg", rgb(upright)


def narrow(random):
    image = picture(random).resize((1, 400) if random.random() < 0.5 else (400, 1))
    return written(image, "PNG"), ".png", None


def broken_exif(random):
    image = picture(random)
    exif = b"Exif\0\0MM\0*" + bytes(random.randint(0, 255) for _ in range(random.randint(0, 60)))
    return written(image, "JPEG", exif=exif), ".jpg", None


# Broken: (bytes, suffix, BAD)


def empty(random):
    return b"", ".jpg", BAD


def noise(random):
    return random.randbytes(random.randint(1, 3000)), random.choice([".jpg", ".png"]), BAD


def text(random):
    texts = [b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\n", b"\x80\x04K\x01."]
    return random.choice(texts), ".jpg", BAD


def mislabelled(random):
    kind = random.choice(["GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO"])
    options = {"save_all": True, "append_images": [picture(random)]} if kind == "GIF" else {}
    return written(picture(random), kind, **options), random.choice([".jpg", ".png"]), BAD


def truncated(random):
    kind = random.choice(["PNG", "JPEG"])
    grain = np.random.RandomState(random.randint(0, 999)).randint(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    whole = written(Image.fromarray(grain), kind)
    return whole[: random.randint(1, int(0.9 * len(whole)))], ".png", BAD


def flipped_png(random):
    content = bytearray(written(picture(random), "PNG"))
    start = content.index(b"IDAT") + 4
    content[random.randrange(start, len(content) - 16)] ^= 1 << random.randrange(8)
    return bytes(content), ".png", BAD


def flipped_jpeg(random):
    content = bytearray(written(picture(random), "JPEG"))
    for _ in range(random.randint(1, 9)):
        content[random.randrange(2, len(content))] ^= 1 << random.randrange(8)
    return bytes(content), ".jpg", EITHER


def bomb(random):
    """A small file that claims, or holds, more pixels than memory should be given."""
    if random.random() < 0.8:
        side = random.randint(9460, 2**31 - 1)
        return png(side, side, 8, 2, b""), ".png", BAD
    return png(12_000, 12_000, 1, 0, bytes(1501 * 12_000)), ".png", BAD


def text_bomb(random):
    inside = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000 // random.randint(1, 2))))
    return png(1, 1, 8, 2, b"\0\0\0\0", inside), ".png", BAD


def no_size(random):
    return png(random.choice([0, 5]), 0, 8, 2, b""), ".png", BAD


def many_chunks(random):
    info = PngImagePlugin.PngInfo()
    for index in range(200):
        info.add_text(f"key{index}", "x" * 1000)
    image = picture(random)
    return written(image, "PNG", pnginfo=info), ".png", rgb(image)


READABLE = [plain, progressive, other_mode, cmyk, sixteen_bits, palette, transparent, animated]
READABLE += [several_pictures, turned, narrow, broken_exif, many_chunks]
BROKEN = [empty, noise, text, mislabelled, truncated, flipped_png, flipped_jpeg, bomb, text_bomb, no_size]


# What is no file at all: made at a path


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def folder(path: Path) -> None:
    path.mkdir()


def unreadable(path: Path) -> None:
    path.write_bytes(written(picture(Random(0)), "PNG"))
    path.chmod(0)


NO_FILES = [pipe, device, loop, dangling, folder]
if os.geteuid():  # root reads everything
    NO_FILES.append(unreadable)


def make(case: Callable, path: Path, seed: int) -> tuple[Path, Expected | None]:
    """Makes the file of one case; its path, and what must become of it (None: any image of that size)."""
    if case in NO_FILES:
        path = path.with_suffix(".jpg")
        case(path)
        return path, BAD
    content, suffix, expected = case(Random(seed))
    path = path.with_suffix(suffix)
    path.write_bytes(content)
    return path, expected


def cases(n: int) -> list[tuple[Callable, int]]:
    """n cases, all sorts in turn, with a seed for each."""
    sorts = [*READABLE, *BROKEN, *NO_FILES]
    return [(sorts[index % len(sorts)], index) for index in range(n)]
