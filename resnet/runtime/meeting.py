"""How the processes of one run find each other."""

import contextlib
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging
from jax._src import distributed  # as orbax does: JAX has no public way to their numbers before devices start

from resnet.errors import InputError

SECONDS = 30  # after which a process that is silent counts as dead, and the others end
MEETING = 300  # seconds within which all must come
TURN = 1  # seconds of a wait after which Python may handle a signal


def arguments_of(coordinator: str, count: int, index: int) -> dict[str, Any]:
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
        _check_port(coordinator)
        if index == 0:
            _check_free(coordinator)
        meeting = {"coordinator_address": coordinator, "num_processes": count, "process_id": index}
        return meeting | timeouts
    if count > 0 or index >= 0:
        raise InputError("--processes and --process need --coordinator=host:port")
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) if "SLURM_STEP_NODELIST" in os.environ else 1
    return timeouts if coordinator or tasks > 1 else {}


def _check_port(coordinator: str) -> None:
    """Raises InputError if the coordinator lacks a host or a valid port."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InputError(f"--coordinator=host:port needs a port from 1 to 65535; got {coordinator!r}")


def _check_free(coordinator: str) -> None:
    """Raises InputError unless this machine can listen at the port, which JAX may not survive."""
    port = coordinator.rpartition(":")[2]
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


def connect(arguments: dict[str, Any]) -> tuple[int, int]:
    """Waits until all processes have come; (number of this one, count).

    If they do not come, this process ends with a line that says so, as JAX would abort it.
    """
    where = f" at {arguments['coordinator_address']}" if "coordinator_address" in arguments else ""
    logging.info("waiting for the other processes%s", where)
    timer = threading.Timer(MEETING, _give_up, [where])
    timer.daemon = True
    timer.start()
    try:
        with _interruptible():
            jax.distributed.initialize(**arguments, initialization_timeout=2 * MEETING)
    except (RuntimeError, ValueError) as error:
        why = str(error)
        if isinstance(error, ValueError) and not where:  # JAX found no launcher that tells it
            why += " Give --coordinator=host:port, --processes and --process"
        raise InputError(f"the processes of this run do not find each other{where}: {why}") from None
    finally:
        timer.cancel()
    return distributed.global_state.process_id, distributed.global_state.num_processes


def see_all_devices(alone: bool) -> None:
    """Lets this process use every GPU that it sees, if it is `alone` on its host or sees a single GPU.

    Under Slurm and Open MPI, JAX gives a process the GPU whose number is the process's own on its host. A
    process that sees one GPU may have no GPU of that number; if it is alone, the other GPUs would be idle.
    """
    if alone or re.fullmatch("[^,]+", os.environ.get("CUDA_VISIBLE_DEVICES", "")):
        for kind in ("cuda", "rocm"):
            jax.config.update(f"jax_{kind}_visible_devices", "all")


def _give_up(where: str) -> None:
    """Ends the process from another thread, while the main thread waits in JAX."""
    text = (
        f"error: not all processes of this run have come{where} within {MEETING} s: look at the log of each, "
        "and give all of them the same --coordinator and --processes\n"
    )
    os.write(2, text.encode())
    os._exit(2)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """While entered, SIGINT ends the process: JAX waits outside Python, and nothing is lost yet."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
