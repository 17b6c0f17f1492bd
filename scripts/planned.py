"""Sets plans beside measured times, on the device that is here: python scripts/planned.py --nets=resnet20

Each net of scripts/plans.py is compiled for one device of this machine. The least time of a step is read from
its program, as `resnet plan` does for a device that is elsewhere, and then steps are timed. Images are blank,
which decides nothing of the speed. Prints milliseconds, and the measured ones over the least ones; of a
device whose limits are unknown, the measured ones alone. What --output has of this device is not measured
again.
"""

import statistics
import time
from typing import Any

import cli
import plans
from absl import flags, logging

from resnet.errors import check_choice

ROUNDS = 5


def _target() -> Any:
    """The device whose limits count: --chip, or the one that is here; None if its limits are unknown."""
    import jax

    from resnet.planning.targets import CHIPS, Target

    kind = jax.devices()[0].device_kind
    name = cli.FLAGS.chip or next((name for name, chip in CHIPS.items() if kind in chip.kinds), "")
    if name:
        check_choice("--chip", name, CHIPS)
        return Target(name, CHIPS[name], "1")
    logging.warning("the limits of %s are unknown, unless --chip names a like device: only measured", kind)
    return None


def _measured(trainer: Any) -> float:
    """Seconds of a step: the median of rounds."""
    import jax
    import numpy as np

    from resnet.planning.compiling import arguments

    def blank(shape: Any) -> jax.Array:
        return jax.device_put(np.zeros(shape.shape, shape.dtype), shape.sharding)

    state, batch = trainer.start(), jax.tree.map(blank, arguments(trainer)[1])
    program, rounds = trainer.train(), []
    state, _ = jax.block_until_ready(program(state, batch))
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for _ in range(cli.FLAGS.steps):
            state, metrics = program(state, batch)
        jax.block_until_ready((state, metrics))
        rounds.append((time.perf_counter() - begun) / cli.FLAGS.steps)
    return statistics.median(rounds)


def _compared(net: str, target: Any) -> dict[str, Any]:
    """What was measured of a net and, where there is a target, what its program needs at least."""
    from resnet.planning.compiling import imagined
    from resnet.planning.plan import plan_of
    from resnet.runtime.devices import make_mesh
    from resnet.training.trainer import make_trainer

    config, images = plans.config_of(net, devices=1)
    seeds = tuple(range(config.train.seeds))
    trainer = make_trainer(config, imagined(config.data, *images), make_mesh(1), seeds)
    measured = _measured(trainer)
    found = {"measured_ms": 1e3 * measured}
    if target is None:
        return found
    record = plan_of(trainer, target).record()
    least = record["seconds"][record["bound"]]
    found |= {"least_ms": 1e3 * least, "ratio": measured / least}
    return {"chip": target.name, "bound": record["bound"], "kernels": record["kernels"]} | found


def main(overrides: list[str]) -> dict[str, Any]:
    """Times a step of each net, and compares it with the least time that its program allows."""
    cli.refuse_overrides(overrides, "each net has its own config")
    for net in cli.FLAGS.nets:
        plans.config_of(net, devices=1)  # first, as measuring takes minutes
    from resnet.files import check_writable
    from resnet.runs.metrics.records import read_json, write_json
    from resnet.runs.provenance import this_session

    output = cli.FLAGS.output
    check_writable(output)
    target, origin = _target(), this_session(cli.command())
    known = read_json(output, lambda rows: all("origin" in row for row in rows.values())) if output else None
    found = known or {}
    for net in cli.FLAGS.nets:
        if net in found and found[net]["origin"]["devices"] == origin["devices"]:
            continue
        found[net] = _compared(net, target) | {"origin": origin}
        if output:
            write_json(output, found)
    return found


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_list("nets", ["resnet20", "resnet50"], "Nets, as scripts/plans.py names them.")
    flags.DEFINE_integer("steps", 50, "Steps of each of five rounds.", lower_bound=1)
    flags.DEFINE_string("chip", "", "What limits to compare with, such as h100; by default the device's.")
    cli.define_path("output", None, "File for the JSON object; by default it is printed alone.")


if __name__ == "__main__":
    cli.run(main, define)
