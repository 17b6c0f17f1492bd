"""Whether the Jacobians of neighbouring residual branches have the same top singular vectors.

J_l is the Jacobian of F at the input of block l, at one image: norms use constants, the running statistics,
or for a net at its start those of its images. U_l and V_l hold its top k left and right singular vectors:
the strongest directions of F's output, and the directions of its input that F answers to most. The overlap of
two such sets is the mean squared cosine between the spaces that they span, |A^T B|^2 / k: 1 for one space,
k / d by chance in d dimensions. Compared are the left vectors of neighbours, the right ones, and left with
right within a block, in the mean over images. Blocks that change the shape have none of them and are left
out. The paper finds that trained nets align with shortcuts, and do not without.
Source: Li and Papyan 2023, Residual Alignment (https://arxiv.org/abs/2401.09018); k is its number of classes.
"""

import dataclasses
import functools
import itertools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from resnet.analysis import pictures
from resnet.analysis.options import Count, check_options
from resnet.analysis.settled import settled
from resnet.analysis.subject import Subject, none_keeps_shape
from resnet.models.chain import Part

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Directions that are iterated beside those asked for, which then converge faster.
SPARE = 4


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen."""

    jacobians: Count = 8
    """Images at which Jacobians are taken, of those looked at."""
    vectors: Count = 10
    """k, the top singular vectors of each Jacobian."""
    steps: Count = 30
    """Products with each Jacobian and its transpose."""
    against: str = ""
    """Folder of a second run to compare with, such as the plain twin. The latest step of that run is used."""

    __post_init__ = check_options


@dataclasses.dataclass(frozen=True, eq=False)
class Alignment:
    """One net: values of each block, and of each with the next; NaN where that has another shape."""

    name: str
    images: str
    """The images at which Jacobians were taken, in words."""
    blocks: list[str]
    largest: Float[np.ndarray, " blocks"]
    """Singular value, the mean over images."""
    chance: Float[np.ndarray, " blocks"]
    """Overlap of two sets that have nothing to do with each other."""
    left: Float[np.ndarray, " blocks"]
    """Overlap of U, the left vectors, with U of the next block."""
    right: Float[np.ndarray, " blocks"]
    """Overlap of V, the right vectors, with V of the next block."""
    within: Float[np.ndarray, " blocks"]
    """Overlap of U and V."""

    def rows(self) -> list[dict]:
        """One row a block."""
        names = ("largest", "left", "right", "within", "chance")
        return [
            {"net": self.name, "block": block} | {name: getattr(self, name)[i] for name in names}
            for i, block in enumerate(self.blocks)
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class Alignments:
    """The net, and the one to compare it with."""

    nets: list[Alignment]

    def tables(self) -> dict[str, list[dict]]:
        """A summary, and every block."""
        summary = [
            {
                "net": net.name,
                "pairs of blocks": int(np.isfinite(net.left).sum()),
                "left with next": float(np.nanmean(net.left)),
                "right with next": float(np.nanmean(net.right)),
                "left with right": float(net.within.mean()),
                "by chance": float(net.chance.mean()),
            }
            for net in self.nets
        ]
        return {
            f"Overlap of top singular vectors, at {self.nets[0].images}": summary,
            "Every block, with the next": [row for net in self.nets for row in net.rows()],
        }

    def plot(self) -> "Figure":
        """The three overlaps by block, and what chance gives."""
        figure, panels = pictures.panels(3)
        titles = {"left": "left vectors, with the next block", "right": "right vectors, with the next block",
                  "within": "left with right vectors"}  # fmt: skip
        for axes, (name, title) in zip(panels, titles.items(), strict=True):
            for i, net in enumerate(self.nets):
                numbers, style = np.arange(1, len(net.blocks) + 1), pictures.style(i)
                axes.plot(numbers, getattr(net, name), marker="o", ms=3, label=f"net {net.name}", **style)
                axes.plot(numbers, net.chance, color=style["color"], lw=0.8, ls=":")
            axes.set(xlabel="block that keeps the shape, from the stem up", ylabel="overlap", ylim=(0, 1.02),
                     title=title)  # fmt: skip
        pictures.legend_below(figure, panels[0])
        return figure


def ask(subject: Subject, options: Options) -> Alignments:
    """Overlaps in the net, and in the one to compare it with."""
    return Alignments([_alignment(each, options) for each in subject.and_against(options.against)])


def _alignment(subject: Subject, options: Options) -> Alignment:
    net = settled(subject).first(options.jacobians)
    stem, *blocks, _ = net.parts("running")
    x, names, found = stem(net.images), [], []
    for block in blocks:
        if x.shape == jax.eval_shape(block.branch, x).shape:
            names.append(block.name)
            found.append(singular_vectors(block, x, options.vectors, options.steps))
        x = block(x)
    if not names:
        raise none_keeps_shape(subject)
    lefts, values, rights = zip(*found, strict=True)
    sizes = [left.shape[1:] for left in lefts]
    return Alignment(
        subject.name,
        str(net.sample),
        names,
        largest=np.array([value[:, 0].mean() for value in values], np.float64),
        chance=np.array([k / d for d, k in sizes]),
        left=_with_next(lefts),
        right=_with_next(rights),
        within=np.array([overlap(u, v) for u, v in zip(lefts, rights, strict=True)]),
    )


def _with_next(sets: tuple[Float[np.ndarray, "n _ _"], ...]) -> np.ndarray:
    pairs = itertools.pairwise(sets)
    found = [overlap(a, b) if a.shape == b.shape else np.nan for a, b in pairs]
    return np.array([*found, np.nan])


def overlap(a: Float[np.ndarray, "n d k"], b: Float[np.ndarray, "n d k"]) -> float:
    """|A^T B|^2 / k, the mean over images."""
    return float(np.square(np.einsum("ndk,ndl->nkl", a, b)).sum((1, 2)).mean() / a.shape[2])


def singular_vectors(
    block: Part, x: Float[Array, "n h w c"], k: int, steps: int
) -> tuple[Float[np.ndarray, "n d k"], Float[np.ndarray, "n k"], Float[np.ndarray, "n d k"]]:
    """(U, the singular values, V) of the Jacobian of F at each image, the top k, by subspace iteration."""
    dimensions = x[0].size
    k = min(k, dimensions)
    start = jax.random.normal(jax.random.key(0), (len(x), dimensions, min(k + SPARE, dimensions)))
    found = _iterate(block.module, block.train, steps, block.variables, block.arrays, x, start)
    left, values, right = map(np.asarray, found)
    return left[..., :k], values[..., :k], right[..., :k]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _iterate(module, train, steps: int, variables, arrays, x: Array, start: Array) -> tuple[Array, ...]:
    branch = Part("block", module, train, variables, arrays).branch

    def each(product, vectors: Array) -> Array:
        images = jnp.moveaxis(vectors, -1, 0).reshape(-1, *x.shape)
        return jnp.moveaxis(jax.vmap(product)(images).reshape(*images.shape[:2], -1), 0, -1)

    def push(vectors: Array) -> Array:
        return each(lambda tangent: jax.jvp(branch, (x,), (tangent,))[1], vectors)

    def pull(vectors: Array) -> Array:
        return each(lambda gradient: jax.vjp(branch, x)[1](gradient)[0], vectors)

    def once(_, right: Array) -> Array:
        left = jnp.linalg.qr(push(right))[0]
        return jnp.linalg.qr(pull(left))[0]

    right = jax.lax.fori_loop(0, steps, once, jnp.linalg.qr(start)[0])
    left, values, turn = jnp.linalg.svd(push(right), full_matrices=False)
    return left, values, right @ jnp.swapaxes(turn, -2, -1)
