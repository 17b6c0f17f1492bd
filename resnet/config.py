"""The whole configuration of a run: the leaf configs composed, read, checked, compared and saved.

A config file is Python code with a function `get_config() -> Config`: run only files you trust.
"""

import copy
import dataclasses
import functools
import hashlib
import json
import math
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resnet import recipes
from resnet.data.config import DataConfig
from resnet.errors import InputError, check_at_least, check_regex
from resnet.fields import FORMER, Fields, fits, of_kind, present_name, type_name, unknown_field
from resnet.files import check_path, local_path
from resnet.models.config import ModelConfig
from resnet.models.grammar import check_net, idle_in_net
from resnet.runs.checkpoints.checkpoint import CheckpointConfig
from resnet.runs.metrics.boards import RecordsConfig
from resnet.runs.metrics.records import write_json
from resnet.runtime.cache import CacheConfig
from resnet.runtime.devices import ParallelConfig, check_batch
from resnet.training.config import TrainConfig
from resnet.training.optimizers import OptimizerConfig
from resnet.training.schedules import ScheduleConfig

CONFIG_FILE = "config.json"


@dataclasses.dataclass(unsafe_hash=True)
class Config(Fields, section=""):
    """Everything that decides a run's numbers."""

    seed: int = 0
    """Seed of the initial weights, the data order, augmentation and dropout."""
    deterministic: bool = False
    """Two runs give the same bits on a GPU too, at the cost of speed; on a CPU they always do."""
    init_from: str = ""
    """Folder of a run, or weight file (.safetensors, .pth, …), to start from; empty: from random values."""
    init_drop: str = ""
    """Regular expression on the paths of tensors that start at random all the same, e.g. "^head/"."""
    init_whitened: int = 0
    """Number of training images whose patches make the first kernel: its outputs are then uncorrelated at
    the start, and `freeze` keeps that kernel. 0 = a random kernel."""
    freeze: str = ""
    """Regular expression on the paths of parameters that keep their first values, bit for bit.

    Batch norms there still follow the data with their statistics, unless `model.bn_fixed` matches them."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """Which images, and what is done to them."""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    """The net."""
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    """How gradients become updates."""
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    """The learning rate over time."""
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    """Batches, duration, targets, and how often to look."""
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    """How often to save, and what to keep."""
    records: RecordsConfig = dataclasses.field(default_factory=RecordsConfig)
    """Where metrics go."""
    parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)
    """How the processors are used."""
    cache: CacheConfig = dataclasses.field(default_factory=CacheConfig)
    """Where compiled programs are kept."""

    def check_shares(self, devices: int) -> None:
        """Raises InputError unless each batch can be divided as the devices and the settings need it."""
        train = self.train
        pairs = train.mixing is not None
        check_batch(train.batch_size, self.model.ghost_batch, devices, train.accumulate, pairs)

    def unit_of_batch(self, devices: int) -> int:
        """The number of images of which `check_shares` takes any multiple as the size of a batch."""
        pairs = 2 if self.train.mixing else 1
        return devices * self.train.accumulate * math.lcm(self.model.ghost_batch or 1, pairs)


def check_config(config: Config) -> None:
    """Raises InputError for the first field that cannot work, alone or with the others."""
    for name, kind, value in _fields(config):
        if not fits(value, kind):
            raise InputError(f"`{name}` must be of type {type_name(kind)}; got {value!r}")
        if not _finite(value):
            raise InputError(f"`{name}` must be finite; got {value!r}")
    if not 0 <= config.seed <= 2**31 - max(config.train.seeds, 1):
        raise InputError(
            "`seed` must be at least 0, and it and those after it, `train.seeds` in all, below 2**31; got "
            f"{config.seed} with {config.train.seeds}"
        )
    for field in dataclasses.fields(config):
        section = getattr(config, field.name)
        if isinstance(section, ModelConfig):
            check_net(section)
        elif dataclasses.is_dataclass(section):
            section.check()  # type: ignore[attr-defined]
    check_path("init_from", config.init_from)
    for name in ("init_drop", "freeze"):
        check_regex(name, getattr(config, name))
    if config.init_drop and not config.init_from:
        raise InputError("`init_drop` says what not to take from `init_from`, which is empty")
    check_at_least("init_whitened", config.init_whitened, 0)
    if config.init_whitened and (config.init_from or config.model.weight_standardization != "none"):
        raise InputError("`init_whitened` must be 0 with `init_from`, which gives the first convolution too, "
                         "and with `model.weight_standardization`, which would undo it")  # fmt: skip
    config.check_shares(devices=1)
    if config.data.repeats > 1 and 1 < config.train.batch_size < 2 * config.data.repeats:
        raise InputError("`data.repeats` must be at most half of `train.batch_size`, for a batch to hold "
                         f"two images; got {config.data.repeats} and {config.train.batch_size}")  # fmt: skip
    if config.train.label_smoothing and config.model.output == "identity":
        raise InputError("`train.label_smoothing` is for classes, and must be 0 where `model.output` is "
                         f"identity; got {config.train.label_smoothing}")  # fmt: skip
    if config.train.target_threshold and config.model.output != "sigmoid":
        raise InputError(
            "`train.target_threshold` must be 0 unless `model.output` is sigmoid; got "
            f"{config.train.target_threshold} with {config.model.output!r}"
        )


def idle_fields(config: Config) -> dict[str, str]:
    """Fields that differ from their defaults, and have no effect beside the others: what each is for."""
    idle = {
        "model": idle_in_net(config.model),
        **{name: getattr(config, name).idle() for name in ("data", "optimizer", "schedule", "train")},
    }
    purposes = {f"{section}.{name}": purpose for section in idle for name, purpose in idle[section].items()}
    changed = [name for name, _, _ in differences(Config(), config)]
    return {name: purposes[name] for name in changed if name in purposes}


def given_starts(config: Config) -> list[tuple[str, Any, Any]]:
    """Finds the fields set to give a net initial values that are not random: (field, default, value)."""
    return [each for each in differences(Config(), config) if each[0] in ("init_from", "init_whitened")]


def load_config(path: str | Path) -> Config:
    """The checked result of get_config() in a Python file, which is run: `path` may be a recipe's name."""
    config, _ = recipes.call(path, "config", Config)
    check_config(config)
    return config


def config_to_dict(config: Config) -> dict[str, Any]:
    """Nested dict of plain values; tuples stay tuples (lists in JSON)."""
    return dataclasses.asdict(config)


def config_from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `config_to_dict`, also after JSON; unknown fields are an InputError."""
    config = _from_dict(Config, values)
    check_config(config)
    return config


def model_from_dict(values: dict[str, Any]) -> ModelConfig:
    """The model of a config that was written, without a check of what else is in a config."""
    model = _from_dict(Config, {"model": values}).model
    check_net(model)
    return model


def save_config(config: Config, workdir: str | Path) -> None:
    """Writes config.json."""
    write_json(local_path(workdir) / CONFIG_FILE, config_to_dict(config))


def load_saved_config(workdir: str | Path) -> Config:
    """Reads the config.json of a run."""
    path = local_path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{path} is missing: no run of ours lies in {str(workdir)!r}{_instead(path)}")
    try:
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise ValueError(f"it holds {type(values).__name__}, no config")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is unreadable: {error}") from None
    if "model" not in values:  # as in a folder from Hugging Face
        raise InputError(f"{path} is no config of a run{_instead(path)}")
    try:
        return config_from_dict(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _instead(path: Path) -> str:
    """Names the runs or weights that lie where a run's config was looked for, to end an error message."""
    if seeds := sorted(path.parent.glob(f"seed*/{CONFIG_FILE}")):
        return f"; it holds a run for each seed: name one, such as {seeds[0].parent}"
    files = sorted(path.parent.glob("*.safetensors"))
    takes = "`init_from`, resnet.make and resnet import take"
    return f"; {takes} the weights beside it by the name of their file, {files[0]}" if files else ""


def differences(a: Config, b: Config) -> list[tuple[str, Any, Any]]:
    """(dotted field, value in a, value in b) of every field in which the two differ."""
    pairs = zip(_fields(a), _fields(b), strict=True)
    return [(name, x, y) for (name, _, x), (_, _, y) in pairs if x != y]


def replaced(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy of `config` with dotted fields set, unchecked; an unknown field is an InputError."""
    config, names = copy.deepcopy(config), field_types()
    for name, value in changes.items():
        name = present_name(name)
        if name not in names:
            raise unknown_field(name)
        *sections, field = name.split(".")
        setattr(functools.reduce(getattr, sections, config), field, value)
    return config


def config_hash(config: Config) -> str:
    """Twelve hex digits of what a config sets apart from the defaults, but for the seed.

    A field that is added later, with a default that changes nothing, changes no hash, nor does a new name.
    """
    first = {now: before for before, now in FORMER.items()}
    changed = differences(Config(seed=config.seed), config)
    kinds = {name: kind for name, kind, _ in _fields(config)}
    fields = [(first.get(name, name), of_kind(new, kinds[name])) for name, _, new in changed]
    return hashlib.sha256(json.dumps(fields, sort_keys=True, allow_nan=False).encode()).hexdigest()[:12]


def field_help(config: Config) -> list[tuple[str, str, str, str]]:
    """(dotted field, type, value in `config`, meaning) of every field."""
    found = meanings(Config)
    return [
        (name, type_name(kind), repr(value), found.get(name, "")) for name, kind, value in _fields(config)
    ]


def meanings(kind: Any, prefix: str = "") -> dict[str, str]:
    """First paragraph of the string that follows each field in the source, on one line."""
    # Imported here, because only --help needs it.
    import docstring_parser

    hints, found = typing.get_type_hints(kind), {}
    for param in docstring_parser.parse_from_object(kind).params:
        text = (param.description or "").split("\n\n")[0]
        found[prefix + param.arg_name] = " ".join(text.split())
    for name, hint in hints.items():
        if dataclasses.is_dataclass(hint):
            found |= meanings(hint, f"{prefix}{name}.")
    return found


def field_values(config: Config) -> dict[str, Any]:
    """Values by dotted field."""
    return {name: value for name, _, value in _fields(config)}


def field_types() -> dict[str, str]:
    """All dotted fields, and their types as they are written in the source."""
    return {name: type_name(kind) for name, kind, _ in _fields(Config())}


def _fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted field, type, value) of a config and the configs in it."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        name, value = prefix + field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            if not isinstance(value, hints[field.name]):
                raise InputError(f"`{name}` must be a {hints[field.name].__name__}; got {value!r}")
            yield from _fields(value, name + ".")
        else:
            yield name, hints[field.name], value


def _finite(value: Any) -> bool:
    """Whether no number in a value is infinite or not a number."""
    if isinstance(value, tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _from_dict(kind: Any, values: dict[str, Any]) -> Any:
    config = kind()
    for name, value in values.items():
        section = getattr(config, name)
        inner = dataclasses.is_dataclass(section) and isinstance(value, dict)
        setattr(config, name, _from_dict(type(section), value) if inner else as_tuples(value))
    return config


def as_tuples(value: Any) -> Any:
    """JSON's lists as tuples, at any depth."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value
