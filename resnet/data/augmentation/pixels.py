"""Four ways to change the pixels of one image, as Pillow does: by a table, two blends, and an affine map.

All operations of RandAugment and its kin are one of these. Images are uint8, RGB or grey. Tables, blends and
the nearest pixel are Pillow's bits; interpolated pixels are at most one level off in float32, and Pillow's in
float64.
"""

from functools import cache
from math import gcd

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, Num, UInt8

Image = UInt8[Array, "h w c"]

GREY = (19595, 38470, 7471)  # 65536 times the weights of red, green and blue (ITU-R 601-2)
UNREACHED = -1e9
FIXED = 2**16  # Pillow's unit of coordinates where it takes the nearest pixel


def looked_up(image: Image, table: Int32[Array, "c 256"]) -> Image:
    """Each value of a channel replaced by the channel's entry for it."""
    rows = jnp.arange(image.shape[-1]) * 256
    return table.astype(jnp.uint8).reshape(-1)[image + rows[None, None]]


def grey(image: Image) -> UInt8[Array, "h w"]:
    """The luminance, as Pillow's convert("L")."""
    if image.shape[-1] == 1:
        return image[..., 0]
    weighted = (image.astype(jnp.int32) * jnp.asarray(GREY)[None, None]).sum(-1)
    return ((weighted + 2**15) >> 16).astype(jnp.uint8)


def blended(
    base: Num[Array, "*#shape"], values: Num[Array, "*shape"], factor: Float[Array, ""]
) -> UInt8[Array, "*shape"]:
    """base + factor * (values - base), within 0..255 and truncated, as Pillow's blend of two images."""
    base, values = base.astype(jnp.float32), values.astype(jnp.float32)
    # A bound that nothing reaches keeps compilers from joining product and sum, which would round once.
    product = jnp.maximum(factor * (values - base), UNREACHED)
    return jnp.clip(base + product, 0, 255).astype(jnp.uint8)


def smoothed(image: Image) -> Image:
    """The mean of each pixel, with weight 5, and its eight neighbours; the border stays (Pillow's SMOOTH)."""
    h, w, _ = image.shape
    if min(h, w) < 3:
        return image
    wide = image.astype(jnp.int32)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * wide[1:-1, 1:-1]
    inner = ((2 * total + 13) // 26).astype(jnp.uint8)
    return image.at[1:-1, 1:-1].set(inner)


def histograms(image: Image) -> Int32[Array, "c 256"]:
    """How often each channel has each value."""
    c = image.shape[-1]
    bins = (image + jnp.arange(c)[None, None] * 256).reshape(-1)
    return jnp.zeros(c * 256, jnp.int32).at[bins].add(1).reshape(c, 256)


def equalizing_table(image: Image) -> Int32[Array, "c 256"]:
    """The table by which all values become equally frequent, as ImageOps.equalize has it."""
    counts = histograms(image)
    before = jnp.cumsum(counts, axis=1) - counts
    last = 255 - jnp.argmax(counts[:, ::-1] > 0, axis=1)
    step = (jnp.take_along_axis(before, last[:, None], axis=1) // 255).astype(jnp.int32)
    table = jnp.minimum((step // 2 + before) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table, jnp.arange(256)[None])


def stretching_table(image: Image) -> Int32[Array, "c 256"]:
    """The table by which each channel comes to reach from 0 to 255, as ImageOps.autocontrast has it."""
    h, w, c = image.shape
    rows = image.reshape(h, w * c)  # whose extremes are those of vectors, a quarter of the time
    low, high = (
        extreme(extreme(rows, 0).reshape(w, c), 0).astype(jnp.int32)[:, None]
        for extreme in (jnp.min, jnp.max)
    )
    value = jnp.arange(256)[None]
    exact = 255 * (value - low) // jnp.maximum(high - low, 1)
    codes = jnp.asarray(_rounded_down())
    code = (low * 256 + high) * 256 + value
    below = codes[jnp.clip(jnp.searchsorted(codes, code), 0, len(codes) - 1)] == code
    return jnp.where(high > low, jnp.clip(exact - below, 0, 255), value)


@cache
def _rounded_down() -> np.ndarray:
    """Codes of (low, high, value) where Pillow is one below the integer 255 (value - low) / (high - low).

    Pillow computes value * scale + offset in float64, and cuts off what is just below an integer.
    """
    found = []
    for span in range(1, 256):
        low, part = np.mgrid[: 256 - span, 1 : gcd(255, span) + 1]
        value = low + part * (span // gcd(255, span))
        scale = 255.0 / span
        below = (value * scale + -low * scale).astype(np.int64) < 255 * (value - low) // span
        found.append((((low * 256 + low + span) * 256) + value)[below])
    return np.sort(np.concatenate(found)).astype(np.int32)


def nearest(image: Image, map: Int32[Array, "2 3"], fill: UInt8[Array, " c"]) -> Image:
    """The image whose pixel (x, y) is the source's at map @ (x, y, 1), in units of FIXED; `fill` outside."""
    h, w, _ = image.shape
    x, y = (c >> 16 for c in _mapped(h, w, map))
    return _where_inside(_pixels(image, y, x), (x >= 0) & (x < w) & (y >= 0) & (y < h), fill)


def bilinear(image: Image, map: Float[Array, "2 3"], fill: UInt8[Array, " c"]) -> Image:
    """The same in pixels, between the four next pixels; in the precision of `map`."""
    return _interpolated(image, map, fill, (0, 1), lambda d, a, b: a + (b - a) * d)


def bicubic(image: Image, map: Float[Array, "2 3"], fill: UInt8[Array, " c"]) -> Image:
    """The same by the cubic with a = -1 through the next sixteen pixels."""

    def cubic(d, a, b, c, e):
        return b + d * (c - a + d * (2 * (a - b) + c - e + d * (b - a - c + e)))

    return _interpolated(image, map, fill, (-1, 0, 1, 2), cubic)


def _interpolated(image, map, fill, offsets, between):
    h, w, _ = image.shape
    x, y = _mapped(h, w, map)
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    left, top = jnp.floor(x - 0.5), jnp.floor(y - 0.5)
    across, down = (x - 0.5 - left)[..., None], (y - 0.5 - top)[..., None]
    left, top = left.astype(jnp.int32), top.astype(jnp.int32)

    def row(i):
        return between(across, *(_pixels(image, top + i, left + j).astype(map.dtype) for j in offsets))

    value = between(down, *(row(i) for i in offsets))
    return _where_inside(jnp.clip(value, 0, 255).astype(jnp.uint8), inside, fill)


def _mapped(h: int, w: int, map: Num[Array, "2 3"]) -> tuple[Num[Array, "h w"], Num[Array, "h w"]]:
    """The (x, y) of the source for each pixel: the same bits wherever a compiler computes them anew.

    Joined with a sum, a product would be rounded in one place and not in another, and a source in the middle
    of a pixel would take its weights as that pixel's and its values from the next.
    """
    x, y = jnp.arange(w, dtype=map.dtype)[None, :], jnp.arange(h, dtype=map.dtype)[:, None]

    def at(row):
        products = (row[0] * x, row[1] * y)
        if jnp.issubdtype(map.dtype, jnp.floating):
            products = tuple(jnp.maximum(product, UNREACHED) for product in products)  # as in `blended`
        return products[0] + products[1] + row[2]

    return at(map[0]), at(map[1])


def _pixels(image: Image, y: Int[Array, "h w"], x: Int[Array, "h w"]) -> Image:
    """The pixels at (y, x), each clamped to the image."""
    h, w, c = image.shape
    flat = jnp.clip(y, 0, h - 1) * w + jnp.clip(x, 0, w - 1)
    return image.reshape(h * w, c)[flat]


def _where_inside(pixels, inside, fill):
    return jnp.where(inside[..., None], pixels, fill[None, None])
