"""Several processes that train one run: how they meet, agree, and end together.

Each process computes its devices' share of every batch. Of a stream it decodes that share; other data it
holds whole. It holds the parts of the state that lie on its devices: all of it, unless
`parallel.shard_parameters` divides it. The first writes records and results; all take part in checkpoints.
"""

import atexit
import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import jax
import numpy as np
from absl import logging
from jax._src import distributed  # as orbax does: JAX has no public way to the texts that processes share
from jax.errors import JaxRuntimeError

from resnet.errors import InputError
from resnet.runtime.meeting import SECONDS, TURN, arguments_of, connect, see_all_devices
from resnet.runtime.stall import watching

T = TypeVar("T")
PATIENCE = 24 * 3600  # seconds for one that is alive, and may be reading its data


@dataclasses.dataclass
class _Self:
    """This process's number and the count of all; asking JAX for them would start its devices."""

    index: int = 0
    count: int = 1
    gathered: int = 0
    """How often all have told each other something."""
    begun: int = 0
    """Training steps that this process has begun."""
    exit_code: int = 0
    """With which this process exits where it ends while the others go on; 0: all end together."""


_SELF = _Self()


@contextlib.contextmanager
def together(coordinator: str = "", count: int = 0, index: int = -1) -> Iterator[None]:
    """While entered, this process trains a run together with others; to be entered before JAX computes.

    The others are `count` processes that meet at `coordinator` (host:port), or the tasks of a Slurm step.
    With coordinator "auto" they are the processes of any launcher known to JAX (Open MPI, Kubernetes, TPU,
    …). Without any of these the process is alone.
    """
    if arguments := arguments_of(coordinator, count, index):
        _SELF.index, _SELF.count = connect(arguments)
        atexit.register(_exit_alone)
    if not several():
        yield
        return
    try:
        _introduce()
        with watching(_client(), _SELF.index, lambda: _SELF.begun):
            yield
        _gathered("finished")  # the first may be writing its result; the wait below has a limit
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or not _all_end():
            _SELF.exit_code = _exit_code(error)
        raise
    finally:
        if not _SELF.exit_code:
            # A joint wait: the first to go would take the others down otherwise.
            jax.distributed.shutdown()
            _SELF.index, _SELF.count, _SELF.gathered, _SELF.begun = 0, 1, 0, 0


def _all_end() -> bool:
    """Whether all processes come to their end within SECONDS; JAX would abort one that waits in vain."""
    try:
        _client().wait_at_barrier("resnet/end", 1000 * SECONDS)
    except JaxRuntimeError:
        return False
    return True


def _exit_code(error: BaseException) -> int:
    """The exit code of a command that ends with this error."""
    usual = {KeyboardInterrupt: 128 + signal.SIGINT, InputError: 2}
    known = (code for kind, code in usual.items() if isinstance(error, kind))
    return getattr(error, "exit_code", 0) or next(known, 1)


def _exit_alone() -> None:
    """Ends this process at once if it failed alone: its error is printed, and JAX would wait for others."""
    if _SELF.exit_code:
        os._exit(_SELF.exit_code)


def _introduce() -> None:
    """Logs where each process runs, and chooses the GPUs of this one by who else is on its host.

    InputError if the processes were told different counts.
    """
    hosts = []
    _tell("met", f"{_SELF.count} {socket.gethostname()}")
    for index in range(_SELF.count):
        count, host = _told("met", index, SECONDS).split(" ", 1)
        if int(count) != _SELF.count:
            raise InputError(
                f"the processes of one run must be given the same --processes; got {count} in process "
                f"{index} and {_SELF.count} in process {_SELF.index}"
            )
        hosts.append(host)
    see_all_devices(alone=hosts.count(hosts[_SELF.index]) == 1)
    # JAX names a process that died by its number alone.
    logging.info(
        "process %d of %d (%s); should another end early, this one ends within a minute, and says which",
        _SELF.index,
        _SELF.count,
        ", ".join(f"{index} on {host}" for index, host in enumerate(hosts)),
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
            said, error = {"refusal": _described(refused)}, refused
    said = json.loads(_gathered(json.dumps(said, allow_nan=False))[0])
    if "refusal" in said:
        raise error or _refusal(*said["refusal"])
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
    refusals = from_all(error and _described(error))
    if error or any(refusals):
        raise error or _refusal(*next(filter(None, refusals)))
    return cast(T, value)


def _described(error: InputError) -> tuple[str, str]:
    return type(error).__name__, str(error)


def _refusal(kind: str, text: str) -> InputError:
    """The error of another process, of the same kind, for all to go on in the same way."""
    kinds = [InputError]
    for each in kinds:
        kinds += each.__subclasses__()
    return next((each for each in kinds if each.__name__ == kind), InputError)(text)


def agree(known: Callable[[], Mapping[str, Any]]) -> None:
    """Raises InputError in all processes if a value differs between them, naming the first such value."""
    if not several():
        return
    said = from_all(known())
    for index, other in enumerate(said):
        for name in said[0] | other:
            first, here = said[0].get(name), other.get(name)
            if first != here:
                raise InputError(
                    f"the processes of one run must be given the same `{name}`; got {_short(first)} in "
                    f"process 0 and {_short(here)} in process {index}"
                )


def from_all(value: Any) -> list[Any]:
    """What each process gives for `value`, as JSON, in their order; of an array, its hash."""
    if not several():
        return [value]
    return [json.loads(text) for text in _gathered(json.dumps(value, default=_hash, allow_nan=False))]


def _hash(array: Any) -> str:
    return hashlib.sha256(np.asarray(array).tobytes()).hexdigest()[:12]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _gathered(text: str) -> list[str]:
    """The texts of all processes, by way of where they met: no device is needed, and none is started."""
    _SELF.gathered += 1
    _tell(str(_SELF.gathered), text)
    return [_told(str(_SELF.gathered), index, PATIENCE) for index in range(_SELF.count)]


def _client() -> Any:
    """What passes texts between the processes."""
    client = distributed.global_state.client
    assert client is not None
    return client


def _tell(occasion: str, text: str) -> None:
    _client().key_value_set(f"resnet/{occasion}/{_SELF.index}", text)


def _told(occasion: str, index: int, seconds: float) -> str:
    """Waits for the text of a process on an occasion; Python handles signals after each second."""
    end = time.monotonic() + seconds
    while True:
        try:
            return _client().blocking_key_value_get(f"resnet/{occasion}/{index}", 1000 * TURN)
        except JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error) or time.monotonic() > end:
                raise


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
