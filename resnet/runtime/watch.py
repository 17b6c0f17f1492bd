"""A process of a run that makes no step while the others wait for it: the others end, and name it.

A process that dies is noticed by JAX, which ends the others. One that lives and hangs, in a file system that
does not answer or in a driver, is noticed here.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from jax.errors import JaxRuntimeError

# A program that only one process has to compile may take many minutes.
STALL_SECONDS = 1200.0
LOOK_SECONDS = 30.0
_FOLDER = "resnet/steps"


@contextlib.contextmanager
def watching(client: Any, index: int, begun: Callable[[], int]) -> Iterator[None]:
    """While entered, a thread compares how many steps each process has begun, and looks for one that stalls.

    `client` passes texts between the processes; `index` is the number of this one.
    """
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(client, index, begun, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(client: Any, index: int, begun: Callable[[], int], over: threading.Event) -> None:
    host = socket.gethostname()
    known: dict[str, int] = {}
    since = time.monotonic()
    while not over.wait(LOOK_SECONDS):
        try:
            client.key_value_set(f"{_FOLDER}/{index}", f"{begun()} {host}", allow_overwrite=True)
            said = client.key_value_dir_get(_FOLDER)
        except JaxRuntimeError:  # the first process is gone, which JAX says itself
            return
        found = dict(map(_read, said))
        if found != known:
            known, since = found, time.monotonic()
        elif time.monotonic() - since > STALL_SECONDS and (stalled := behind(found)):
            os.write(2, f"error: {stalled}, for which the others wait; this process ends\n".encode())
            os._exit(1)


def _read(said: tuple[str, str]) -> tuple[str, int]:
    """("process 1 on HOST", steps) of what it said."""
    key, (steps, host) = said[0], said[1].split(" ", 1)
    return f"process {key.rsplit('/', 1)[-1]} on {host}", int(steps)


def behind(steps: dict[str, int]) -> str:
    """Who has begun fewer steps than others; "" where all have begun as many."""
    fewest = [name for name in sorted(steps) if steps[name] < max(steps.values())]
    return f"{', '.join(fewest)} begins no step for {STALL_SECONDS:g} s" if fewest else ""
