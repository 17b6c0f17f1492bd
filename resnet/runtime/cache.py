"""Compiled programs kept on disk, so that a net is compiled once and not at every start."""

import dataclasses
import os
from pathlib import Path

import filelock
import jax
from absl import logging

from resnet.errors import InputError, check_at_least
from resnet.fields import Fields
from resnet.files import USER_CACHE, check_path, local_path


@dataclasses.dataclass(unsafe_hash=True)
class CacheConfig(Fields, section="cache"):
    """Where compiled programs are kept, and how many."""

    dir: str = USER_CACHE
    """Folder of compiled programs and kernels, shared by all runs and by nothing else; empty: no programs are
    kept.

    JAX's own environment variable JAX_COMPILATION_CACHE_DIR goes before it.
    """
    megabytes: int = 2000
    """Size at which the programs used longest ago are removed, in MB."""

    def check(self) -> None:
        """Raises InputError naming the field."""
        if self.dir != CacheConfig.dir:  # which a user without a home folder cannot have, and need not
            check_path("cache.dir", self.dir)
        check_at_least("cache.megabytes", self.megabytes, 1)


def keep_programs(config: CacheConfig) -> None:
    """Tells JAX, for this process, to read and write the cache; a line of the log where that cannot be."""
    if not config.dir or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    try:
        folder = local_path(config.dir)
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written")
        _remove_unfinished(folder)
    except (InputError, OSError, NotImplementedError) as error:  # the last: no locks on this file system
        logging.warning("Compiled programs are not kept for other runs: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", config.megabytes * 10**6)
    # Each program that is kept makes keeping another slower, as JAX lists them all: by 45 us.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


def _remove_unfinished(folder: Path) -> None:
    """Removes programs of which a killed process, or one on a full disk, wrote a part.

    JAX writes a program, then the time of its last use. It would read the part at every start, warn, compile,
    and keep neither this program nor others.
    """
    with filelock.FileLock(folder / ".lockfile", timeout=10):  # JAX's own
        for program in folder.glob("*-cache"):
            if not program.with_name(program.name.removesuffix("cache") + "atime").exists():
                program.unlink()
