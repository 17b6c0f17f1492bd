"""What a run is made of: config, data, model and schedule, bound into compiled steps."""

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial

from jax.sharding import Mesh

from resnet.config import Config
from resnet.data.batches import steps_per_epoch
from resnet.data.datasets import Dataset
from resnet.errors import InputError
from resnet.models.resnet import make_model
from resnet.runs.task import Task, task_of
from resnet.runtime.machine import check_prepared
from resnet.training.finetune import Tensors, begin, load_initial
from resnet.training.losses import check_output
from resnet.training.optimizers import make_optimizer
from resnet.training.parallel import axis_name, make_eval_step, make_train_steps, stack
from resnet.training.schedules import make_schedule, parse_duration
from resnet.training.steps import TrainState, init_state


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What stays the same during a run: the compiled steps, and how many of them when."""

    config: Config
    dataset: Dataset
    task: Task
    mesh: Mesh
    init: Callable[[int], TrainState]
    train_steps: Callable
    eval_step: Callable
    total_steps: int
    steps_per_epoch: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    telemetry_every: int
    """0: never."""

    @cached_property
    def initial(self) -> Tensors:
        """What the first states take from `init_from`; a source that does not fit is an InputError."""
        return load_initial(self.config, self.task)

    def start(self, *seeds: int) -> TrainState:
        """The states of these seeds before the first step, as one with a leading axis."""
        return stack([begin(self.init(seed), self.initial) for seed in seeds], self.mesh, self.config.model)


def make_plan(config: Config, dataset: Dataset, mesh: Mesh) -> Plan:
    """Builds model, schedule and optimiser for a data set, and binds the steps to them."""
    check_prepared(config)
    task = task_of(dataset)
    check_output(config.model.output, task.kind)
    per_epoch = steps_per_epoch(len(dataset.train.images), config.train.batch_size)
    counts = {"batch_size": config.train.batch_size, "steps_per_epoch": per_epoch}
    total = parse_duration("train.duration", config.train.duration).steps(**counts)
    if not 0 <= total < 2**31:
        raise InputError(f"`train.duration` must be below 2**31 steps; got {config.train.duration!r}")
    counts["total_steps"] = total

    def every(field: str, text: str) -> int:
        return max(parse_duration(field, text).steps(**counts), 1)

    schedule = make_schedule(config.schedule, **counts)
    optimizer = make_optimizer(config.optimizer, schedule, config.freeze)
    model = make_model(config.model, task.num_outputs, axis_name=axis_name(mesh))
    bound = {"model": model, "task": task, "config": config}
    # Without the axis: initial values and evaluation need no statistics of a batch.
    alone = make_model(config.model, task.num_outputs)
    return Plan(
        config=config,
        dataset=dataset,
        task=task,
        mesh=mesh,
        init=partial(
            init_state,
            model=alone,
            optimizer=optimizer,
            image_shape=task.image_shape,
            config=config,
        ),
        train_steps=make_train_steps(mesh, optimizer=optimizer, schedule=schedule, **bound),
        eval_step=make_eval_step(mesh, **(bound | {"model": alone})),
        total_steps=total,
        steps_per_epoch=per_epoch,
        log_every=every("train.log_every", config.train.log_every),
        evaluate_every=every("train.evaluate_every", config.train.evaluate_every),
        checkpoint_every=every("checkpoint.every", config.checkpoint.every),
        telemetry_every=parse_duration("train.telemetry_every", config.train.telemetry_every).steps(**counts),
    )
