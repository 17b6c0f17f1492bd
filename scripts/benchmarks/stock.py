"""A training step as one writes it with Flax and optax alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from scripts.peers.flax_nets import SHAPES, StockResNet, init
from scripts.peers.torch_nets import Case
from scripts.peers.torch_steps import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY


def training_step(case: Case) -> Callable[[], None]:
    """Forward, backward and SGD with momentum and decay on one batch."""
    net = StockResNet(SHAPES[case.name], case.num_outputs)
    optimizer = optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.sgd(LEARNING_RATE, MOMENTUM))
    images = jax.random.normal(jax.random.key(0), (case.batch, case.side, case.side, 3))
    labels = jnp.arange(case.batch) % case.num_outputs
    variables = init(net, case.side)
    state = variables, optimizer.init(variables["params"])

    @jax.jit
    def train(state, images, labels):
        variables, moments = state

        def loss(params):
            logits, updated = net.apply(
                variables | {"params": params}, images, train=True, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updated["batch_stats"]

        grads, statistics = jax.grad(loss, has_aux=True)(variables["params"])
        updates, moments = optimizer.update(grads, moments, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, "batch_stats": statistics}, moments

    def step() -> None:
        nonlocal state
        state = jax.block_until_ready(train(state, images, labels))

    return step
