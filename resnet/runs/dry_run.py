"""What a training would take, tried out on some images and steps, without a run being written."""

import contextlib
import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import jax
from absl import logging

from resnet.config import Config, check_config
from resnet.data.datasets import load_dataset
from resnet.data.files.delivery import InputTimes
from resnet.processors import processors
from resnet.runtime.devices import make_mesh
from resnet.runtime.processes import index_of_this
from resnet.training.trainer import Trainer, make_trainer

IMAGES = 256  # of a stream, that are decoded at least
SECONDS = 4.0  # for which the steps are timed, about
MOST_STEPS = 50
TRACED = 5  # steps: their trace is small, and one of them that is slow by chance is seen as such
MATTERS = 0.05  # share of the time that an input may cost before there is something to change
FULL = 0.9  # of a device's memory: more than this may not last to the end


@dataclasses.dataclass(frozen=True)
class StepTried:
    """A training step as it was compiled and timed."""

    compile_seconds: float
    seconds: float
    """Of one step."""
    bytes: int
    """On each device: state, batch, resident images, and what the step needs while it runs."""
    program: Any
    state: Any
    """The state after it."""


def try_step(trainer: Trainer, side: int = 0) -> StepTried:
    """Compiles the training step and times it on one batch that is ready.

    `side` is the shorter side of the images that the net sees, see Intervals.side.
    """
    state, batch = trainer.start(), trainer.batch(range(1))
    begun = time.monotonic()
    program = trainer.train(1, side).lower(state, batch).compile()
    compiled = time.monotonic() - begun

    def run(steps: int) -> float:
        nonlocal state
        begun, last = time.monotonic(), None
        for _ in range(steps):
            state, metrics = program(state, batch)
            jax.block_until_ready(last)  # as in training; XLA blocks for ever on many in flight over devices
            last = metrics
        jax.block_until_ready(state)
        return (time.monotonic() - begun) / steps

    run(1)  # the first is slower
    seconds = run(_count(run(1)))
    memory = program.memory_analysis()
    # Donated buffers are counted as arguments and as outputs, and exist once.
    sizes = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return StepTried(compiled, seconds, sizes, program, state)


def dry_run(config: Config, trace: Path | None = None) -> dict[str, Any]:
    """Speeds of input and step, bytes in memory and on devices, hours to the end, and what to change.

    A profiler's trace of some steps is written to the folder `trace`, if one is given.

    The seeds of the config are tried together, as they would be trained. Where several processes train
    together, all of them must call this.
    """
    check_config(config)
    begun = time.monotonic()
    dataset = load_dataset(config.data)
    loaded = time.monotonic() - begun
    seeds = range(config.seed, config.seed + config.train.seeds)
    trainer = make_trainer(config, dataset, make_mesh(seeds=len(seeds)), seeds)
    with contextlib.closing(trainer):
        times, delivered = _try_input(trainer)
        tried = try_step(trainer)
        state, seconds = _try_together(trainer, tried)
        evaluated = _try_evaluation(trainer, state)
        images = config.train.batch_size * len(seeds)
        spent = _seconds_of_all(trainer, seconds, images / delivered if delivered else 0.0)
        if trace:
            _write_trace(trainer, tried.program, state, trace)
    speeds = {"input": delivered, "step": images / tried.seconds, "training": images / seconds}
    speeds |= {"evaluation": evaluated}
    memory = {"images": _bytes_of_images(trainer), "each_device": tried.bytes, "of_each_device": _capacity()}
    steps, looks = trainer.intervals.total, math.ceil(trainer.intervals.total / trainer.intervals.evaluate)
    examined = looks * len(dataset.validation) + len(dataset.test or dataset.validation)
    found = {
        "storage": "stream" if trainer.stream else "memory",
        "load_seconds": round(loaded, 1),
        "compile_seconds": round(tried.compile_seconds, 1),
        "images_per_second": {name: round(speed, 1) for name, speed in speeds.items() if speed},
        "bytes": {name: size for name, size in memory.items() if size},
        "steps": steps,
        "hours": round((spent + examined / max(evaluated, 1e-9) * bool(examined)) / 3600, 3),
        "advice": _advice(times, trainer.stream.share if trainer.stream else 1.0, speeds, memory),
    }
    if not index_of_this():
        _say(found)
    return found


def _count(seconds: float) -> int:
    """How many steps of so many seconds are timed."""
    return max(1, min(MOST_STEPS, round(SECONDS / max(seconds, 1e-6))))


def _try_input(trainer: Trainer) -> tuple[InputTimes | None, float]:
    """(where the time of the threads went, images per second that all processes decode); of a stream."""
    stream = trainer.stream
    if stream is None:
        return None, 0.0
    begun, step = time.monotonic(), 0
    while stream.times.images < IMAGES and step < trainer.intervals.total:
        stream.take(range(step, step + 1))
        step += 1
    times, seconds = stream.times, time.monotonic() - begun
    stream.close()
    return times, times.images / seconds * stream.batch / max(len(trainer.pace.needed(stream.batch)), 1)


def _try_together(trainer: Trainer, tried: StepTried) -> tuple[Any, float]:
    """(state, seconds of a step) while a stream decodes the next batches, perhaps on the same processors."""
    state = tried.state
    if trainer.stream is None:
        return state, tried.seconds
    # What is made ahead before the first step would flatter the others.
    warm, steps, begun, last = trainer.pace.ahead + 1, _count(tried.seconds), 0.0, None
    for i in range(warm + steps):
        if i == warm:
            jax.block_until_ready(state)
            begun = time.monotonic()
        state, metrics = tried.program(state, _batch(trainer, i))
        jax.block_until_ready(last)  # as in training, the next step is on its way
        last = metrics
    jax.block_until_ready(state)
    return state, (time.monotonic() - begun) / steps


def _batch(trainer: Trainer, step: int) -> Any:
    """The batch of a step; those of the training are taken again if it is shorter."""
    first = step % max(trainer.intervals.total, 1)
    return trainer.batch(range(first, first + 1))


def _seconds_of_all(trainer: Trainer, seconds: float, delivery: float) -> float:
    """Of all steps, of which those on images of the data's size take `seconds`, and a batch's `delivery`."""
    by_side = trainer.intervals.steps_by_side()
    whole = by_side.pop(0, 0) * seconds
    return whole + sum(n * max(try_step(trainer, side).seconds, delivery) for side, n in by_side.items())


def _try_evaluation(trainer: Trainer, state: Any) -> float:
    """Images per second of an evaluation; 0 where no split has images for it."""
    dataset = trainer.dataset
    split = dataset.validation if len(dataset.validation) else dataset.test
    part = split[: max(IMAGES, trainer.config.train.batch_size)]
    if not len(part):
        return 0.0
    for _ in range(2):  # the first compiles
        begun = time.monotonic()
        trainer.evaluate(state.variables, part, lambda: False)
    return len(part) / (time.monotonic() - begun)


def _write_trace(trainer: Trainer, program: Any, state: Any, folder: Path) -> None:
    """Profiles some steps and the delivery of their batches."""
    with jax.profiler.trace(folder, create_perfetto_trace=True):
        for step in range(TRACED):
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                state, _ = program(state, _batch(trainer, step))
        jax.block_until_ready(state)
    file = max(folder.glob("plugins/profile/*/perfetto_trace.json.gz"), key=lambda path: path.stat().st_mtime)
    logging.info("open the trace of %d steps in https://ui.perfetto.dev: %s", TRACED, file)


def _bytes_of_images(trainer: Trainer) -> int:
    """Bytes of images in this process's memory."""
    if trainer.stream:
        batches, size = trainer.stream.held(trainer.config.train.steps_per_call)
        return batches * size
    dataset = trainer.dataset
    return sum(split.images.nbytes for split in (dataset.train, dataset.validation, dataset.test))


def _capacity() -> int:
    """Bytes that a device has for programs; 0 where it does not tell, as a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0)


def _advice(
    times: InputTimes | None, share: float, speeds: dict[str, float], memory: dict[str, int]
) -> list[str]:
    """What to change in the config, the images or the machine. This process decodes a `share` of a batch."""
    found, wait = [], 1 - speeds["training"] / speeds["step"]
    if times and wait > MATTERS and speeds["input"] < speeds["step"]:
        found.append(times.advice(wait, share * speeds["training"], processors()))
    elif times and wait > MATTERS:
        found.append(
            f"decoding takes the processors from the steps, which do {speeds['training']:,.0f} images/s "
            f"with it and {speeds['step']:,.0f} without: make the images smaller once for all "
            "(resnet prepare images)"
        )
    if memory["of_each_device"] and memory["each_device"] > FULL * memory["of_each_device"]:
        found.append(
            f"the step takes {memory['each_device'] / 1e9:.1f} of the {memory['of_each_device'] / 1e9:.1f} "
            "GB of a device: set `train.accumulate`, or `train.batch_size` lower, or `model.remat`"
        )
    return found or ["nothing: the devices need not wait, and the memory suffices"]


def _say(found: dict[str, Any]) -> None:
    """The same in the log, in words."""
    speeds = ", ".join(f"{name} {speed:,.0f}" for name, speed in found["images_per_second"].items())
    sizes = ", ".join(f"{name.replace('_', ' ')} {size / 1e9:.2f}" for name, size in found["bytes"].items())
    logging.info("images from %s, read in %s s", found["storage"], found["load_seconds"])
    logging.info("the step compiles in %s s; images/s: %s", found["compile_seconds"], speeds)
    logging.info("GB: %s", sizes)
    logging.info("%s steps take %s hours with their evaluations", f"{found['steps']:,}", found["hours"])
    for each in found["advice"]:
        logging.info("to change: %s", each)
