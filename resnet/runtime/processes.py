"""Several processes that train one run: how they meet, agree, and end together.

Each process computes its devices' share of every batch. Of a stream it decodes that share; other data it
holds whole. It holds the parts of the state that lie on its devices: all of it, unless
`parallel.shard_parameters` divides it. The first writes records and results; all take part in checkpoints.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import jax
import numpy as np
from absl import logging
from jax._src import distributed  # as orbax does: JAX has no public way to the texts that processes share

from resnet.errors import InputError
from resnet.runtime.watch import watching

T = TypeVar("T")
SECONDS = 30  # after which a process that is silent counts as dead, and the others end
PATIENCE = 24 * 3600 * 1000  # milliseconds for one that is alive, and may be reading its data


@dataclasses.dataclass
class _Self:
    """This process's number and the count of all; asking JAX for them would start its devices."""

    index: int = 0
    count: int = 1
    gathered: int = 0
    """How often all have told each other something."""
    begun: int = 0
    """Training steps that this process has begun."""


_SELF = _Self()


@contextlib.contextmanager
def together(coordinator: str = "", count: int = 0, index: int = -1) -> Iterator[None]:
    """While entered, this process trains a run together with others; to be entered before JAX computes.

    The others are `count` processes that meet at `coordinator` (host:port), or the tasks of a Slurm step.
    With coordinator "auto" they are the processes of any launcher known to JAX (Open MPI, Kubernetes, TPU,
    …). Without any of these the process is alone.
    """
    if arguments := _arguments(coordinator, count, index):
        _start(arguments)
    if not several():
        yield
        return
    try:
        with watching(distributed.global_state.client, _SELF.index, lambda: _SELF.begun):
            yield
        _gathered("finished")  # the first may be writing its result; the wait below has a limit
    finally:
        # A joint wait: the first to go would take the others down otherwise.
        jax.distributed.shutdown()
        _SELF.index, _SELF.count, _SELF.gathered, _SELF.begun = 0, 1, 0, 0


def _arguments(coordinator: str, count: int, index: int) -> dict[str, Any]:
    """The arguments for jax.distributed; {} in a process that is alone."""
    timeouts: dict[str, Any] = dict.fromkeys(
        ("heartbeat_timeout_seconds", "shutdown_timeout_seconds"), SECONDS
    )
    if coordinator not in ("", "auto"):
        if not (":" in coordinator and 0 <= index < count):
            raise InputError(
                "--coordinator=host:port, --processes=n and --process=i (0 to n-1) go together; "
                f"got {coordinator!r}, {count} and {index}"
            )
        if index == 0:
            _check_free(coordinator)
        meeting = {"coordinator_address": coordinator, "num_processes": count, "process_id": index}
        return meeting | timeouts
    if count > 0 or index >= 0:
        raise InputError("--processes and --process need --coordinator=host:port")
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) if "SLURM_STEP_NODELIST" in os.environ else 1
    return timeouts if coordinator or tasks > 1 else {}


def _check_free(coordinator: str) -> None:
    """Raises InputError unless this machine can listen at the port, which JAX may not survive."""
    port = coordinator.rpartition(":")[2]
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InputError(f"--coordinator=host:port needs a port from 1 to 65535; got {coordinator!r}")
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", int(port)), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise InputError(
            f"--coordinator={coordinator}: this machine cannot listen at port {port} ({why}); "
            "another run may hold it: choose another port"
        ) from None


def _start(arguments: dict[str, Any]) -> None:
    try:
        jax.distributed.initialize(**arguments)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the processes of this run do not find each other: {error}") from None
    state = distributed.global_state
    _SELF.index, _SELF.count = state.process_id, state.num_processes
    if several():
        # JAX names a process that died by its number alone.
        hosts = enumerate(_gathered(socket.gethostname()))
        logging.info(
            "process %d of %d (%s); should another end early, this one ends within a minute, and says which",
            _SELF.index,
            _SELF.count,
            ", ".join(f"{index} on {host}" for index, host in hosts),
        )
    if _SELF.index:
        # What the first says of the run is enough.
        logging.set_verbosity(logging.WARNING)


def index_of_this() -> int:
    """0 in the first process, and in one that is alone."""
    return _SELF.index


def several() -> bool:
    """Whether other processes train the same run."""
    return _SELF.count > 1


def first_says(function: Callable[[], Any]) -> Any:
    """The first process's result of `function`, passed on as JSON; its InputError is raised in all."""
    if not several():
        return function()
    said, error = None, None
    if index_of_this() == 0:
        try:
            said = {"value": function()}
        except InputError as refused:
            said, error = {"error": str(refused)}, refused
    said = json.loads(_gathered(json.dumps(said, allow_nan=False))[0])
    if "error" in said:
        raise error or InputError(said["error"])
    return said["value"]


def in_all(function: Callable[[], T]) -> T:
    """This process's result of `function`; an InputError of any process is raised in all of them."""
    if not several():
        return function()
    value, error = None, None
    try:
        value = function()
    except InputError as refused:
        error = refused
    refusals = _gathered(str(error or ""))
    if error or any(refusals):
        raise error or InputError(next(filter(None, refusals)))
    return cast(T, value)


def agree(known: Callable[[], Mapping[str, Any]]) -> None:
    """Raises InputError in all processes if a value differs between them, naming the first such value."""
    if not several():
        return
    said = [json.loads(text) for text in _gathered(json.dumps(known(), default=_hash, allow_nan=False))]
    for index, other in enumerate(said):
        for name in said[0] | other:
            first, here = said[0].get(name), other.get(name)
            if first != here:
                raise InputError(
                    f"the processes of one run must be given the same `{name}`; got {_short(first)} in "
                    f"process 0 and {_short(here)} in process {index}"
                )


def _hash(array: Any) -> str:
    return hashlib.sha256(np.asarray(array).tobytes()).hexdigest()[:12]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _gathered(text: str) -> list[str]:
    """The texts of all processes, by way of where they met: no device is needed, and none is started."""
    _SELF.gathered += 1
    client = distributed.global_state.client
    assert client is not None
    client.key_value_set(f"resnet/{_SELF.gathered}/{_SELF.index}", text)
    keys = [f"resnet/{_SELF.gathered}/{index}" for index in range(_SELF.count)]
    return [client.blocking_key_value_get(key, PATIENCE) for key in keys]


def asked_to_stop(count: int) -> bool:
    """Whether any process received SIGTERM, so that all stop at the same call; `count` numbers the calls.

    To be called after each step that was begun.
    """
    if not several():
        return False
    _SELF.begun += 1
    from jax.experimental import multihost_utils

    return bool(multihost_utils.reached_preemption_sync_point(count))


def pass_on_interrupt(*_: object) -> None:
    """Handles SIGINT like SIGTERM, which JAX's own handler reports to all processes."""
    os.kill(os.getpid(), signal.SIGTERM)
