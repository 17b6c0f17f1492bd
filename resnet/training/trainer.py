"""A config and a data set bound into compiled programs, for one run or for several seeds as one program."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from resnet.config import Config
from resnet.data.batches import Delivered, FlatImages, Resident
from resnet.data.files.delivery import Pace
from resnet.data.files.stream import StreamSplit, TrainingStream
from resnet.data.images import shrunk_shape
from resnet.data.order import batch_indices, steps_per_epoch
from resnet.data.splits import Dataset, Examples
from resnet.errors import InputError, check_within
from resnet.models.scanning import compiles_quickly
from resnet.paths import check_matches, leaf_paths
from resnet.runs.task import Task, task_of
from resnet.runtime.devices import (
    DATA,
    SEEDS,
    compiled,
    data_axis,
    each_seed,
    own_rows,
    place,
    replicate,
)
from resnet.runtime.machine import check_prepared
from resnet.runtime.processes import several
from resnet.runtime.sharding import StateLayout, divided_from, gathered
from resnet.training.evaluation import evaluate, images_at_once, make_evaluate
from resnet.training.finetune import Tensors, begin, load_initial, whitened_start
from resnet.training.losses import check_output, check_threshold
from resnet.training.optimizers import check_paths
from resnet.training.schedules import Intervals, make_intervals, make_schedule
from resnet.training.step import Step, TrainState, each_seed_of_batch, each_step, make_step


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """What stays the same during a training: data, step and intervals; and the programs made of them.

    States and metrics of one run are as the step has them. Those of several seeds have a leading axis, and
    only `batches`, `to_devices`, `to_host` and the programs know of it.
    """

    config: Config
    dataset: Dataset
    task: Task
    mesh: Mesh
    step: Step
    intervals: Intervals
    seeds: tuple[int, ...]

    @cached_property
    def layout(self) -> StateLayout:
        """How states lie on the devices."""
        least = divided_from(self.config.parallel, self.mesh)
        return StateLayout(self.config.model, self.mesh, len(self.seeds), least, self.step.shapes())

    @property
    def shapes(self) -> TrainState:
        """Shapes of one run's state, its blocks apart: as it lies on disk, and is restored."""
        return self.layout.apart

    @cached_property
    def initial(self) -> Tensors:
        """What the first states take from `init_from` or from images; what does not fit is an InputError."""
        whitened = whitened_start(self.config, self.task, self.dataset.train)
        return load_initial(self.config, self.task) | whitened

    def first_states(self) -> list[TrainState]:
        """Each seed's state before the first step, its blocks apart."""
        return [begin(self.step.init(seed), self.initial) for seed in self.seeds]

    def start(self) -> TrainState:
        """The state before the first step, on the devices."""
        return self.to_devices(self.first_states())

    def _spec_of_places(self, steps: int) -> PartitionSpec:
        """How the places of a batch lie over the mesh."""
        return PartitionSpec(*self.layout.spec, *([None] if steps > 1 else []), DATA)

    def to_devices(self, states: Sequence[Any]) -> Any:
        """A state of each seed, as programs take them."""
        return self.layout.to_devices(states)

    def to_host(self, tree: Any) -> list[Any]:
        """On the host, each seed's part of a state, of a part of it or of metrics, with its blocks apart."""
        return self.layout.to_host(tree)

    @cached_property
    def pace(self) -> Pace:
        """How a stream is delivered to this process."""
        return self.config.parallel.pace(own_rows(self.mesh, self.config.train.batch_size))

    @cached_property
    def stream(self) -> TrainingStream | None:
        """What delivers the training images where they are not resident."""
        split, batch = self.dataset.train, self.config.train.batch_size
        if not isinstance(split, StreamSplit):
            return None
        repeats = self.config.data.repeats
        return TrainingStream(split, self.seeds, batch, self.intervals.total, self.pace, repeats)

    def close(self) -> None:
        """Ends the threads of the stream, which begins again with the next batch."""
        if self.stream:
            self.stream.close()

    @cached_property
    def resident(self) -> dict[str, Any]:
        """The training images and labels, resident on every device."""
        train = self.dataset.train
        return replicate({"image": FlatImages.of(train.images), "label": train.labels}, self.mesh)

    def batches(self, first: int) -> Iterator[tuple[range, Resident | Delivered]]:
        """(steps, batch) from `first` finished steps to the next pause.

        The batch of one step, or those of `train.steps_per_call` along an axis; the steps that fill no call
        come one by one.
        """
        last = self.intervals.next_pause(first)
        while first < last:
            k = self.config.train.steps_per_call
            steps = range(first, first + k) if first + k <= last else range(first, first + 1)
            yield steps, self.batch(steps)
            first = steps.stop

    def batch(self, steps: range) -> Resident | Delivered:
        """The batch of one step, or of several along an axis; of each seed: delivered, or to be gathered."""
        if self.stream:
            found = {name: self._squeezed(array) for name, array in self.stream.take(steps).items()}
            return Delivered(place(found, self.mesh, self._spec_of_places(len(steps))))
        places = np.stack([[self.examples(seed, step) for step in steps] for seed in self.seeds])
        places = self._squeezed(places)
        if several() or self.layout.least:
            places = place(places, self.mesh, self._spec_of_places(len(steps)))
        return Resident(self.resident, places)

    def _squeezed(self, array: np.ndarray) -> np.ndarray:
        """Drops the axis of steps, and of seeds, if its length is 1."""
        array = array if array.shape[1] > 1 else array[:, 0]
        return array if len(self.seeds) > 1 else array[0]

    def first_images(self, seed: int, step: int, count: int) -> dict[str, np.ndarray]:
        """The first images of a step's batch, with labels and places, on the host."""
        if self.stream:
            return self.stream.now(seed, step, count)
        places = self.examples(seed, step)[:count]
        part = self.dataset.train[places]
        return {"image": part.images, "label": part.labels, "place": places}

    def examples(self, seed: int, step: int) -> np.ndarray:
        """The places in the training split of the batch of a step, from 0."""
        batch, repeats = self.config.train.batch_size, self.config.data.repeats
        return batch_indices(seed, step, len(self.dataset.train), batch, repeats)

    def train(self, steps: int = 1, side: int = 0) -> Any:
        """The compiled program (state, batch) -> (state, metrics) of so many steps; the state is donated.

        `side` is the shorter side of the images that it sees, see Intervals.side.
        """
        if (steps, side) not in self._programs:
            self._programs[steps, side] = self._program(steps, side)
        return self._programs[steps, side]

    @cached_property
    def _programs(self) -> dict[tuple[int, int], Any]:
        """Those of `train`, by its arguments; they go with the trainer, as its images do."""
        return {}

    def _program(self, steps: int, side: int) -> Any:
        specs = self.layout.specs, self.spec_of_batch(steps)
        return compiled(
            self.function(steps, side),
            self.mesh,
            specs,
            (specs[0], self.layout.spec),
            quickly=compiles_quickly(self.config.model),
            donate=(0,),
            as_one=bool(self.layout.least),
        )

    def function(self, steps: int = 1, side: int = 0) -> Callable:
        """What `train` compiles; to be exported, too."""
        function = (dataclasses.replace(self.step, side=side) if side else self.step).train
        if steps > 1:
            function = partial(each_step, function)
        if len(self.seeds) == 1:
            return function
        together = partial(jax.vmap, spmd_axis_name=SEEDS)
        mapped = together if self.layout.least else partial(each_seed, mesh=self.mesh)
        return partial(each_seed_of_batch, function, mapped)

    def spec_of_batch(self, steps: int = 1) -> Resident | Delivered:
        """How the batch that `train` takes lies over the mesh."""
        spec = self._spec_of_places(steps)
        return Delivered(spec) if self.stream else Resident(PartitionSpec(), spec)

    @cached_property
    def eval_program(self) -> Callable:
        """Compiled (variables, batch) -> sums of eval_step, for each seed."""
        seeds, flip = len(self.seeds), self.config.data.eval_flip
        return make_evaluate(self.mesh, model=self.step.model, task=self.task, seeds=seeds, flip=flip)

    def evaluate(self, variables: Any, split: Examples, halt: Callable[[], bool]) -> list[dict[str, Any]]:
        """Each seed's metrics over a split, see evaluation.evaluate."""
        batch = images_at_once(self.config.train, self.mesh.shape[DATA])
        pace = self.config.parallel.pace(own_rows(self.mesh, batch))
        program = self.eval_program
        found = evaluate(variables, split, program=program, batch_size=batch, pace=pace, halt=halt)
        return self.to_host(found) if found else []


def make_trainer(config: Config, dataset: Dataset, mesh: Mesh, seeds: Sequence[int] = ()) -> Trainer:
    """Builds model, schedule and optimiser for a data set; InputError for what does not fit.

    `seeds` are trained as one program; by default the config's alone.
    """
    check_prepared(config)
    config.check_shares(mesh.shape[DATA])
    task = task_of(dataset)
    check_output(config.model.output, task.kind)
    check_threshold(config.train.target_threshold, config.train.label_smoothing, task.num_outputs)
    per_epoch = steps_per_epoch(len(dataset.train), config.train.batch_size)
    intervals = make_intervals(config.train, config.checkpoint.every, per_epoch)
    _check_sizes(config, dataset, intervals)
    if config.train.ema and config.train.ema_every > intervals.total > 0:
        raise InputError(
            f"`train.ema_every` must be at most the {intervals.total} steps of the run, or the average stays "
            f"what it was at the start; got {config.train.ema_every}"
        )
    schedule = make_schedule(
        config.schedule,
        batch_size=config.train.batch_size,
        steps_per_epoch=per_epoch,
        total_steps=intervals.total,
    )
    step = make_step(config, task, schedule, data_axis(mesh))
    if config.data.alternate_flip:
        step = dataclasses.replace(step, mirrored_every=per_epoch)
    if least := divided_from(config.parallel, mesh):
        step = dataclasses.replace(step, axis=None, whole=partial(gathered, mesh=mesh, least=least))
    trainer = Trainer(config, dataset, task, mesh, step, intervals, tuple(seeds) or (config.seed,))
    check_paths(config.optimizer, trainer.shapes.params)
    check_matches("freeze", config.freeze, leaf_paths(trainer.shapes.params))
    norms = {path.rpartition("/")[0] + "/" for path in leaf_paths(trainer.shapes.batch_stats)}
    check_matches("model.bn_fixed", config.model.bn_fixed, sorted(norms))
    return trainer


def _check_sizes(config: Config, dataset: Dataset, intervals: Intervals) -> None:
    """InputError unless images can be augmented, and be smaller as `train.smaller_until` says."""
    ends, given = [end for end, _ in intervals.sizes], config.train.smaller_until
    if ends != sorted({*ends}) or 0 in ends:
        raise InputError(f"`train.smaller_until` must have durations above 0 that grow; got {given!r}")
    for _, side in intervals.sizes:
        most = min(dataset.image_shape[:2]) - 1
        check_within("train.smaller_until", side, 1, most)
    for side in (min(dataset.image_shape[:2]), *(side for _, side in intervals.sizes)):
        for field, operation in config.data.operations():
            operation.check(field, shrunk_shape(dataset.image_shape, side))
    if intervals.sizes and dataset.mean.ndim > 1:
        raise InputError("`train.smaller_until` needs `data.normalization` channel or none; got pixel_mean")
