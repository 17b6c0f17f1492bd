"""Paths of the leaves of a tree, such as parameters and statistics, as they are written everywhere."""

import collections
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import jax

from resnet.errors import InputError


def parameter_path(path: tuple) -> str:
    """A leaf's path in a tree: "stage2/block3/conv1/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaf_paths(tree: Any) -> list[str]:
    """The paths of all leaves, in the order of jax.tree.leaves."""
    return [parameter_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def shapes_by_path(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {parameter_path(path): tuple(leaf.shape) for path, leaf in leaves}


def count_elements(tree: Any) -> int:
    """The number of elements of all leaves, such as the parameters of a net."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def check_matches(field: str, regex: str, paths: Sequence[str]) -> None:
    """Raises InputError if a regular expression is given that matches none of the paths of parameters."""
    if regex and not any(re.search(regex, path) for path in paths):
        shown = f"their paths look like {paths[0]!r} … {paths[-1]!r}" if paths else "there are none"
        raise InputError(f"`{field}`: {regex!r} matches no parameter; {shown}")


def regex_of(odd: Iterable[str], known: Iterable[str]) -> str:
    """A regular expression on the `odd` paths with all of their modules, and on no other of the `known`.

    Empty if none of these would be left.
    """
    modules = {_module(path) for path in odd}
    rest = [path for path in known if _module(path) not in modules]
    if not rest:
        return ""
    starts = sorted({_start(module, rest) for module in modules})
    inner = [start for start in starts if start.endswith("/") and start.count("/") > 1]
    ends = collections.Counter("/" + start.split("/")[-2] + "/" for start in inner)
    # Such as the shortcuts of all blocks.
    shared = [end for end, n in ends.items() if n > 1 and not any(re.search(end, path) for path in rest)]
    starts = [start for start in starts if not f"/{start}".endswith(tuple(shared))]
    alone = [f"^{starts[0]}" if len(starts) == 1 else f"^({'|'.join(starts)})"] if starts else []
    return "|".join([*alone, *shared])


def _module(path: str) -> str:
    """The start of a tensor's path without its own name; of a name without slashes, up to its first dot."""
    return path.rpartition("/")[0] + "/" if "/" in path else "".join(path.partition(".")[:2])


def _start(module: str, rest: Collection[str]) -> str:
    """The shortest start of a module's paths that no other has, as a regular expression.

    Never that of the whole head, whose norm may fit where the classifier does not.
    """
    if not module.endswith("/"):
        return re.escape(module) + ("" if module.endswith(".") else "$")
    parts = module.split("/")
    longer = ["/".join(parts[:n]) + "/" for n in range(1, len(parts))]
    free = [start for start in longer if start != "head/" and not any(p.startswith(start) for p in rest)]
    return re.escape(free[0]) if free else re.escape(module) + "[^/]+$"
