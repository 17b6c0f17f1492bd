"""Mixup and CutMix: each image of a batch mixed with its neighbour's, and so are the labels.

The partner of places 2k and 2k + 1 is the other of the two. The order of an epoch is random, so that these
are random pairs; and both are on one device, so that the numbers do not depend on the devices. timm pairs the
first place with the last.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Key, Num

from resnet.errors import InputError

BATCH, PAIR = EACH = ("batch", "pair")


@dataclasses.dataclass(frozen=True)
class Mixing:
    """How a batch is mixed; `mixup` and `cutmix` are the parameters of their Beta distributions, or 0."""

    mixup: float
    cutmix: float
    switch: float = 0.5
    """Probability of CutMix where both are on."""
    probability: float = 1.0
    """Probability that anything is mixed."""
    each: str = BATCH
    """What has draws of its own: the batch, or each pair."""

    def __call__(
        self, key: Key[Array, ""], places: Int[Array, " b"], images: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b h w c"], Float32[Array, " b"]]:
        """The mixed images, and the share that each image has of its own label.

        `places` are the images' places in the global batch: the draws of a pair follow them. Raises
        InputError for images of whole numbers, to which shares would be rounded, and for an odd number of
        them.
        """
        count, h, w, _ = images.shape
        if count % 2 or not jnp.issubdtype(images.dtype, jnp.floating):
            raise InputError(f"mixed images must be an even number of floats; got {count} of {images.dtype}")
        if self.each == PAIR:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places[::2] // 2)
            weight, own = jax.vmap(lambda key: self._mask(key, h, w))(keys)
            weight, own = jnp.repeat(weight, 2, axis=0), jnp.repeat(own, 2, axis=0)
        else:
            weight, own = self._mask(key, h, w)
            weight, own = weight[None], jnp.broadcast_to(own, places.shape)
        weight = weight[..., None].astype(images.dtype)
        return weight * images + (1 - weight) * partners(images), own

    def _mask(self, key: Key[Array, ""], h: int, w: int) -> tuple[Float32[Array, "h w"], Float32[Array, ""]]:
        """How much of each pixel is the image's own, and the mean of that."""
        happens, which, mixup, cutmix, box = jax.random.split(key, 5)
        if not self.cutmix:
            share = jax.random.beta(mixup, self.mixup, self.mixup)
            weight = jnp.full((h, w), share)
        else:
            area = jax.random.beta(cutmix, self.cutmix, self.cutmix)
            weight = _outside(box, h, w, area).astype(jnp.float32)
            share = weight.mean()
        if self.mixup and self.cutmix:
            even = jax.random.beta(mixup, self.mixup, self.mixup)
            cuts = jax.random.bernoulli(which, self.switch)
            weight, share = jnp.where(cuts, weight, even), jnp.where(cuts, share, even)
        mixes = jax.random.bernoulli(happens, self.probability)
        return jnp.where(mixes, weight, 1.0), jnp.where(mixes, share, 1.0)


def _outside(key: Key[Array, ""], h: int, w: int, share: Float32[Array, ""]) -> Bool[Array, "h w"]:
    """Where no box is that has 1 - share of the area and a uniform middle, and is clipped at the borders."""
    side = jnp.sqrt(1 - share)
    y, x = (jax.random.randint(each, (), 0, n) for each, n in zip(jax.random.split(key), (h, w), strict=True))
    half_h, half_w = (jnp.floor(n * side).astype(jnp.int32) // 2 for n in (h, w))
    rows, columns = jnp.arange(h)[:, None], jnp.arange(w)[None, :]
    inside = (rows >= y - half_h) & (rows < y + half_h) & (columns >= x - half_w) & (columns < x + half_w)
    return ~inside


def partners(values: Num[Array, "b *rest"]) -> Num[Array, "b *rest"]:
    """What stands at each place's partner."""
    pairs = values.reshape(-1, 2, *values.shape[1:])
    return pairs[:, ::-1].reshape(values.shape)


def mixed(values: Num[Array, "b n"], share: Float32[Array, " b"]) -> Num[Array, "b n"]:
    """The values, such as one-hot labels, with so much of their own and the rest of their partner's."""
    return share[:, None] * values + (1 - share[:, None]) * partners(values)
