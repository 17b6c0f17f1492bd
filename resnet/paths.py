"""Paths of the leaves of a tree, such as parameters and statistics, as they are written everywhere."""

import re
from collections.abc import Sequence
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
