"""What of the input is left after many layers: what is still distinct, and what a linear map reads."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from resnet.analysis import pictures
from resnet.analysis.claims import dense
from resnet.analysis.claims.claim import Bench, Claim, Rows, row_of
from resnet.analysis.growth import mean_of
from resnet.analysis.laws import Check, Law, check
from resnet.analysis.subject import of_config
from resnet.analysis.theory import BLOCKS
from resnet.config import replaced
from resnet.models.layers import ACTIVATIONS

LAYERS = (1, 3, 9, 27, 56)
INPUTS = 1000
RIDGE = 1e-3
"""Of the mean square of the features, added to the diagonal of every linear map that is fitted."""
PROBED = 600
"""Images of digits: two of three fit the linear maps, the others test them."""
SEEDS = 3
PROBE, PIXELS = "linear probe, %", "share of the pixels' variance"
SIGMOID_GAIN = 4.0  # the inverse of its largest slope: the most that its weights can make up for


def measure_sigmoid(bench: Bench) -> Rows:
    """Digits through dense layers without norm: inputs whose outputs are still distinct, and read."""
    data = dense.digits(bench.digits)
    x, labels = data.train[:INPUTS], data.train_labels[:INPUTS]
    rows = []
    for name, function, gain in (
        ("sigmoid", ACTIVATIONS["sigmoid"].function, 1.0),
        ("sigmoid, weights times 4", ACTIVATIONS["sigmoid"].function, SIGMOID_GAIN),
        ("identity + sigmoid", None, 1.0),
        ("relu", ACTIVATIONS["relu"].function, 2.0**0.5),
    ):
        for depth in LAYERS:
            row = {"layers are": name, "layers": depth, "inputs": len(x)}
            for dtype in (jnp.float32, jnp.bfloat16):
                y = np.asarray(_through(x.astype(dtype), function, gain, depth).astype(jnp.float32))
                row[f"distinct in {jnp.dtype(dtype)}"] = len(np.unique(y, axis=0))
                if dtype == jnp.float32:
                    row[PROBE] = 100 * probe(jnp.asarray(y), labels)
            rows.append(row)
    return rows


def rule_sigmoid(rows: Rows) -> list[Check]:
    """Checks that fewer than half of the outputs are distinct in float32, and the probe ten points worse."""
    deep, first = (
        row_of(rows, **{"layers are": "sigmoid", "layers": depth}) for depth in (LAYERS[-1], LAYERS[0])
    )
    fell = first[PROBE] - deep[PROBE]
    return [
        check(f"of {deep['inputs']} outputs, those distinct in float32 after {LAYERS[-1]} layers",
              deep["distinct in float32"], Law("at most", deep["inputs"] / 2)),
        check("points that a linear probe loses from first to last layer", fell, Law("at least", 10.0)),
    ]  # fmt: skip


def _through(x: Array, function, gain: float, depth: int) -> Array:
    """Layers of orthogonal weights; with no function, x + sigmoid of what they give."""
    for w in dense.layers(jax.random.key(0), depth, gain).astype(x.dtype):
        x = x + jax.nn.sigmoid(x @ w) if function is None else function(x @ w)
    return x


def probe(features: Float[Array, "n f"], labels: Array) -> float:
    """Accuracy of a linear map to the classes on images that it was not fitted on."""
    fit = slice(0, 2 * len(labels) // 3)
    test = slice(fit.stop, None)
    scores = _linear_map(features, jax.nn.one_hot(labels, 10), fit)
    return float((scores[test].argmax(1) == labels[test]).mean())


def reconstruction(features: Float[Array, "n f"], x: Float[Array, "n p"]) -> float:
    """Share of the pixels' variance that a linear map reads in images that it was not fitted on, or 0."""
    fit = slice(0, 2 * len(x) // 3)
    test = slice(fit.stop, None)
    rest = jnp.square(x[test] - _linear_map(features, x, fit)[test]).sum()
    return max(0.0, float(1 - rest / jnp.square(x[test] - x[fit].mean(0, keepdims=True)).sum()))


def _linear_map(features: Array, targets: Array, fit: slice) -> Array:
    """Ridge regression of the targets, fitted on the images of `fit`, for all images (in its dual form)."""
    centred = np.asarray(features, np.float64)
    centred = centred - centred[fit].mean(0)
    y = np.asarray(targets, np.float64)
    products = centred @ centred[fit].T
    gram = products[fit]
    ridge = RIDGE * np.trace(gram) / len(gram) + np.finfo(np.float32).tiny
    solved = np.linalg.solve(gram + ridge * np.eye(len(gram)), y[fit] - y[fit].mean(0))
    return jnp.asarray(products @ solved + y[fit].mean(0))


def measure_reading(bench: Bench) -> Rows:
    """Linear probe and reconstruction of the pixels behind every block of nets at their start."""
    found: dict[tuple[str, int], dict[str, list[float]]] = {}
    for shortcut in ("identity", "none"):
        for seed in range(SEEDS):
            changes = {
                "model.shortcut": shortcut,
                "model.blocks": (BLOCKS,),
                "model.width": 1.0,
                "seed": seed,
            }
            subject = of_config(shortcut, replaced(bench.chain, changes), data="train", images=PROBED)
            x = subject.images
            stem, *blocks, _ = subject.parts("batch")
            y, pixels = stem(x), x.reshape(len(x), -1)
            for i, block in enumerate(blocks, 1):
                y = block(y)
                row = found.setdefault((shortcut, i), {"probe": [], "reconstruction": []})
                features = y.reshape(len(y), -1)
                row["probe"].append(100 * probe(features, subject.labels))
                row["reconstruction"].append(reconstruction(features, pixels))
    return [
        {"shortcut": shortcut, "block": i, PROBE: mean_of(row["probe"], 0, 100),
         PIXELS: mean_of(row["reconstruction"], 0, 1), "_probe": row["probe"],
         "_pixels": row["reconstruction"]}
        for (shortcut, i), row in found.items()
    ]  # fmt: skip


def rule_reading(rows: Rows) -> list[Check]:
    """With the identity more is read behind the last block, of the classes and of the pixels."""
    last = max(row["block"] for row in rows)
    identity, none = (row_of(rows, shortcut=name, block=last) for name in ("identity", "none"))

    def gain(name: str, what: str) -> Check:
        differences = np.array(identity[name]) - np.array(none[name])
        return Check(
            f"{what} that the identity gains behind block {last}", mean_of(differences), Law("at least", 0.0)
        )

    return [gain("_probe", "points of a linear probe"), gain("_pixels", "share of the pixels' variance")]


def picture_of_reading(rows: Rows) -> dict[str, object]:
    """What can be read against the block."""
    figure, panels = pictures.panels(2)
    for axes, name in zip(panels, (PROBE, PIXELS), strict=True):
        for i, shortcut in enumerate(("identity", "none")):
            own = [row for row in rows if row["shortcut"] == shortcut]
            values = [row[name].value for row in own]
            axes.plot([row["block"] for row in own], values, label=shortcut, **pictures.style(i))
        axes.set(xlabel="residual block", ylabel=name)
        axes.legend(frameon=False)
    return {"reading.png": figure}


CLAIMS = (
    Claim(
        "Sigmoid layers lose information",
        f"Of the outputs for {INPUTS} different digits, fewer than half are distinct in float32 after "
        f"{LAYERS[-1]} layers of a sigmoid and orthogonal weights, and a linear probe (a linear map from "
        "them to the classes, tested on other images) is ten points worse there than after the first "
        "layer. (With infinitely many decimals nothing would be lost: the sigmoid gives different inputs "
        "different outputs.)",
        "The decimals of float32, or a linear map, still hold what went in.",
        measure_sigmoid, rule_sigmoid,
    ),
    Claim(
        "A shortcut raises what a layer can still read of the input",
        f"Chains of {BLOCKS} blocks at their start, 16 channels, batch norm, {PROBED} digits, {SEEDS} nets: "
        "a linear map that is fitted behind the last block and tested on other images names more of the "
        "classes, and gives a larger share of the pixels' variance, with the identity than without.",
        "Without the identity as much of the input is left.",
        measure_reading, rule_reading, picture_of_reading,
    ),
)  # fmt: skip
