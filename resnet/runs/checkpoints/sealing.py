"""The end of a save: the first checkpoint of a process is read back, each gets its manifest."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet.runs.checkpoints import manifest
from resnet.runs.checkpoints.alias import plain_path

# Orbax adds the time to this one after all else is done, and nothing here reads it.
_STAMPED = ("_CHECKPOINT_METADATA",)
# Bytes that are read back together: a state that several hosts share may be more than one of them holds.
AT_A_TIME = 256 << 20


class Seal:
    """Writes the manifest of the save in flight, whose files are complete but not yet renamed.

    The manifest is the last file, so every folder that is named after a step has one. The first checkpoint of
    a process is read back before its manifest is written: this finds a disk or a library that loses data.
    """

    def __init__(self, folder: Path):
        self.folder, self.read_back = folder, False

    def __call__(self) -> None:
        if jax.process_index() == 0:
            for unfinished in self.folder.glob("*.orbax-checkpoint-tmp"):
                if not self.read_back:
                    _read_back(unfinished)
                    self.read_back = True
                manifest.seal(unfinished, without=_STAMPED)


def _read_back(path: Path) -> None:
    """Reads all arrays of a checkpoint, by this process alone, to where nothing keeps them."""
    import orbax.checkpoint as ocp

    handler: Any = ocp.PyTreeCheckpointHandler()  # annotated with a Path of its own
    with plain_path(path / "state") as folder:
        leaves, structure = jax.tree.flatten(handler.metadata(folder).tree)
        arguments = structure.unflatten([ocp.RestoreArgs(restore_type=np.ndarray)] * len(leaves))
        for part in _parts([math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves]):
            wanted = [leaf if i in part else ocp.PLACEHOLDER for i, leaf in enumerate(leaves)]
            item = structure.unflatten(wanted)
            handler.restore(folder, args=ocp.args.PyTreeRestore(item, restore_args=arguments))


def _parts(sizes: Sequence[int]) -> Iterator[range]:
    """Ranges of arrays that are read together, given the bytes of each."""
    first = held = 0
    for i, size in enumerate(sizes):
        if held and held + size > AT_A_TIME:
            yield range(first, i)
            first, held = i, 0
        held += size
    yield range(first, len(sizes))
