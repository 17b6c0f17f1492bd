"""How large the signal x and the branch F(x) are at every block, and the gradient that enters it.

Root mean squares over images, pixels and channels, with the batch's own statistics in batch norms, as
in training. The gradient is that of the loss for real images; for noise it starts as normal values
behind the last block, so that it shows the blocks alone. Growth per block is exp(mean increment of the
logarithm), up the net for the signal and down the net for the gradient, with the 95 % interval of the
mean. It is taken over blocks with a shortcut that keeps the shape of x, without the first quarter of them,
where the scale of the net's input still counts. Growth that slows down with depth is no rate: the power p of
a growth as l^p, l the number of the block, stands beside it.
Source: He 2016 (https://arxiv.org/abs/1603.05027), eq. 4 to 8, for what the shortcut does to the
gradient; Yang 2019 (https://arxiv.org/abs/1902.08129) for batch norm; He 2015
(https://arxiv.org/abs/1502.01852) for initial scales.
"""

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Array

from resnet.analysis import growth, pictures
from resnet.analysis.growth import Estimate
from resnet.analysis.options import Count, Counts, check_options
from resnet.analysis.subject import NOISE, Subject, at_depth, check_single_net
from resnet.models.chain import Flow, flow, noise_like
from resnet.models.geometry import count_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen."""

    depths: Counts = ()
    """Layers of further nets, equal but for their depth, each rounded to whole blocks; not for a run."""
    seeds: Count = 1
    """Nets at their start over which growth is averaged."""
    statistics: str = "batch"
    """What batch norms use: batch, as in training, or running."""

    __post_init__ = check_options


@dataclasses.dataclass(frozen=True, eq=False)
class NetFlow:
    """One net of the answer: its flow, and the growth in it."""

    layers: int
    flow: Flow
    """Of the first seed; natural logarithms."""
    forward: Estimate | None
    """Factor per block on the scale of x."""
    gradient: Estimate | None
    """Factor per block on the scale of the gradient, from the top down."""
    forward_power: Estimate | None
    gradient_power: Estimate | None


@dataclasses.dataclass(frozen=True)
class Signal:
    """One entry for each depth."""

    title: str
    nets: list[NetFlow]

    def tables(self) -> dict[str, list[dict]]:
        """Growth of every net; of a single one, every block too."""
        found = {"Growth per block, with 95 % intervals": [_summary(net) for net in self.nets]}
        if len(self.nets) == 1:
            found["Every block (log10 of root mean squares)"] = _blocks(self.nets[0].flow)
        return found

    def plot(self) -> "Figure":
        """Scale of x and F(x), and of the gradient, against the number of the block."""
        figure, (up, ratio, down) = pictures.panels(3)
        # The deepest first: shallow nets begin like it, and would be hidden.
        for i, net in reversed(list(enumerate(self.nets))):
            label, style, f = f"{net.layers} layers", pictures.style(i), net.flow
            joints = np.arange(len(f.x))
            up.plot(joints, f.x / math.log(10), label=f"x, {label}", **style)
            if len(self.nets) == 1:
                up.plot(joints[1:], f.branch / math.log(10), label="F(x)", **pictures.style(1))
            ratio.plot(joints[1:], (f.branch - f.x[:-1]) / math.log(10), label=label, **style)
            down.plot(joints, f.gradient / math.log(10), label=label, **style)
        for axes, name in ((up, "signal"), (ratio, "F(x) over x"), (down, "gradient to the block's input")):
            axes.set(xlabel="residual block", ylabel="log10 of the root mean square", title=name)
            axes.legend(frameon=False, fontsize=7)
        ratio.set_ylabel("log10 of the ratio")
        figure.suptitle(self.title, fontsize=11)
        return figure


def ask(subject: Subject, options: Options) -> Signal:
    """The signal in a net, or in nets of several depths."""
    check_single_net(subject, options)
    changes = [at_depth(subject.config, depth) for depth in options.depths] or [{}]
    return Signal(subject.title, [_measure(subject, change, options) for change in changes])


def measure_flow(subject: Subject, statistics: str = "batch") -> Flow:
    """The flow through one net."""
    chain = subject.parts(statistics)

    def of_loss(x: Array) -> Array:
        return jax.grad(lambda x: subject.losses(chain[-1](x)).mean())(x)

    return flow(chain, subject.images, noise_like if subject.data == NOISE else of_loss)


def _measure(subject: Subject, change: dict, options: Options) -> NetFlow:
    """Growth over the seeds, at one depth."""
    first = subject.config.seed
    others = range(first if change else first + 1, first + options.seeds)
    nets = itertools.chain([] if change else [subject], (subject.restarted(seed, change) for seed in others))
    flows, kept = [], np.zeros(0, bool)
    for net in nets:
        kept = np.array([part.regular for part in net.parts(options.statistics) if part.arrays is not None])
        flows.append(measure_flow(net, options.statistics))
    blocks = np.tile(np.arange(1, len(kept) + 1), (len(flows), 1))[:, kept].ravel()
    up = np.concatenate([np.diff(f.x)[kept] for f in flows])
    down = np.concatenate([-np.diff(f.gradient)[kept] for f in flows])
    return NetFlow(
        layers=count_layers(subject.config.model, len(kept)),
        flow=flows[0],
        forward=growth.growth_per_block(up, blocks),
        gradient=growth.growth_per_block(down, blocks),
        forward_power=growth.power_of_depth(up, blocks),
        gradient_power=growth.power_of_depth(down, blocks),
    )


def _summary(net: NetFlow) -> dict:
    """One row."""
    f = net.flow
    alive = np.flatnonzero(np.isfinite(f.gradient))
    total = (f.gradient[alive[0]] - f.gradient[alive[-1]]) / math.log(10) if len(alive) else math.nan
    return {
        "layers": net.layers,
        "blocks": len(f.blocks),
        "signal per block": str(net.forward or "none"),
        "gradient per block": str(net.gradient or "none"),
        "signal as l^p": str(net.forward_power or "none"),
        "gradient as l^p": str(net.gradient_power or "none"),
        "F(x)/x (median)": float(np.exp(np.nanmedian(f.branch - f.x[:-1]))),
        "gradient, first over last block (log10)": total,
    }


def _blocks(f: Flow) -> list[dict]:
    """One row a block."""
    return [
        {
            "block": name,
            "x": f.x[i] / math.log(10),
            "F(x)": f.branch[i] / math.log(10),
            "cosine(x, F(x))": f.cosine[i],
            "gradient to x": f.gradient[i] / math.log(10),
            "gradient to the output": f.gradient[i + 1] / math.log(10),
        }
        for i, name in enumerate(f.blocks)
    ]
