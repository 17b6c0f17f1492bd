"""The same arms and seeds trained twice: how far a run lies from its repetition, and how far seeds do."""

import math
import statistics
from pathlib import Path
from typing import Any

from resnet.errors import InputError
from resnet.files import make_folder, write_text
from resnet.runs.provenance import told_lines
from resnet.runs.tables import csv_table, markdown_table
from resnet.studies.folder import StudyFolder
from resnet.studies.pages.report import origin_of
from resnet.studies.pages.rows import Metric, metric_of, scores
from resnet.studies.pages.statistics import compare

PAGE, CSV = "repeated.md", "repeated.csv"
HEADERS = ("arm", "n", "first", "again", "deviation over seeds", "deviation of a repetition", "largest",
           "again minus first", "correlation")  # fmt: skip


def write_repetition(first: StudyFolder, again: StudyFolder, output: Path, title: str) -> dict[str, Any]:
    """Writes PAGE and CSV of the runs that both folders have; {"page", "pairs"}. InputError without any."""
    metric, rows, pairs = metric_of(first), [], []
    if (theirs := metric_of(again)) != metric and any(scores(again, name, theirs) for name in again.arms):
        raise InputError(
            f"{first.workdir} has {metric.label} of {metric.split}, and {again.workdir} {theirs.label} of "
            f"{theirs.split}; compare runs that were scored alike"
        )
    for name in (name for name in first.arms if name in again.arms):
        own, others = scores(again, name, metric), scores(first, name, metric)
        seeds, found = sorted(own.keys() & others.keys()), compare(own, others)
        if found is None or len(seeds) < 2:
            continue
        differences = [own[seed] - others[seed] for seed in seeds]
        # A difference of two runs that each round in their own way varies twice as much as one of them.
        repetition = math.sqrt(statistics.mean(d * d for d in differences) / 2)
        spread = math.sqrt(
            statistics.mean(statistics.variance([run[s] for s in seeds]) for run in (own, others))
        )
        interval = f" ({found.low:+z.2f} to {found.high:+z.2f})" if found.low is not None else ""
        rows.append((name, str(len(seeds)), _mean_std(others, seeds), _mean_std(own, seeds), f"{spread:.2f}",
                     f"{repetition:.2f}", f"{max(map(abs, differences)):.2f}",
                     f"{found.mean:+z.2f}{interval}",
                     "" if found.correlation is None else f"{found.correlation:+z.2f}"))  # fmt: skip
        pairs += [{"arm": name, "seed": s, "first": others[s], "again": own[s]} for s in seeds]
    if not rows:
        raise InputError(
            f"{first.workdir} and {again.workdir} have no two finished seeds of an arm in common"
        )
    make_folder(output)
    write_text(output / CSV, csv_table(pairs))
    write_text(output / PAGE, _page(title, rows, metric, first, again))
    return {"page": str(output / PAGE), "pairs": len(pairs)}


def _page(
    title: str, rows: list[tuple[str, ...]], metric: Metric, first: StudyFolder, again: StudyFolder
) -> str:
    lines = [f"# {title}", ""]
    lines += [
        f"{metric.split.capitalize()} {metric.label}: the same arms and seeds, trained twice. The deviation "
        f"of a repetition is that of one run from its mean over repetitions, in {metric.unit}: the root of "
        "half the mean square of the differences by seed. It is a part of the deviation over seeds, and the "
        "whole of it where the correlation is near 0: then a seed does not say how a run ends, and pairs of "
        "seeds cancel nothing.",
        "",
        markdown_table(rows, HEADERS, disable_numparse=True),
        "",
    ]
    for word, folder in (("First", first), ("Again", again)):
        lines += [f"{word}:", "", *told_lines(origin_of(folder)), ""]
    return "\n".join([*lines, f"Every pair: [{CSV}]({CSV})", ""])


def _mean_std(values: dict[int, float], seeds: list[int]) -> str:
    own = [values[seed] for seed in seeds]
    return f"{statistics.mean(own):.2f} ± {statistics.stdev(own):.2f}"
