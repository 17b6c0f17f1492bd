"""Standard deviation of the response of every layer.

A layer's response is the output of its convolution after the batch norm that follows it, before any
non-linearity or sum; where no norm follows, of the convolution alone. Of a net with shortcuts it shows
how strongly the branches change what they add to.
Source: He 2015, Deep residual learning (https://arxiv.org/abs/1512.03385), Fig. 7, for nets in evaluation.
"""

import dataclasses
from typing import TYPE_CHECKING

import jax
import numpy as np

from resnet.analysis import pictures
from resnet.analysis.settled import settled
from resnet.analysis.subject import Subject
from resnet.models.branches import ORDERS
from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.geometry import layers_of_block, stem_layers
from resnet.models.layers import NORM
from resnet.models.shortcuts.table import before_branch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen."""

    statistics: str = "running"
    """What batch norms use: batch, as in training, or running."""
    against: str = ""
    """Folder of a second run to compare with, such as the plain twin. The latest step of that run is used."""


@dataclasses.dataclass(frozen=True)
class NetResponses:
    """Standard deviations by layer, from bottom to top."""

    name: str
    layers: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Responses:
    """The net, and the one to compare it with."""

    nets: list[NetResponses]

    def tables(self) -> dict[str, list[dict]]:
        """A summary, and every layer."""
        summary, every = [], []
        for net in self.nets:
            values = np.array([*net.layers.values()])
            summary.append({"net": net.name, "layers": len(values), "median": float(np.median(values)),
                            "lowest": float(values.min()), "highest": float(values.max())})  # fmt: skip
            every += [{"net": net.name, "layer": name, "std": value} for name, value in net.layers.items()]
        return {"Standard deviation of layer responses": summary, "Every layer": every}

    def plot(self) -> "Figure":
        """In the order of the layers, and by size."""
        figure, (order, size) = pictures.panels(2)
        for i, net in enumerate(self.nets):
            values = np.array([*net.layers.values()])
            numbers = np.arange(1, len(values) + 1)
            order.plot(numbers, values, label=f"net {net.name}", lw=1.2, **pictures.style(i))
            size.plot(numbers, np.sort(values)[::-1], label=f"net {net.name}", lw=1.2, **pictures.style(i))
        order.set(xlabel="layer, from the stem up", title="in the net's order")
        size.set(xlabel="layers by size", title="sorted")
        for axes in (order, size):
            axes.set(ylabel="standard deviation of the response", ylim=(0, None))
        pictures.legend_below(figure, order)
        return figure


def ask(subject: Subject, options: Options) -> Responses:
    """Responses of the net, and of the one to compare it with."""
    return Responses([_responses(each, options.statistics) for each in subject.and_against(options.against)])


def _responses(subject: Subject, statistics: str) -> NetResponses:
    x, found = subject.images, {}
    for part in settled(subject).parts(statistics)[:-1]:
        outputs = part.responses(x)
        names = (
            stem_responses(subject.config.model)
            if part.name == "stem"
            else block_responses(subject.config.model, part.module.spec)
        )
        found |= {f"{part.name}/{conv}": outputs[response].std() for conv, response in names.items()}
        x = part(x)
    return NetResponses(subject.name, {name: float(value) for name, value in jax.device_get(found).items()})


def block_responses(config: ModelConfig, block: BlockSpec) -> dict[str, str]:
    """{convolution: the layer whose output is its response} of a residual branch."""
    order, count = ORDERS[config.activation_order], layers_of_block(config)
    skipped = before_branch(config, block).count(NORM)
    normed = count if NORM in order.after else count - 1
    if config.norm == "none":
        normed = 0
    return {f"conv{i}": f"norm{i + skipped}" if i <= normed else f"conv{i}" for i in range(1, count + 1)}


def stem_responses(config: ModelConfig) -> dict[str, str]:
    """The same of the stem."""
    order, normed = ORDERS[config.activation_order], config.norm != "none"
    return {
        layer.name: f"norm{i}" if NORM in order.of_stem(layer.last) and normed else layer.name
        for i, layer in enumerate(stem_layers(config), 1)
    }
