"""Which layers of two nets see the same: linear centred kernel alignment between all of them.

Linear CKA is the cosine of two layers' centred Gram matrices over images: 1 for features that differ by a
rotation or a scale. The Gram matrices here are U-centred, which makes every inner product the unbiased
estimate HSIC_1: features that have nothing in common have 0 on average, for any number of images, and
sums over batches of images are unbiased too. Features are all values that leave a part of the net, in
evaluation; of a net at its start norms are constants from its images. Without --other the layers of
one net are compared with each other.
Source: Kornblith 2019 (https://arxiv.org/abs/1905.00414); Song 2012 and Nguyen 2021
(https://arxiv.org/abs/2010.15327) for the unbiased form; Székely and Rizzo 2014 for U-centring.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from resnet.analysis import pictures
from resnet.analysis.options import StepNumber, Within, check_options
from resnet.analysis.settled import settled
from resnet.analysis.subject import Subject
from resnet.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_IMAGES = 4


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen."""

    other: str = ""
    """Folder of another run on the same data; empty: the net itself."""
    other_step: StepNumber = 0
    """Checkpoint of the other run; 0: the latest. With no --other: another step of the same run."""
    batch: Annotated[int, Within(LEAST_IMAGES, 10_000)] = 256
    """Images whose Gram matrices are held at a time; fewer left over than 4 are not used."""

    __post_init__ = check_options


@dataclasses.dataclass(frozen=True, eq=False)
class Similarity:
    """CKA of every layer with every layer."""

    title: str
    other: str
    layers: list[str]
    others: list[str]
    cka: Float[np.ndarray, "layers others"]

    def tables(self) -> dict[str, list[dict]]:
        """For each layer its counterpart, and the layer that is most alike."""
        rows = []
        for name, values in zip(self.layers, self.cka, strict=True):
            same = self.others.index(name) if name in self.others else None
            # A layer that gives every image the same has no CKA.
            pairs = zip(self.others, values, strict=True)
            alike = {other: value for other, value in pairs if not np.isnan(value)}
            most = max(alike, key=alike.__getitem__, default=None)
            rows.append(
                {
                    "layer": name,
                    "most alike": most,
                    "CKA": None if most is None else alike[most],
                    "CKA with the layer of that name": None if same is None else values[same],
                }
            )
        return {f"Each layer, beside those of {self.other}": rows}

    def plot(self) -> "Figure":
        """All pairs as one map; the first layers at the lower left."""
        figure, (axes,) = pictures.panels(1, width=6.2, height=5.2)
        axes.grid(False)
        image = axes.imshow(self.cka, origin="lower", vmin=0, vmax=1, cmap="cividis", aspect="auto")
        for which, names in ((axes.xaxis, self.others), (axes.yaxis, self.layers)):
            shown = np.unique(np.linspace(0, len(names) - 1, min(len(names), 12)).round().astype(int))
            which.set_ticks(shown, [names[i] for i in shown], fontsize=7)
        axes.tick_params(axis="x", rotation=60)
        axes.set_xlabel(f"layer of {self.other}", fontsize=8)
        axes.set_ylabel(f"layer of {self.title}", fontsize=8)
        bar = figure.colorbar(image, ax=axes)
        bar.set_label("linear CKA, unbiased (1: the same up to rotation and scale)", fontsize=8)
        return figure


def ask(subject: Subject, options: Options) -> Similarity:
    """CKA between the layers of two nets."""
    if len(subject.images) < LEAST_IMAGES:
        raise InputError("`--images` must be at least 4: the unbiased estimate divides by n - 3")
    other = _other(subject, options)
    nets = [settled(net) for net in (subject, other)]
    names = [[part.name for part in net.parts()] for net in nets]
    starts = range(0, len(subject.images), options.batch)
    batches = (subject.images[i : i + options.batch] for i in starts)
    features = ([outputs(net, x) for net in nets] for x in batches if len(x) >= LEAST_IMAGES)
    cka = linear_cka((ours, theirs) for ours, theirs in features)
    return Similarity(subject.title, other.title, names[0], names[1], cka)


def outputs(subject: Subject, images: Float[Array, "n h w c"]) -> list[Array]:
    """What leaves each part of the chain: stem, blocks, head."""
    found = []
    for part in subject.parts("running"):
        images = part(images)
        found.append(images)
    return found


def _other(subject: Subject, options: Options) -> Subject:
    """The net to compare with, on the same images."""
    if not options.other and not options.other_step:
        return subject
    if not options.other and subject.step is None:
        raise InputError("`--other_step` needs a run: give --workdir=… or --other=…")
    folder = options.other or subject.name
    other = subject.beside(folder, options.other_step or None)
    if other.images.shape != subject.images.shape:
        raise InputError(f"--other={folder} was trained on images of another shape or split")
    return other.shown_images_of(subject)


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
