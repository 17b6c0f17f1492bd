"""Which layers of two nets see the same: linear centred kernel alignment between all of them.

Linear CKA (Kornblith 2019, https://arxiv.org/abs/1905.00414) is the cosine of two layers' centred Gram
matrices over images: 1 for features that differ by a rotation or a scale. The Gram matrices here are
U-centred (Szekely and Rizzo 2014), which makes each inner product the unbiased estimate HSIC_1 of Song
2012: features that have nothing in common have 0 on average, for any number of images, and batches of
images can be averaged (Nguyen 2021, https://arxiv.org/abs/2010.15327).
"""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def linear_cka(
    batches: Iterable[tuple[Sequence[Array], Sequence[Array]]],
) -> Float[np.ndarray, "layers others"]:
    """CKA of each layer of one net with each of another, from batches of (features, other features).

    Features of a layer: [b, ...], the same images in both; at least four images a batch.
    """
    products = ours = theirs = 0.0
    for features, others in batches:
        a, b = (np.asarray(_grams(tuple(each)), np.float64) for each in (features, others))
        products += a @ b.T
        ours, theirs = ours + np.square(a).sum(1), theirs + np.square(b).sum(1)
    return products / np.sqrt(np.multiply.outer(ours, theirs))


@jax.jit
def _grams(features: tuple[Array, ...]) -> Float[Array, "layers pairs"]:
    """The U-centred Gram matrix of each layer, flat."""
    return jnp.stack([u_centred(x.reshape(len(x), -1).astype(jnp.float32)).ravel() for x in features])


def u_centred(x: Float[Array, "n p"]) -> Float[Array, "n n"]:
    """x x^T without its diagonal, so centred that unbiased HSIC is the mean product of two of them."""
    n = len(x)
    x = x - x.mean(0, keepdims=True)
    off = 1 - jnp.eye(n)
    gram = off * (x @ x.T)
    rows = gram.sum(0) / (n - 2)
    return off * (gram - rows[:, None] - rows[None] + gram.sum() / ((n - 1) * (n - 2)))
