"""Curvature of the loss over the parameters: extreme eigenvalues and density of its Hessian.

The Hessian is that of the mean loss over the images, without weight decay, and only products with it are
taken. Norms are constants, as in evaluation (of a net at its start: from its images), so that every
image's loss is a function of the parameters alone. The generalised Gauss-Newton part (--ggn) is
J^T H J with the Jacobian J of the logits and the Hessian H of the loss over them: what is left without
the curvature of the net itself, and never negative. The density is stochastic Lanczos quadrature:
Gaussians around the Ritz values of several random starts. The trace is the mean of v^T H v over vectors of
random signs, with the standard error of that mean.
Source: Ghorbani 2019 (https://arxiv.org/abs/1901.10159) for the density; Martens 2014
(https://arxiv.org/abs/1412.1193) for the Gauss-Newton part.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from resnet.analysis import pictures
from resnet.analysis.krylov import Products, Ritz, density, lanczos
from resnet.analysis.options import Count, check_options
from resnet.analysis.settled import batches, logits_of, loss_of, settled
from resnet.analysis.subject import Subject
from resnet.paths import count_elements

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Logits = Callable[[Any, Array], Array]
Loss = Callable[[Array, Array], Float[Array, ""]]

# The Gaussians' deviation over the range of the eigenvalues, and the points of the curve.
WIDTH, POINTS = 1 / 200, 801


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen."""

    ggn: bool = False
    """The generalised Gauss-Newton part instead of the whole Hessian."""
    steps: Count = 40
    """Lanczos steps, each one product, from every start."""
    starts: Count = 2
    """Random starts, over which the density is averaged."""
    probes: Count = 30
    """Vectors of random signs, each one product, over which the trace is averaged."""
    extremes: Count = 5
    """Eigenvalues listed at each end."""

    __post_init__ = check_options


@dataclasses.dataclass(frozen=True, eq=False)
class Curvature:
    """Extremes with their errors, and the density of the eigenvalues."""

    title: str
    matrix: str
    parameters: int
    loss: float
    eigenvalues: Float[np.ndarray, " extremes"]
    """Ritz values at both ends, in rising order, of the first start."""
    errors: Float[np.ndarray, " extremes"]
    trace: float
    """Of the whole matrix, estimated from the probes."""
    trace_error: float
    """Its standard error; not a number for a single probe."""
    below_zero: float
    """Share of the eigenvalues that lie more than three deviations of the curve below 0."""
    grid: Float[np.ndarray, " points"]
    density: Float[np.ndarray, " points"]

    def tables(self) -> dict[str, list[dict]]:
        """What sums it up, and the eigenvalues."""
        summary = {
            "parameters": self.parameters,
            "loss": self.loss,
            "largest": self.eigenvalues[-1],
            "smallest": self.eigenvalues[0],
            "|smallest| / largest": abs(self.eigenvalues[0]) / self.eigenvalues[-1],
            "trace": self.trace,
            "its standard error": self.trace_error,
            "mean eigenvalue": self.trace / self.parameters,
            "share below 0 by three widths": self.below_zero,
        }
        pairs = zip(self.eigenvalues[::-1], self.errors[::-1], strict=True)
        rows = [{"eigenvalue": value, "a true one within": error} for value, error in pairs]
        return {f"{self.matrix}: summary": [summary], "Extreme eigenvalues": rows}

    def plot(self) -> "Figure":
        """The density on a logarithmic axis, the extreme eigenvalues marked below it."""
        figure, (axes,) = pictures.panels(1, width=6.5)
        shown = self.density.max() * 1e-8
        axes.plot(self.grid, np.maximum(self.density, shown), label="density", **pictures.style(0))
        axes.plot(self.eigenvalues, np.full(len(self.eigenvalues), shown * 2), "|", markersize=12,
                  color=pictures.COLORS[1], label="extreme eigenvalues")  # fmt: skip
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set(xlabel=f"eigenvalue of the {self.matrix}", ylabel="density (per unit of eigenvalue)",
                 yscale="log", title=self.title)  # fmt: skip
        axes.legend(frameon=False)
        return figure


def ask(subject: Subject, options: Options) -> Curvature:
    """The curvature at a net's parameters."""
    net = settled(subject)
    params, logits, loss = net.variables["params"], logits_of(net), loss_of(net)
    products = ggn_products if options.ggn else hessian_products
    apply = products(logits, loss, params, *batches(net))
    size, rng = count_elements(params), np.random.default_rng(0)
    found = [lanczos(apply, rng.normal(size=size), options.steps) for _ in range(options.starts)]
    trace = trace_of(apply, size, options.probes, rng)
    name = "Gauss-Newton matrix" if options.ggn else "Hessian"
    value = float(jnp.mean(net.losses(jax.jit(logits)(params, net.images))))
    return _summary(net.title, name, size, value, found, trace, options.extremes)


def trace_of(apply: Products, size: int, probes: int, rng: np.random.Generator) -> tuple[float, float]:
    """(trace, its standard error) of a matrix, by vectors of random signs (Hutchinson 1990)."""
    signs = (rng.choice((-1.0, 1.0), size) for _ in range(probes))
    found = np.array([v @ apply(v) for v in signs])
    error = found.std(ddof=1) / math.sqrt(probes) if probes > 1 else math.nan
    return float(found.mean()), float(error)


def _summary(
    title: str,
    matrix: str,
    size: int,
    loss: float,
    found: list[Ritz],
    trace: tuple[float, float],
    extremes: int,
) -> Curvature:
    """What the Ritz values say."""
    first = found[0]
    ends = np.unique(
        np.r_[: min(extremes, len(first.values)), -min(extremes, len(first.values)) : 0] % len(first.values)
    )
    low, high = (pick([pick(ritz.values) for ritz in found]) for pick in (min, max))
    width = max((high - low) * WIDTH, float(np.finfo(np.float32).tiny))
    grid = np.linspace(low - 5 * width, high + 5 * width, POINTS)
    return Curvature(
        title, matrix, size, loss, first.values[ends], first.errors[ends],
        *trace,
        below_zero=float(np.mean([ritz.weights[ritz.values < -3 * width].sum() for ritz in found])),
        grid=grid, density=density(found, grid, width),
    )  # fmt: skip


def hessian_products(logits: Logits, loss: Loss, params: Any, images: Array, labels: Array) -> Products:
    """v -> H v for the mean over batches of loss(logits(params, images), labels).

    images, labels: [batches, b, ...]. Vectors are flat, in the order of jax.tree.leaves.
    """

    def product(params: Any, tangent: Any, images: Array, labels: Array) -> Any:
        gradient = jax.grad(lambda p: loss(logits(p, images), labels))
        return jax.jvp(gradient, (params,), (tangent,))[1]

    return _mean_products(product, params, images, labels)


def ggn_products(logits: Logits, loss: Loss, params: Any, images: Array, labels: Array) -> Products:
    """v -> J^T H J v, as `hessian_products`."""

    def product(params: Any, tangent: Any, images: Array, labels: Array) -> Any:
        outputs, moved = jax.jvp(lambda p: logits(p, images), (params,), (tangent,))
        curved = jax.jvp(jax.grad(lambda y: loss(y, labels)), (outputs,), (moved,))[1]
        return jax.vjp(lambda p: logits(p, images), params)[1](curved)[0]

    return _mean_products(product, params, images, labels)


def _mean_products(product: Callable, params: Any, images: Array, labels: Array) -> Products:
    """`product` of a flat vector, averaged over batches one after the other, so that memory holds one."""
    flat, unravel = ravel_pytree(params)

    @jax.jit
    def mean(params: Any, vector: Array, images: Array, labels: Array) -> Array:
        def add(total, batch):
            one = product(params, unravel(vector), *batch)
            return total + ravel_pytree(one)[0] / len(images), None

        return jax.lax.scan(add, jnp.zeros_like(flat), (images, labels))[0]

    return lambda vector: np.asarray(mean(params, jnp.asarray(vector, flat.dtype), images, labels))
