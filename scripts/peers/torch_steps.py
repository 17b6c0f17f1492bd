"""Training and inference steps of PyTorch, eager or compiled, in channels_last."""

import contextlib
import os
from collections.abc import Callable
from typing import Any

from scripts.peers.nets import need
from scripts.peers.torch_nets import Case

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 1e-4


def training_step(case: Case, dtype: str = "float32", compiled: bool = False) -> Callable[[], float]:
    """Forward, backward and SGD with momentum and decay on one batch; returns the loss.

    bfloat16 is autocast's; the parameters stay float32, as ours do.
    """
    need("torch")
    import torch

    module, images = _module_and_images(case, compiled)
    labels = torch.arange(case.batch, device=images.device) % case.num_outputs
    sgd = torch.optim.SGD(module.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)
    module.train()

    def step() -> float:
        sgd.zero_grad()
        with _precision(images.device.type, dtype):
            loss = torch.nn.functional.cross_entropy(module(images), labels)
        loss.backward()
        sgd.step()
        return float(loss.detach())

    return step


def inference_step(case: Case, dtype: str = "float32", compiled: bool = False) -> Callable[[], float]:
    """Logits of one batch in evaluation mode; returns one of them."""
    module, images = _module_and_images(case, compiled)
    import torch

    module.eval()

    def step() -> float:
        with torch.inference_mode(), _precision(images.device.type, dtype):
            return float(module(images)[0, 0])

    return step


def _module_and_images(case: Case, compiled: bool) -> tuple[Any, Any]:
    need("torch")
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = case.peer.build(case.num_outputs).to(device, memory_format=torch.channels_last)
    images = torch.randn(case.batch, 3, case.side, case.side)
    if compiled:
        module.compile()
    return module, images.to(device, memory_format=torch.channels_last)


def _precision(device: str, dtype: str) -> contextlib.AbstractContextManager:
    import torch

    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device, getattr(torch, dtype))
