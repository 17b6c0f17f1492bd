"""The accuracies of studies that are kept in results/studies: deeper nets than a page can train."""

import collections
import csv
from pathlib import Path

from resnet.errors import InputError

STUDIES = {
    "shortcut_on_off": 0, "since_2016": 0, "fashion_depth": 0, "cifar10_small": 0, "budgets": 56,
    "fashion_budgets": 56,
}  # fmt: skip
"""Studies that train both nets, each with the layers of its nets; 0 where the names of its arms tell them."""
SHORTCUTS = ("identity", "none")
Accuracies = dict[tuple[int, int, str], dict[int, float]]
"""For each (layers, epochs, shortcut), each seed's test accuracy with its last weights, in percent."""


def load_accuracies(folder: Path) -> dict[str, Accuracies]:
    """The finished runs with the identity and without shortcuts in the tables of each study, by its name."""
    return {name: _accuracies(folder / name / "runs.csv", layers) for name, layers in STUDIES.items()}


def _accuracies(path: Path, layers: int) -> Accuracies:
    found: Accuracies = collections.defaultdict(dict)
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                shortcut, _, number = row["arm"].rpartition("-")
                if shortcut in SHORTCUTS and (row["in_table"], row["state"]) == ("True", "finished"):
                    at = layers or int(number), round(float(row["epoch"])), shortcut
                    found[at][int(row["seed"])] = 100 * float(row["test_top1"])
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path} has no accuracies ({error!r}); take that of a clone of the repository"
        ) from None
    return dict(found)
