"""The tests of the claims: what each sentence of the idea says, and what is found."""

import functools
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet.analysis import pictures, theory
from resnet.analysis.claims import Bench, Claim
from resnet.analysis.subject import of_config
from resnet.config import replaced
from resnet.data.datasets import shapes_of
from resnet.models.counts import count_parts
from resnet.models.layers import ACTIVATIONS
from resnet.models.shortcuts import TRANSITIONS
from resnet.training.loop import train
from resnet.training.losses import example_losses

SETUPS = {setup.name: setup for setup in theory.SETUPS}


def identity_returns_its_input(bench: Bench) -> Sequence[Claim]:
    """54 blocks whose branches give 0: input and output, gradient at the top and at the bottom."""
    changes = {"model.shortcut": "rezero", "model.blocks": (54,)}
    rows = []
    for name, more in (
        ("identity", {}),
        ("0.5 x", {"model.shortcut": "constant_scaling", "model.branch_scale": 0.0}),
        ("identity, sigmoid after the sum", {"model.after_sum": "sigmoid"}),
    ):
        subject = of_config(name, replaced(bench.chain, changes | more), images=bench.images)
        stem, first, *blocks, _ = subject.parts()
        x = first(stem(subject.images))
        y = functools.reduce(lambda x, block: block(x), blocks, x)
        g = jax.random.normal(jax.random.key(0), x.shape)
        below = g
        for block in reversed(blocks):
            below = block.pull(x, below)
        rows.append(
            {"shortcut": name, "blocks": len(blocks), "numbers": x.size,
             "changed on the way up": int((x != y).sum()), "changed on the way down": int((g != below).sum()),
             "scale of the gradient": float(jnp.sqrt(jnp.square(below).mean()))}
        )  # fmt: skip
    exact = not (rows[0]["changed on the way up"] or rows[0]["changed on the way down"])
    verdict = (
        "Not one bit of signal or gradient changes while every branch adds 0; that is how ReZero, "
        "SkipInit and nets with zero-gamma begin. Scaled by 0.5, or squeezed by a sigmoid after each sum, "
        "the same path forgets."
    )
    command = _signal_command(changes)
    sentence = "The identity returns its input bit for bit, forward and backward"
    return [Claim(sentence, command, rows, "yes" if exact else "no", verdict)]


def growth_over_depth(bench: Bench) -> Sequence[Claim]:
    """What happens to signal and gradient in plain nets, with batch norm alone, and with shortcuts."""
    outcomes = {
        name: theory.measure(setup, bench.chain, bench.images, bench.seeds) for name, setup in SETUPS.items()
    }
    plain = [outcomes[name] for name in SETUPS if name.startswith("plain") and "batch norm" not in name]
    normed = [outcomes[name] for name in SETUPS if name.startswith("plain, batch norm")]
    carried = [outcomes[name] for name in SETUPS if not name.startswith("plain")]
    bn = _value(outcomes["plain, batch norm, ReLU"].gradient)
    power = _value(outcomes["identity, batch norm"].gradient)
    bare = _value(outcomes["identity, no norm"].gradient)
    sigmoid = _value(outcomes["plain, sigmoid"].gradient)
    return [
        Claim(
            "A deep plain net loses the gradient or blows it up",
            _signal_command(SETUPS["plain, sigmoid"].model),
            [outcome.row() for outcome in plain],
            _in_part(plain),
            f"By how much depends on what is in it. With sigmoids {sigmoid:.3g} per block is left, "
            f"{sigmoid**27:.0e} after the 27 blocks of a 56-layer net; with tanh a few per cent go per "
            "block. With ReLU and the initialisation made for it (He 2015) neither signal nor gradient "
            "vanishes on average at the start: there depth hurts by other means (claims 3 and 8).",
            {"plain.png": _picture(plain)},
        ),
        Claim(
            "Batch norm alone keeps the signal",
            _signal_command(SETUPS["plain, batch norm, ReLU"].model),
            [outcome.row() for outcome in normed],
            _in_part(normed),
            f"The signal, yes. The gradient grows by {bn:.3g} per block on its way down, {bn**27:.1e} "
            "times over 27 blocks: batch norm with ReLU makes gradients explode at the start (Yang 2019), "
            "while He 2015 reports healthy norms in plain nets with batch norm as they train. Without the "
            "ReLU it hardly does.",
            {"batch_norm.png": _picture(normed)},
        ),
        Claim(
            "Identity shortcuts keep signal and gradient through any depth",
            _signal_command(SETUPS["identity, batch norm"].model),
            [outcome.row() for outcome in carried],
            _in_part(carried),
            "What comes through the shortcut is kept; the sum of all paths grows. Without norm, by "
            f"{bare:.3g} a block, as fast as plain nets explode; with batch norm only as the power "
            f"{power:.2g} of depth, where the plain net with batch norm grows exponentially; with branches "
            "that begin at 0, not at all. A factor of 0.5 on the shortcut, or a sigmoid after the sum, "
            "and the gradient is gone.",
            {"shortcuts.png": _picture(carried)},
        ),
    ]


def slopes(bench: Bench) -> Sequence[Claim]:
    """Slopes of the functions that may stand after the sum."""
    x = jax.random.normal(jax.random.key(0), (100_000,))
    rows = []
    for name in ("identity", "relu", "sigmoid", "tanh"):
        slope = jax.vmap(jax.grad(ACTIVATIONS[name].function))(x)
        rows.append(
            {"function": name, "largest slope": float(slope.max()), "mean square": float((slope**2).mean()),
             "slope is 0": f"{float((slope == 0).mean()):.1%}", "54 blocks at most": float(slope.max()) ** 54}
        )  # fmt: skip
    verdict = (
        "Slopes at 100,000 normal inputs. The sigmoid's is at most 1/4, so 54 of them after the sums "
        "leave at most 3e-33 of what comes down the shortcuts. ReLU zeroes half of the slopes for inputs "
        "around 0, but in residual nets what it gets after a sum has been through a ReLU before, so most "
        "of it passes. The identity has slope 1 everywhere."
    )
    ok = rows[0]["largest slope"] == 1 and rows[2]["largest slope"] <= 0.25
    sentence = (
        "A sigmoid squeezes the gradient (slope ≤ 1/4), a ReLU zeroes part of it, the identity does neither"
    )
    command = _signal_command({"model.shortcut": "rezero", "model.after_sum": "sigmoid"})
    return [Claim(sentence, command, rows, "yes" if ok else "no", verdict)]


def output_function(bench: Bench) -> Sequence[Claim]:
    """The gradient that an output function passes to the logit, for the same error."""
    rows = []
    for logit in (-10.0, -1.0, 0.5):
        outputs, labels = jnp.array([[logit]]), jnp.array([0.75])

        def squared(logits, f, labels=labels):
            return example_losses(f(logits), labels, output="identity").sum()

        slope = {name: float(jax.grad(squared)(outputs, f)[0, 0]) for name, f in (
            ("identity", lambda z: z), ("sigmoid", jax.nn.sigmoid), ("tanh", jnp.tanh))}  # fmt: skip
        rows.append({"logit": logit, "target": 0.75, "error": logit - 0.75}
                    | {f"gradient, {name}": value for name, value in slope.items()})  # fmt: skip
    exact = all(row["gradient, identity"] == row["error"] for row in rows)
    verdict = (
        "For real targets and half the squared error, the identity passes the error itself, however far "
        "off the output is, and reaches every target. A sigmoid or tanh at the end passes next to nothing "
        "where it is saturated (1e-5 and less of the error at -10), and reaches only (0, 1) or (-1, 1). "
        "The grammar therefore asks for the identity for regression; results/digits_rotation.md has a net "
        "that tells by which angle a digit was turned."
    )
    sentence = "For regression the identity is the output function"
    command = "python scripts/train.py --config=configs/digits_rotation.py --workdir=runs/digits_rotation"
    return [Claim(sentence, command, rows, "yes" if exact else "no", verdict)]


def changes_of_shape(bench: Bench) -> Sequence[Claim]:
    """What zero padding and matrices cost, and what they keep of signal and gradient."""
    rows = []
    for name, fields in _transitions().items():
        config = replaced(bench.digits, fields | {"model.blocks": (1, 1, 1), "model.after_sum": "identity"})
        subject = of_config(name, config, images=bench.images)
        stem, first, block, *_ = subject.parts("batch")
        x = jax.eval_shape(lambda images, stem=stem, first=first: first(stem(images)), subject.images)
        x = jax.random.normal(jax.random.key(1), x.shape)
        y = block.join(x, jnp.zeros(jax.eval_shape(block, x).shape))
        g = jax.random.normal(jax.random.key(2), y.shape)
        down = block.pull_through(x, g, branch=False)
        alone = [
            _cost(replaced(config, {"model.shortcut": shortcut})) for shortcut in ("identity", "none")
        ]  # fmt: skip
        rows.append(
            {"where shapes differ": name, "parameters": alone[0][0] - alone[1][0],
             "multiply-adds": alone[0][1] - alone[1][1],
             "of x's squares kept": float(jnp.square(y).sum() / jnp.square(x).sum()),
             "of the gradient's": float(jnp.square(down).sum() / jnp.square(g).sum()),
             "pixels that get gradient": f"{float((down != 0).any((0, 3)).mean()):.0%}"}
        )  # fmt: skip
    verdict = (
        "From 8 to 16 channels at stride 2. Zero padding costs nothing; it hands on every fourth pixel, "
        "unchanged, and the new channels carry no gradient down, so a quarter of the signal's and half of "
        "the gradient's squares come through. A matrix costs its parameters; it is no identity, and at "
        "stride 2 it, too, sees every fourth pixel only: its size says how much comes through, and here "
        "its batch norm sets the scale. Averaging before either lets every pixel take part, at the price "
        "of a smaller signal."
    )
    sentence = (
        "Where shapes differ, zero padding is free and a matrix costs parameters; neither is the identity"
    )
    command = (
        "python scripts/describe.py --config=configs/digits_small.py --config.model.transition=projection"
    )
    free = rows[0]["parameters"] == 0 and all(row["of x's squares kept"] != 1 for row in rows)
    return [Claim(sentence, command, rows, "yes" if free else "no", verdict)]


def shallow_and_deep(bench: Bench) -> Sequence[Claim]:
    """Trained nets, shallow and deep, with and without the identity."""
    rows, gain = [], {}
    for depth in (8, 32):
        accuracy = {}
        for shortcut in ("identity", "none"):
            config = replaced(
                bench.digits, {"model.depth": depth, "model.shortcut": shortcut, "train.seeds": 3}
            )
            result = train(config, bench.runs / f"{shortcut}{depth}", command="make claims")
            accuracy[shortcut] = np.array([run["top1"] for run in result["runs"]]) * 100
        difference = accuracy["identity"] - accuracy["none"]
        gain[depth] = difference.mean()
        rows.append(
            {"layers": depth, "n": len(difference)}
            | {f"{name}, test %": _mean_std(values) for name, values in accuracy.items()}
            | {"paired difference": _mean_std(difference)}
        )
    verdict = (
        f"On digits, half the width, 15 epochs: at 8 layers the identity is worth {gain[8]:+.1f} points, "
        f"at 32 layers {gain[32]:+.1f}. The deep plain net does not train within this budget. Depth itself "
        "gains nothing on this data; results/studies/ has more depths and seeds."
    )
    sentence = "Identity shortcuts help deep nets, and do not help shallow ones"
    command = "make study"
    ok = gain[32] > 5 and abs(gain[8]) < 2
    return [Claim(sentence, command, rows, "yes" if ok else "no", verdict)]


TESTS = (
    identity_returns_its_input,
    growth_over_depth,
    slopes,
    output_function,
    changes_of_shape,
    shallow_and_deep,
)


def _signal_command(model: Mapping[str, Any]) -> str:
    """The question of which a claim's first row is a part."""
    fields = shlex.join(f"--config.{name}={value}" for name, value in model.items())
    question = "python scripts/analyze.py --question=signal --config=configs/chain.py --images=32 --seeds=2"
    return f"{question} {fields}"


def _in_part(outcomes: Sequence[theory.Measured]) -> Any:
    """These claims hold in part as long as theory, which says where they do not, agrees."""
    return "in part" if all(outcome.agrees for outcome in outcomes) else "no"


def _value(estimate: Any) -> float:
    return math.nan if estimate is None else estimate.value


def _mean_std(values: np.ndarray) -> str:
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


def _transitions() -> dict[str, dict[str, Any]]:
    """Every change of shape of the grammar."""
    found = {name: {"model.transition": name} for name in TRANSITIONS}
    return {"pad": found.pop("pad"), "pad, averaging": {"model.pad_mode": "average"}} | found


def _cost(config: Any) -> tuple[int, int]:
    """(parameters, multiply-adds) of the first block that changes shape."""
    shape, outputs = shapes_of(config.data)
    part = count_parts(config.model, outputs, shape)[2]
    return part.parameters, part.macs


def _picture(outcomes: Sequence[theory.Measured]) -> Any:
    """Signal and gradient against the block, one line a net."""
    figure, (up, down) = pictures.panels(2, height=4.2)
    for i, outcome in enumerate(outcomes):
        f, style = outcome.net.flow, pictures.style(i)
        for axes, values in ((up, f.x), (down, f.gradient)):
            axes.plot(np.arange(len(values)), values / math.log(10), label=outcome.setup.name, **style)
    up.set(xlabel="residual block", ylabel="log10 of the root mean square", title="signal, on the way up")
    down.set(
        xlabel="residual block", ylabel="log10 of the root mean square", title="gradient, on the way down"
    )
    pictures.legend_below(figure, up, columns=2)
    return figure
