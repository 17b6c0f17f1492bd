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
    known: dict[int, tuple[int, str]] = {}
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
        elif time.monotonic() - since > STALL_SECONDS and (stalled := _behind(found, index)):
            what = (
                f"begins no step for {STALL_SECONDS:g} s, and this one waits for it: look at its log and at "
                "the disks and devices of its host; the same command in all processes resumes"
            )
            os.write(2, f"error: {', '.join(stalled)} {what}\n".encode())
            os._exit(1)


def _read(said: tuple[str, str]) -> tuple[int, tuple[int, str]]:
    """(number, (steps, host)) of what a process said."""
    key, (steps, host) = said[0], said[1].split(" ", 1)
    return int(key.rsplit("/", 1)[-1]), (int(steps), host)


def _behind(found: dict[int, tuple[int, str]], index: int) -> list[str]:
    """Who has begun fewer steps than this process, which waits for them; none where it has to catch up."""
    most = max(steps for steps, _ in found.values())
    if found[index][0] < most:
        return []
    return [f"process {each} on {host}" for each, (steps, host) in sorted(found.items()) if steps < most]
