"""How much of what the machine can multiply and copy a training step uses."""

import statistics
from typing import Any

import jax
import jax.numpy as jnp

from resnet.models.counts import count_parts, totals
from resnet.planning.figures import costs
from resnet.planning.program import read_program
from scripts.benchmarks import ours
from scripts.benchmarks.timing import compared, interleave
from scripts.peers.torch_nets import Case

# Backward takes two products for each of forward's.
PRODUCTS = 3


def limits(case: Case, effort: Any) -> dict[str, Any]:
    """Multiply-accumulates a second of a matrix product and of a training step; and copying, in GB/s.

    Those of a step are three times those of its forward pass, convolutions and linear layers only. Beside
    them the share of the step that it would take to copy the arrays which it reads and writes.
    """
    step = ours.training_step(case, dtype=effort.dtype)
    moved = sum(cost.bytes for cost in costs(read_program(step.compiled.as_text())))
    large = jax.default_backend() != "cpu"
    side, copied = (8192, 2**28) if large else (2048, 2**25)
    if case.batch < 8:  # --quick
        side, copied = 64, 2**10
    matrix = jnp.ones((side, side), effort.dtype)
    vector = jnp.ones((copied,), jnp.float32)
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    steps = {
        "matrix product": lambda: jax.block_until_ready(product(matrix, matrix)),
        "copy": lambda: jax.block_until_ready(copy(vector)),
        "training step": step,
    }
    times = interleave(steps, effort.rounds, effort.seconds)
    shape = (case.side, case.side, 3)
    macs = PRODUCTS * case.batch * totals(count_parts(case.peer.config, case.num_outputs, shape))[1]
    rates = {
        "matrix product": [side**3 / t / 1e9 for t in times["matrix product"]],
        "training step": [macs / t / 1e9 for t in times["training step"]],
    }
    result = compared(rates, "matrix product", "GMAC/s")
    seconds = statistics.median(times["training step"])
    copied_per_second = 2 * vector.nbytes / statistics.median(times["copy"])
    return result | {
        "copy_gb_per_second": copied_per_second / 1e9,
        "moved_gb": moved / 1e9,
        "moved_share": moved / copied_per_second / seconds,
        "images_per_second": case.batch / seconds,
    }
