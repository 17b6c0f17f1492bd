"""Several processes of one run compare before the first step what must be the same in all of them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax

from resnet.config import Config, field_values
from resnet.data.splits import Dataset
from resnet.runs.changes import OF_THE_MACHINE
from resnet.runs.task import task_of
from resnet.runtime.processes import agree


def agree_on_config(config: Config, workdirs: Mapping[int, Path]) -> None:
    """Raises InputError in all processes if one has another config, workdir, or number of devices."""
    agree(
        lambda: (
            {
                name: value
                for name, value in field_values(config).items()
                if not name.startswith(OF_THE_MACHINE)
            }
            | {"workdir": {str(seed): str(workdir) for seed, workdir in workdirs.items()}}
            | {"parallel.host_devices": jax.local_device_count()}
            | {"parallel.shard_parameters": config.parallel.shard_parameters}
        )
    )


def agree_on_data(dataset: Dataset) -> None:
    """Raises InputError in all processes if one has read other classes, statistics or labels."""
    agree(
        lambda: (
            {f"data ({name})": value for name, value in dataclasses.asdict(task_of(dataset)).items()}
            | {f"labels of {name}": getattr(dataset, name).labels for name in ("train", "validation", "test")}
        )
    )
