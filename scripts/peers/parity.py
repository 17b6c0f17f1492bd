"""The same weights here and in PyTorch: how far logits, statistics, gradients and losses differ."""

import copy
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int, UInt8

from resnet.config import Config
from resnet.data.config import DataConfig
from resnet.data.splits import Examples
from resnet.interop.convert import state_of
from resnet.models.config import ModelConfig
from resnet.models.resnet import make_model
from resnet.run import Run
from resnet.runs.checkpoints.restore import variable_shapes
from resnet.runs.task import Task
from resnet.training.optimizers import OptimizerConfig
from resnet.training.step import make_step
from resnet.weights.files import StateDict, read_weights
from resnet.weights.state_dict import from_state_dict, tensors_of
from scripts.peers.nets import RESNET20, Peer, need

# What the comparison must keep to.
LOGITS, GRADIENTS, LOSSES = 1e-4, 1e-3, 1e-3
EVALUATED = 500  # images at once
# Each program runs once; optimising it takes longer than running it as it is.
COMPILE_QUICKLY = {"xla_backend_optimization_level": 0}
LEARNING_RATE = 0.01  # at 0.1, rounding grows more than tenfold in ten steps


@dataclasses.dataclass(frozen=True)
class Differences:
    """Between our net and a peer with the same weights and images."""

    parameters: int
    logits: float
    """Largest absolute difference in evaluation."""
    train_logits: float
    """The same in training, where norms use the statistics of the batch."""
    statistics: float
    """Largest difference of running means and variances after a step, over 1 + their size."""
    gradients: float
    """Largest over the parameters of |ours - theirs| / |theirs|, Euclidean norms, with SiLU for ReLU.

    A ReLU whose input is within rounding of 0 falls to either side, which changes gradients by far
    more than rounding does. A smooth function shows whether the two nets are the same one.
    """
    relu_gradients: float
    """|ours - theirs| / |theirs| over all parameters together, with ReLU."""
    their_rounding: float
    """The same between theirs in float32 and in float64."""
    their_logits_rounding: float
    """Largest absolute difference of a logit, in evaluation, between theirs in float32 and in float64."""

    @property
    def within(self) -> bool:
        """Whether all differences are within their bounds."""
        return max(self.logits, self.train_logits, self.statistics) <= LOGITS and self.gradients <= GRADIENTS


def compare(peer: Peer, images: Float[np.ndarray, "b h w c"], labels: Int[np.ndarray, " b"]) -> Differences:
    """Builds both nets with random weights, and puts the same batch through them."""
    config = dataclasses.replace(peer.config, bn_unbiased=True)
    theirs = _randomized(peer.build(int(labels.max()) + 1), images)
    smooth, exact = _smooth(copy.deepcopy(theirs)), copy.deepcopy(theirs).double()
    relu = _outcomes(config, theirs, peer.naming, images, labels)
    silu_config = dataclasses.replace(config, activation="silu")
    silu = _outcomes(silu_config, _randomized(smooth, images), peer.naming, images, labels)
    exact_logits = _their_evaluation(exact, images)
    exact_gradients = _their_step(exact, images, labels)[1]
    pairs = [(relu.their_gradients[name], exact_gradients[name]) for name in exact_gradients]
    return Differences(
        parameters=sum(gradient.size for _, gradient in pairs),
        logits=_largest(relu.logits, relu.their_logits),
        train_logits=_largest(relu.train_logits, relu.their_train_logits),
        statistics=max((float(np.max(abs(a - b) / (1 + abs(b)))) for a, b in relu.statistics), default=0.0),
        gradients=max(_relative([pair]) for pair in silu.gradients),
        relu_gradients=_relative(relu.gradients),
        their_rounding=_relative(pairs),
        their_logits_rounding=_largest(relu.their_logits, exact_logits),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Outcomes:
    """Results of both nets on one batch; pairs are (ours, theirs), tensor by tensor."""

    logits: np.ndarray
    their_logits: np.ndarray
    train_logits: np.ndarray
    their_train_logits: np.ndarray
    statistics: list[tuple[np.ndarray, np.ndarray]]
    gradients: list[tuple[np.ndarray, np.ndarray]]
    their_gradients: StateDict


def _outcomes(
    config: ModelConfig, theirs: Any, naming: str, images: np.ndarray, labels: np.ndarray
) -> Outcomes:
    num_outputs = int(labels.max()) + 1
    variables = _imported(config, theirs, naming, images.shape[1:], num_outputs)
    model = make_model(config, num_outputs)

    def both_modes(variables, images):
        def loss(params):
            given = variables | {"params": params}
            (logits, _), mutated = model.apply(given, images, train=True, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), (logits, mutated.get("batch_stats", {}))

        return model.apply(variables, images, train=False)[0], *jax.grad(loss, has_aux=True)(
            variables["params"]
        )

    compiled = jax.jit(both_modes, compiler_options=COMPILE_QUICKLY)
    logits, gradients, (train_logits, statistics) = jax.device_get(compiled(variables, images))
    their_logits = _their_evaluation(theirs, images)
    their_train_logits, their_gradients = _their_step(theirs, images, labels)
    after = from_state_dict(_numpy(theirs.state_dict()), config, variables, naming)[0]["batch_stats"]
    tensors = tensors_of(config, {"params": gradients}, naming)
    return Outcomes(
        logits=logits,
        their_logits=their_logits,
        train_logits=train_logits,
        their_train_logits=their_train_logits,
        statistics=list(zip(jax.tree.leaves(statistics), jax.tree.leaves(after), strict=True)),
        gradients=[
            (ours, tensor.layout.ours(their_gradients[tensor.name]))
            for tensor, ours in zip(tensors, jax.tree.leaves(gradients), strict=True)
        ],
        their_gradients=their_gradients,
    )


def compare_training(peer: Peer, images: UInt8[np.ndarray, "steps b h w c"], labels: Any) -> tuple[Any, Any]:
    """(our losses, theirs) of SGD steps with momentum and decay from the same weights, one a batch.

    Ours go through the train step of this code base, on raw images, 0..255.
    """
    need("torch")
    import torch

    num_outputs = int(labels.max()) + 1
    config = Config(
        data=DataConfig(normalization="none"),
        model=dataclasses.replace(peer.config, bn_unbiased=True),
        optimizer=OptimizerConfig(momentum=0.9, weight_decay=1e-4),
    )
    names = tuple(map(str, range(num_outputs)))
    zero, full = np.zeros(3, np.float32), np.full(3, 255, np.float32)
    task = Task("classification", tuple(images.shape[2:]), names, zero, full)
    theirs = _randomized(peer.build(num_outputs), images[0] / 255)
    variables = _imported(config.model, theirs, peer.naming, images.shape[2:], num_outputs)

    def schedule(step):
        return jnp.float32(LEARNING_RATE)

    step = jax.jit(make_step(config, task, schedule).train)
    state, losses = state_of(variables, config, task), []
    for image, label in zip(images, labels, strict=True):
        batch = {"image": jnp.asarray(image, jnp.uint8), "label": jnp.asarray(label)}
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))

    sgd = torch.optim.SGD(theirs.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4)
    their_losses = []
    theirs.train()
    for image, label in zip(images, labels, strict=True):
        sgd.zero_grad()
        logits = _logits(theirs, image.astype(np.float32) / 255)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(label).long())
        loss.backward()
        sgd.step()
        their_losses.append(loss.item())
    return np.array(losses), np.array(their_losses)


def _randomized(module: Any, images: np.ndarray) -> Any:
    """The module with every norm's scale and bias random and running statistics of the images.

    Some code bases start the last scale of a branch at 0, which would hide the branch.
    """
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(1)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
    with torch.no_grad():
        for norm in norms:
            # So small that a branch changes its sum a little, as in trained nets; else rounding grows
            # from block to block.
            norm.weight.uniform_(0.1, 0.3, generator=generator)
            norm.bias.uniform_(-0.2, 0.2, generator=generator)
        momenta = {norm: norm.momentum for norm in norms if isinstance(norm, nn.BatchNorm2d)}
        for norm in momenta:
            norm.momentum = 1.0
        _logits(module.train(), images)
        for norm, momentum in momenta.items():
            norm.momentum = momentum
    return module


def _imported(
    config: ModelConfig, theirs: Any, naming: str, image_shape: tuple[int, ...], num_outputs: int
) -> dict[str, Any]:
    names = tuple(map(str, range(num_outputs)))
    nothing = np.zeros(image_shape[-1], np.float32)
    task = Task("classification", tuple(image_shape), names, nothing, nothing)
    state = _numpy(theirs.state_dict())
    # Copied, because PyTorch goes on to write into the memory behind its arrays.
    state = {name: tensor.copy() for name, tensor in state.items()}
    return from_state_dict(state, config, variable_shapes(Config(model=config), task), naming)[0]


def _numpy(tensors: Any) -> StateDict:
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def _logits(module: Any, images: np.ndarray) -> Any:
    import torch

    dtype = next(module.parameters()).dtype
    output = module(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(dtype))
    return getattr(output, "logits", output)


def _their_evaluation(module: Any, images: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return _logits(module.eval(), images).numpy()


def _their_step(module: Any, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, StateDict]:
    """(logits in training, gradients by name); the module's running statistics move on."""
    import torch

    module.train().zero_grad()
    logits = _logits(module, images)
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels).long()).backward()
    return logits.detach().numpy(), {name: p.grad.numpy() for name, p in module.named_parameters()}


def _smooth(module: Any) -> Any:
    """The module with every ReLU a SiLU, but for those of squeeze-and-excitation, fixed here too."""
    from torch import nn

    for name, inner in module.named_modules():
        for key, child in inner.named_children():
            if isinstance(child, nn.ReLU) and not name.endswith(".se"):
                setattr(inner, key, nn.SiLU())
    return module


def _relative(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """|a - b| / |b| of the tensors together."""
    difference = sum(float(np.sum(np.square(a - b, dtype=np.float64))) for a, b in pairs)
    return (difference / sum(float(np.sum(np.square(b, dtype=np.float64))) for _, b in pairs)) ** 0.5


def _largest(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.abs(a - b)))


def compare_evaluation(run: Run, source: str, split: Examples) -> dict[str, float]:
    """A run with the weights of akamaster's ResNet-20 in `source`, against PyTorch with them, on a split."""
    need("torch")
    import torch

    module = RESNET20.build(run.task.num_outputs)
    state = {name: torch.from_numpy(tensor) for name, tensor in read_weights(source).items()}
    module.load_state_dict(state)
    ours, theirs = [], []
    for start in range(0, len(split), EVALUATED):
        images = split.images[start : start + EVALUATED]
        ours.append(run.logits(images))
        theirs.append(_their_evaluation(module, (images - run.task.mean) / run.task.std))
    logits = torch.from_numpy(np.concatenate(theirs))
    labels = torch.from_numpy(split.labels).long()
    return {
        "logits": _largest(np.concatenate(ours), logits.numpy()),
        "their_top1": float((logits.argmax(1) == labels).float().mean()),
        "their_loss": float(torch.nn.functional.cross_entropy(logits, labels)),
    }
