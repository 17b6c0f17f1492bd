"""Studies: arms that differ from a base config in a few fields, trained on the same seeds, and compared.

A study file is Python code with a function `get_study(scale) -> Study`: run only files you trust.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from resnet import recipes
from resnet.config import Config, check_config, differences, replaced
from resnet.data.datasets import shapes_of
from resnet.errors import InputError, check_at_least, check_choice, check_within
from resnet.fields import Declared, check_types, closest, fits
from resnet.studies.budget import Match, Shapes, check_changes_of_match, count, in_order, solve

SCALES = ("paper", "small")
JOBS_FOLDER = "slurm"
"""In a study's folder, beside those of its arms."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
# What the files beside the arms' folders end in: study.json, report.md, curves.png and the like.
_ENDINGS = (".json", ".jsonl", ".md", ".html", ".csv", ".png", ".txt")


@dataclasses.dataclass(frozen=True)
class Published(Declared):
    """What a paper says of an arm: a test error, a bound, or only how it compares with the reference."""

    error: float | None = None
    """Test error in percent."""
    above: float | None = None
    """Lower bound of the test error in percent, where the paper says "fail" or "more than 60 %"."""
    than_reference: str = ""
    """better or worse, where numbers for the arm and its reference do not say it."""
    words: str = ""
    """The paper's own form of it, e.g. "6.61 ± 0.16, 5 runs" or "median of 5"."""
    source: str = ""
    """Paper and table, where they are not the study's."""
    same_recipe: bool = True
    """Whether the study trains as the source did; where it does not, errors are not compared."""

    __post_init__ = check_types

    def check(self) -> None:
        """Raises InputError naming the field."""
        check_choice("published.than_reference", self.than_reference, ("", "better", "worse"))
        if self.error is None and self.above is None and not self.than_reference:
            raise InputError("`published` needs an `error`, `above` or `than_reference` to compare with")

    def __str__(self) -> str:
        number = f"{self.error:g}" if self.error is not None else ""
        bound = f"> {self.above:g}" if self.above is not None else ""
        said = ", ".join(filter(None, (number, bound, self.than_reference)))
        if not self.words or said in self.words:
            return self.words or said
        return f"{said} ({self.words})"


@dataclasses.dataclass(frozen=True)
class Arm(Declared):
    """One row of a study."""

    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Dotted fields of the config that differ from the base, e.g. {"model.shortcut": "none"}."""
    reference: str = ""
    """Arm that this one is compared with; empty: the study's."""
    match: Match | None = None
    """Another arm's budget, reached by width or depth."""
    learning_rates: tuple[float, ...] = ()
    """Learning rates to choose from on validation; empty: the study's."""
    published: Published | None = None
    """What the ledger compares the arm with."""

    __post_init__ = check_types


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a study comes from: file, scale and overrides, from which its configs can be made again."""

    file: str
    scale: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Dotted fields of the base that the command line set."""


@dataclasses.dataclass(frozen=True)
class Study(Declared):
    """A question, and the runs that answer it."""

    title: str
    base: Config
    arms: Mapping[str, Arm]
    reference: str
    """Arm that the others are compared with, seed by seed."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seed i of every arm sees the same batches and draws, and starts from the same shared values."""
    learning_rates: tuple[float, ...] = ()
    """Grid that every arm chooses from on the validation split; empty: the config's rate for all."""
    grid_seeds: int = 3
    """How many of the seeds try the whole grid; the others run at the chosen rate alone."""
    paper: str = ""
    """Where the claims stand, e.g. "He 2016 (arXiv 1603.05027)"."""
    table: str = ""
    """Table or figure of the paper."""
    note: str = ""
    """What a reader of the report must know about the recipe."""
    origin: Origin | None = None
    """Set where the study is read from its file; None for one that was made in Python."""

    __post_init__ = check_types


@dataclasses.dataclass(frozen=True)
class ResolvedArm:
    """An arm with its whole config, without the seed."""

    config: Config
    reference: str
    """Empty for an arm that is its own reference."""
    learning_rates: tuple[float, ...]
    matched: str
    """What matching the budget came to, in words."""
    parameters: int
    macs: int

    def at(self, seed: int, learning_rate: float | None = None) -> Config:
        """The config of one run; without a rate, the config's own."""
        rate = {} if learning_rate is None else {"schedule.learning_rate": learning_rate}
        return replaced(self.config, {"seed": seed} | rate)


def load_study(path: str | Path, scale: str) -> Study:
    """The result of get_study(scale) in a Python file, which is run: `path` may be a study's name."""
    check_choice("study.scale", scale, SCALES)
    study, file = recipes.call(path, "study", Study, scale=scale)
    return dataclasses.replace(study, origin=Origin(str(file), scale))


def with_base(study: Study, base: Config) -> Study:
    """The study on another base; its origin tells what differs."""
    changes = {name: new for name, _, new in differences(study.base, base)}
    origin = study.origin and dataclasses.replace(study.origin, changes={**study.origin.changes, **changes})
    return dataclasses.replace(study, base=base, origin=origin)


def study_of(origin: Origin) -> Study:
    """The study as its file has it now, with the changes of the command line."""
    study = load_study(origin.file, origin.scale)
    return with_base(study, replaced(study.base, origin.changes))


def value_at(config: Config, name: str) -> Any:
    """The value of a dotted field."""
    return functools.reduce(getattr, name.split("."), config)


def resolve(study: Study) -> dict[str, ResolvedArm]:
    """Every arm with its checked config and counts; InputError names the arm that cannot work."""
    _check(study)
    configs, matched = {}, {}
    for name, arm in study.arms.items():
        with _naming(name):
            check_changes(arm.changes, arm.learning_rates or study.learning_rates)
            configs[name] = replaced(study.base, arm.changes)
            if arm.published is not None:
                arm.published.check()
    shapes = _shapes(configs)
    matches = {name: arm.match for name, arm in study.arms.items() if arm.match}
    for name in in_order(matches):
        with _naming(name):
            check_changes_of_match(study.arms[name].changes, matches[name])
            configs[name], matched[name] = _match(configs, name, matches[name], shapes)
    arms = {}
    for name, arm in study.arms.items():
        with _naming(name):
            rates = arm.learning_rates or study.learning_rates
            _check_grid(configs[name], rates)
            reference = arm.reference or study.reference
            model = configs[name].model
            counts = [count(model, shapes[name], budget) for budget in ("parameters", "macs")]
            arms[name] = ResolvedArm(
                configs[name],
                reference if reference != name else "",
                rates,
                matched.get(name, ""),
                *counts,
            )
    return arms


def _shapes(configs: dict[str, Config]) -> dict[str, Shapes]:
    """The shapes of images and outputs of each arm. Arms on the same images share one reading of them."""
    fields = ("name", "splits", "dir", "classes", "image_size")
    found: dict[tuple, Shapes] = {}
    shapes = {}
    for name, config in configs.items():
        which = tuple(getattr(config.data, field) for field in fields)
        with _naming(name):
            shapes[name] = found[which] = found.get(which) or shapes_of(config.data)
    return shapes


def _match(
    configs: dict[str, Config], name: str, match: Match, shapes: dict[str, Shapes]
) -> tuple[Config, str]:
    """The arm's config at the budget of another, and the words that say so."""
    target = count(configs[match.arm].model, shapes[match.arm], match.budget)
    reached = solve(configs[name].model, target, match, shapes[name])
    return replaced(configs[name], {reached.field: reached.value}), f"{reached}, as {match.arm}"


def _check(study: Study) -> None:
    """Raises InputError for names, references and seeds that cannot work."""
    if not study.arms:
        raise InputError("`arms` of the study is empty; it needs an arm, and mostly one to compare with")
    _check_names(study.arms)
    for name, arm in [("study", study), *study.arms.items()]:
        matched = getattr(arm, "match", None)
        for other in filter(None, (arm.reference, matched and matched.arm)):
            if other not in study.arms:
                where = "the study" if arm is study else f"arm {name!r}"
                raise InputError(f"{where} names an arm {other!r}{closest(other, study.arms)}; "
                                 f"the arms are {', '.join(study.arms)}")  # fmt: skip
    check_seeds(study.seeds)
    if (several := study.base.train.seeds) != 1:
        raise InputError(f"`train.seeds` must be 1 in a study, whose runs have its `seeds`; got {several}")
    check_at_least("study.grid_seeds", study.grid_seeds, 1)


def check_changes(changes: Mapping[str, Any], rates: tuple[float, ...]) -> None:
    """Raises InputError for a field that the runs of an arm have from the study."""
    from_study = {"seed": "the study's `seeds`", "train.seeds": "the study's `seeds`"}
    if rates:
        from_study["schedule.learning_rate"] = f"the arm's or the study's `learning_rates`, {rates}"
    for name in changes:
        if name in from_study:
            raise InputError(f"`{name}` would have no effect: the runs have {from_study[name]}; leave it out")


def _check_names(names: Iterable[str]) -> None:
    """Raises InputError for a name that cannot be a folder beside the others and the study's own files."""
    folders: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            shown = repr(name) if len(str(name)) <= 100 else f"{str(name)[:20]!r}… of {len(name)} letters"
            raise InputError(
                f"arm {shown} must be a folder's name: at most 100 letters, digits and, after the first, "
                "any of . _ + -"
            )
        if name.lower() == JOBS_FOLDER or name.lower().endswith(_ENDINGS):
            raise InputError(f"arm {name!r} has the name of a file or folder of the study; choose another")
        other = folders.setdefault(name.lower(), name)
        if other != name:
            raise InputError(f"arms {other!r} and {name!r} are one folder where case is ignored; rename one")


def check_seeds(seeds: Any) -> None:
    """Raises InputError unless the seeds of a study are different numbers that a run can have."""
    if not fits(seeds, tuple[int, ...]):
        raise InputError(f"`study.seeds` must be a tuple of whole numbers; got {seeds!r}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"`study.seeds` must be different numbers, at least one; got {seeds}")
    for seed in seeds:
        check_within("study.seeds", seed, 0, 2**31 - 1)


def rate_folder(rate: float) -> str:
    """The folder of the runs at a learning rate of the grid: "lr0.05"."""
    return f"lr{rate:g}"


def _check_grid(config: Config, rates: tuple[float, ...]) -> None:
    """Raises InputError if the config cannot work, at its own rate or those of the grid."""
    check_config(config)
    folders: dict[str, float] = {}
    for rate in rates:
        other = folders.setdefault(rate_folder(rate), rate)
        if list(rates).count(rate) > 1 or other != rate:
            raise InputError(
                f"`learning_rates` {other!r} and {rate!r} have one folder, {rate_folder(rate)}; "
                "leave one out, or give rates that differ in their first six digits"
            )
        check_config(replaced(config, {"schedule.learning_rate": rate}))
    if rates and not config.data.validation and not config.data.in_files:
        raise InputError("learning rates are chosen on validation; set `data.validation` above 0")


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Puts the arm's name before the message of an InputError."""
    try:
        yield
    except InputError as error:
        raise InputError(f"arm {name!r}: {error}") from None
