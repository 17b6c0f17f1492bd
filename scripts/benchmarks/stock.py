"""A training step as one writes it with Flax and optax alone."""

import jax
import jax.numpy as jnp
import optax

from scripts.benchmarks.ours import Training
from scripts.peers.flax_nets import SHAPES, StockResNet, init
from scripts.peers.torch_nets import Case
from scripts.peers.torch_steps import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY


def training_step(case: Case) -> Training:
    """Forward, backward and SGD with momentum and decay on one batch."""
    net = StockResNet(SHAPES[case.name], case.num_outputs)
    optimizer = optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.sgd(LEARNING_RATE, MOMENTUM))
    images = jax.random.normal(jax.random.key(0), (case.batch, case.side, case.side, 3))
    batch = images, jnp.arange(case.batch) % case.num_outputs
    variables = init(net, case.side)
    state = variables, optimizer.init(variables["params"])

    @jax.jit
    def train(state, batch):
        (variables, moments), (images, labels) = state, batch

        def loss(params):
            logits, updated = net.apply(
                variables | {"params": params}, images, train=True, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updated["batch_stats"]

        (mean, statistics), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, moments = optimizer.update(grads, moments, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return ({"params": params, "batch_stats": statistics}, moments), mean

    return Training(train.lower(state, batch).compile(), state, batch)
