"""What several finished runs of one config, but for the seed, say together."""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import tabulate

from resnet.config import differences, load_saved_config
from resnet.errors import InputError
from resnet.training.records import replacing


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run's result, and the last session that led to it."""

    workdir: Path
    result: dict[str, Any]
    session: dict[str, Any]

    @property
    def seed(self) -> int:
        return self.session["config"]["seed"]


def load_finished(workdir: Path) -> FinishedRun:
    """Reads a workdir; InputError if no run in it has come to its end."""
    if not (workdir / "result.json").is_file():
        raise InputError(f"{workdir} holds no finished run (no result.json); train it to the end first")
    result = json.loads((workdir / "result.json").read_text())
    session = json.loads((workdir / "run.json").read_text())["sessions"][-1]
    return FinishedRun(workdir, result, session)


def check_one_config(runs: list[FinishedRun]) -> None:
    """Raises InputError unless the runs differ in their seeds alone."""
    first = load_saved_config(runs[0].workdir)
    for run in runs[1:]:
        others = [name for name, *_ in differences(first, load_saved_config(run.workdir)) if name != "seed"]
        if others:
            raise InputError(
                f"{run.workdir} differs from {runs[0].workdir} in {', '.join(others)}; "
                "summarise runs that differ in their seeds alone"
            )


def metric_of(run: FinishedRun) -> str:
    """top1 of a classifier, mae of a regression."""
    return "top1" if "top1" in run.result else "mae"


def summarize(runs: list[FinishedRun]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of the test metric of the last weights."""
    check_one_config(runs)
    metric = metric_of(runs[0])
    values = [run.result[metric] for run in runs]
    return {
        "metric": metric,
        "n": len(values),
        "mean": statistics.mean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "seconds": statistics.median(run.result["seconds"] for run in runs),
    }


def write_page(runs: list[FinishedRun], summary: dict[str, Any], title: str, path: Path) -> None:
    """A Markdown page: the summary, a row for each seed, and how to run it again."""
    metric = summary["metric"]
    scale = 100 if metric == "top1" else 1
    unit = " %" if metric == "top1" else ""
    value, seeds = f"{scale * summary['mean']:.2f}", "one seed"
    if summary["std"] is not None:
        value += f" ± {scale * summary['std']:.2f}"
        seeds = f"mean ± standard deviation, {summary['n']} seeds"
    formats = {metric: ".4f", "loss": ".4f", "n": "", "step": "", "seconds": ".1f"}
    formats["images_per_second"] = ".0f"
    rows = [(run.seed, *(run.result[column] for column in formats)) for run in runs]
    session = runs[0].session
    lines = [
        f"# {title}",
        "",
        f"Test {metric} of the last weights: **{value}**{unit} ({seeds}), "
        f"{summary['seconds']:.0f} s a run (median, compilation included).",
        "",
        tabulate.tabulate(rows, ("seed", *formats), tablefmt="github", floatfmt=("", *formats.values())),
        "",
        f"Command: `{session['command']}`  ",
        *(f"Commit: {commit}  " for commit in sorted({_commit(run) for run in runs})),
        f"Machine: {session['devices']}  ",
        f"Versions: {session['versions']}",
        "",
    ]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines))


def _commit(run: FinishedRun) -> str:
    git = run.session["git"] or {"commit": "unknown", "dirty": False}
    return git["commit"] + (" and uncommitted changes" if git["dirty"] else "")
