"""Equal budgets: the width or depth at which one net has the parameters or work of another."""

import bisect
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from resnet.errors import InputError, check_choice
from resnet.fields import Declared, check_types
from resnet.models.config import ModelConfig
from resnet.models.counts import count_parts, totals
from resnet.models.geometry import FAMILIES, blocks_per_stage, layers_of_block, layers_outside
from resnet.models.grammar import check_net

BUDGETS = ("parameters", "macs")
LARGEST = 1 << 14  # the largest candidate: a width factor of 32 (ImageNet: 4), or 16,384 blocks a stage

Shapes = tuple[tuple[int, int, int], int]
"""(image shape, outputs of the net)."""


@dataclasses.dataclass(frozen=True)
class Match(Declared):
    """An arm asks for the budget of another arm."""

    arm: str
    """The arm whose budget is matched."""
    budget: str = "parameters"
    """parameters or macs (multiply-accumulates of one image)."""
    by: str = "width"
    """What is solved for: width (a factor) or depth (blocks)."""

    __post_init__ = check_types

    def check(self) -> None:
        """Raises InputError naming the field."""
        check_choice("match.budget", self.budget, BUDGETS)
        check_choice("match.by", self.by, SOLVERS)


@dataclasses.dataclass(frozen=True)
class Reached:
    """What the solver came to: a change of `field` to `value`, and the budget it gives."""

    field: str
    value: float | int | tuple[int, ...]
    budget: str
    target: int
    reached: int

    def __str__(self) -> str:
        off = 100 * (self.reached / self.target - 1)
        return (
            f"{self.reached:,} {self.budget} for {self.target:,} ({off:+.2f} %) by {self.field} {self.value}"
        )


def in_order(matches: Mapping[str, Match]) -> list[str]:
    """Sorts the arms that match a budget: each stands behind the arm that it matches.

    Raises InputError if they match each other in a circle.
    """
    ordered: list[str] = []
    for name in matches:
        chain = [name]
        while (last := matches[chain[-1]].arm) in matches and last not in ordered:
            chain.append(last)
            if last in chain[:-1]:
                circle = " → ".join(chain[chain.index(last) :])
                raise InputError(f"`match` goes round in a circle of arms, {circle}; one of them must have a "
                                 "budget of its own")  # fmt: skip
        ordered += [each for each in reversed(chain) if each not in ordered]
    return ordered


def check_changes_of_match(changes: Iterable[str], match: Match) -> None:
    """Raises InputError for a match that cannot work, and if `changes` set the width that it finds.

    They may set a depth, which tells the kind of net and the shares of its stages.
    """
    match.check()
    if match.by == "width" and "model.width" in changes:
        raise InputError("`model.width` would have no effect: `match` solves for it; leave it out")


def count(config: ModelConfig, shapes: Shapes, budget: str) -> int:
    """Parameters or multiply-accumulates of a net for images and outputs of these shapes."""
    image_shape, outputs = shapes
    return totals(count_parts(config, outputs, image_shape))[BUDGETS.index(budget)]


def solve(config: ModelConfig, target: int, match: Match, shapes: Shapes) -> Reached:
    """Finds the candidate whose budget is nearest to `target`.

    Raises InputError if that budget is more than 20 % away.
    """
    field, candidate, apart = SOLVERS[match.by](config)

    def net(k: int) -> ModelConfig:
        return dataclasses.replace(config, **{field: candidate(k)})

    refused = functools.cache(lambda k: _refusal(net(k)))

    @functools.cache
    def budget_of(k: int) -> int:
        return count(net(k), shapes, match.budget)

    def from_on(k: int) -> int:
        """The first net from candidate k on; 2 * LARGEST without any."""
        return next((n for n in range(k, min(k + apart, 2 * LARGEST)) if not refused(n)), 2 * LARGEST)

    def reaches(k: int) -> bool:
        return (k := from_on(k)) == 2 * LARGEST or budget_of(k) >= target

    low, high = 1, 1
    while high < LARGEST and not reaches(high):
        low, high = high, 2 * high
    low += bisect.bisect_left(range(low, high), True, key=reaches)
    # The budget grows with k: the best is the first net at or above the target, or the last below it.
    above = from_on(low)
    below = next((n for n in range(low - 1, max(low - 1 - apart, 0), -1) if not refused(n)), 0)
    valid = [k for k in (below, above) if 0 < k < 2 * LARGEST]
    if not valid:
        raise InputError(f"no {match.by} is a net with the arm's other fields: {refused(1)}")
    best = min(valid, key=lambda k: abs(budget_of(k) - target))
    while best > 1 and not refused(best - 1) and budget_of(best - 1) == budget_of(best):
        best -= 1  # the smallest of several candidates that are one net
    reached = Reached(f"model.{field}", candidate(best), match.budget, target, budget_of(best))
    if abs(reached.reached / target - 1) > 0.2:
        raise InputError(
            f"no {match.by} comes near the budget; the nearest is {reached}; match another budget"
        )
    return reached


def _refusal(config: ModelConfig) -> str:
    """Why the grammar refuses a net; nothing if it does not."""
    try:
        check_net(config)
    except InputError as error:
        return str(error)
    return ""


# The field that a solver sets, its value for candidate k, and how many candidates in a row may be no nets.
_Solver = tuple[str, Callable[[int], Any], int]


def _by_width(config: ModelConfig) -> _Solver:
    """Factors an eighth of a channel of the widest stage apart: stages do not round at the same ones.

    The grammar may refuse those at which a stage holds no whole number of groups.
    """
    channels, groups = FAMILIES[config.family], max(config.groups, config.norm_groups)
    step = 8 * max(channels)
    return "width", lambda k: k / step, 2 * step * groups // min(channels)


def _by_depth(config: ModelConfig) -> _Solver:
    """k blocks in every stage; where depths come from a table, k times the blocks of stage one.

    The grammar refuses all or none of them.
    """
    stages = len(FAMILIES[config.family])
    if config.blocks or config.family == "imagenet":
        shape = blocks_per_stage(config)
        return "blocks", lambda k: tuple(max(1, round(n * k / shape[0])) for n in shape), 1
    layers, rest = stages * layers_of_block(config), layers_outside(config)
    return "depth", lambda k: layers * k + rest, 1


SOLVERS = {"width": _by_width, "depth": _by_depth}
