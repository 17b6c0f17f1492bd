"""Residual nets in NumPy and float64, from the papers' formulas and the parameters alone.

Written out order by order and shortcut by shortcut, sharing no code with the library it checks. Basic
branches, ReLU, batch norm with the batch's statistics or no norm.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

EPSILON = 1e-5


def convolve(x, p, stride=1):
    """Convolution with p["kernel"], padded by half of it; p["bias"] if there is one."""
    kernel = np.asarray(p["kernel"], np.float64)
    size = kernel.shape[0]
    border = (size // 2, size // 2)
    padded = np.pad(x, ((0, 0), border, border, (0, 0)))
    windows = sliding_window_view(padded, (size, size), (1, 2))[:, ::stride, ::stride]
    return np.einsum("byxihw,hwio->byxo", windows, kernel) + np.asarray(p.get("bias", 0.0))


def norm(x, p):
    """Batch norm in training; x where the net has none."""
    if p is None:
        return x
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(variance + EPSILON) * np.asarray(p["scale"]) + np.asarray(p["bias"])


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# The start of the branch, the rest of it, and what follows the sum: p are the block's parameters, s
# the stride. He 2016, Table 2; Han 2017.
ORDERS = {
    "postactivation": (
        lambda p, x: x,
        lambda p, x, s: norm(convolve(relu(norm(convolve(x, p["conv1"], s), p.get("norm1"))), p["conv2"]),
                             p.get("norm2")),
        lambda p, y: relu(y),
    ),
    "norm_after_sum": (
        lambda p, x: x,
        lambda p, x, s: convolve(relu(norm(convolve(x, p["conv1"], s), p.get("norm1"))), p["conv2"]),
        lambda p, y: relu(norm(y, p.get("norm2"))),
    ),
    "activation_before_sum": (
        lambda p, x: x,
        lambda p, x, s: relu(norm(convolve(relu(norm(convolve(x, p["conv1"], s), p.get("norm1"))),
                                           p["conv2"]), p.get("norm2"))),
        lambda p, y: y,
    ),
    "activation_only_preactivation": (
        lambda p, x: relu(x),
        lambda p, x, s: norm(convolve(relu(norm(convolve(x, p["conv1"], s), p.get("norm1"))), p["conv2"]),
                             p.get("norm2")),
        lambda p, y: y,
    ),
    "preactivation": (
        lambda p, x: relu(norm(x, p.get("norm1"))),
        lambda p, x, s: convolve(relu(norm(convolve(x, p["conv1"], s), p.get("norm2"))), p["conv2"]),
        lambda p, y: y,
    ),
    "pyramid": (
        lambda p, x: norm(x, p.get("norm1")),
        lambda p, x, s: norm(convolve(relu(norm(convolve(x, p["conv1"], s), p.get("norm2"))), p["conv2"]),
                             p.get("norm3")),
        lambda p, y: y,
    ),
}  # fmt: skip
ORDERS["shake_shake"] = ORDERS["activation_only_preactivation"]


def fixup_branch(p, x, s):
    """Zhang 2019, Figure 1, right: a scalar before each convolution and activation."""
    hidden = convolve(x + float(p["bias1"]), p["conv1"], s)
    return convolve(relu(hidden + float(p["bias2"])) + float(p["bias3"]), p["conv2"])


def gate(p, u, s):
    return sigmoid(norm(convolve(u, p["gate"], s), p.get("gate_norm")))


def transform_gate(p, u, s):
    hidden = relu(norm(convolve(u, p["gate1"], s), p.get("gate1_norm")))
    return sigmoid(norm(convolve(hidden, p["gate2"]), p.get("gate2_norm")))


def softmax(p):
    """(alpha, beta) of two numbers."""
    a, b = (np.exp(float(p[name])) for name in ("alpha_logit", "beta_logit"))
    return a / (a + b), b / (a + b)


def low_rank(p, x):
    """x + B A x."""
    return x + convolve(convolve(x, p["low_rank_a"]), p["low_rank_b"])


def without_x(x, f, axes):
    """F less its part along x."""
    return f - (x * f).sum(axes, keepdims=True) / ((x * x).sum(axes, keepdims=True) + 1e-6) * x


def repvgg_identity(p, u, s):
    """BN(x), where the shape stays."""
    return 0 if s > 1 else norm(u, p.get("identity_norm"))


def matrix(p, u, s):
    """BN(W x), of every pixel or of every other."""
    return norm(convolve(u, p["projection"], s), p.get("norm"))


# The sum: p are the shortcut's parameters, x and f its two addends in one shape, u what the shortcut
# starts from, s the stride.
MERGES = {
    "none": lambda p, x, f, u, s: f,
    "identity": lambda p, x, f, u, s: x + f,
    "projection": lambda p, x, f, u, s: matrix(p, u, s) + f,
    "constant_scaling": lambda p, x, f, u, s: 0.5 * x + 0.5 * f,
    "exclusive_gating": lambda p, x, f, u, s: (1 - gate(p, u, s)) * x + gate(p, u, s) * f,
    "shortcut_only_gating": lambda p, x, f, u, s: (1 - gate(p, u, s)) * x + f,
    "highway": lambda p, x, f, u, s: transform_gate(p, u, s) * f + (1 - transform_gate(p, u, s)) * x,
    "dropout": lambda p, x, f, u, s: x + f,  # without draws
    "rezero": lambda p, x, f, u, s: x + float(p["alpha"]) * f,
    "skipinit": lambda p, x, f, u, s: x + float(p["alpha"]) * f,
    "fixup": lambda p, x, f, u, s: x + float(p["scale"]) * f + float(p["bias"]),
    "normalizer_free": lambda p, x, f, u, s: x + 0.2 * float(p["gain"]) * f,
    "shake_drop": lambda p, x, f, u, s: x + f,  # without draws
    "decayed_identity": lambda p, x, f, u, s: 0.5 * x + f,  # the last of two blocks
    "depth_scaled": lambda p, x, f, u, s: x + f / np.sqrt(2),
    "layer_scale": lambda p, x, f, u, s: x + np.asarray(p["lambda"]) * f,
    "laurel_weights": lambda p, x, f, u, s: softmax(p)[1] * x + softmax(p)[0] * f,
    "laurel_low_rank": lambda p, x, f, u, s: low_rank(p, x) + f,
    "laurel": lambda p, x, f, u, s: softmax(p)[1] * low_rank(p, x) + softmax(p)[0] * f,
    "orthogonal": lambda p, x, f, u, s: x + without_x(x, f, 3),
    "orthogonal_image": lambda p, x, f, u, s: x + without_x(x, f, (1, 2, 3)),
    "normed_identity": lambda p, x, f, u, s: f + repvgg_identity(p, u, s),
    "repvgg": lambda p, x, f, u, s: f + repvgg_identity(p, u, s) + matrix(p, u, s),
}
# These take the block's input as it is.
WITHOUT_TRANSITION = ("none", "projection", "normed_identity", "repvgg")


def transition(kind, p, u, stride, channels):
    """u in the shape of the branch."""
    if kind == "projection":
        return norm(convolve(u, p["projection"], stride), p.get("norm"))
    if kind == "average_projection":
        b, h, w, c = u.shape
        u = u.reshape(b, h // stride, stride, w // stride, stride, c).mean((2, 4))
        return norm(convolve(u, p["projection"]), p.get("norm"))
    if kind == "shifted_projection":
        shifted = np.zeros_like(u)
        shifted[:, 1:, 1:] = u[:, :-1, :-1]
        paths = convolve(u, p["projection1"], stride), convolve(shifted, p["projection2"], stride)
        return norm(np.concatenate(paths, -1), p.get("norm"))
    return np.pad(u[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (0, channels - u.shape[-1])))


def block(p, x, *, order, shortcut, kind=None, shared=False, input_scale=1.0):
    """What leaves a residual block. `kind`: its transition if its shape changes, at stride 2; `shared`:
    whether the shortcut starts behind the branch's first activation."""
    start, finish, after_sum = ORDERS[order]
    stride = 2 if kind else 1
    begin = start(p, x) * input_scale
    if shortcut == "fixup":
        f, begin = fixup_branch(p, x, stride), x + float(p["bias1"])
    else:
        f = finish(p, begin, stride)
    u = begin if shared else x
    own = p.get("shortcut", {})
    carried = u
    if kind and shortcut not in WITHOUT_TRANSITION:
        carried = transition(kind, own, u, stride, f.shape[-1])
    return after_sum(p, MERGES[shortcut](own, carried, f, u, stride))


def plain_net(p, images, blocks):
    """Logits of a plain net, conv - BN - ReLU all along: p its parameters, `blocks` those of each stage."""
    x = relu(norm(convolve(np.asarray(images, np.float64), p["stem"]["conv1"]), p["stem"]["norm1"]))
    for stage, count in enumerate(blocks, 1):
        for n in range(1, count + 1):
            own = p[f"stage{stage}"][f"block{n}"]
            x = relu(norm(convolve(x, own["conv1"], 2 if stage > 1 and n == 1 else 1), own["norm1"]))
            x = relu(norm(convolve(x, own["conv2"]), own["norm2"]))
    head = p["head"]["dense"]
    return x.mean((1, 2)) @ np.asarray(head["kernel"], np.float64) + np.asarray(head["bias"])
