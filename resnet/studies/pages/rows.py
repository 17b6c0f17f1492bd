"""What a study's folder says, as rows: one for each run, one for each arm with its comparison."""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from resnet.config import CONFIG_FILE, Config, config_hash, load_saved_config
from resnet.errors import InputError
from resnet.runs.metrics.records import read_metrics
from resnet.runs.provenance import commit, last_session
from resnet.studies.folder import FAILURE, FINISHED, StudyFolder, StudyRun, curve, images_of
from resnet.studies.pages.statistics import Comparison, Summary, compare, holm, summarize
from resnet.studies.study import ResolvedArm

TEST, VALIDATION = "test", "validation"


@dataclasses.dataclass(frozen=True)
class Metric:
    """What is compared: its name in results, the label of an axis, and the factor on its values."""

    name: str
    label: str
    factor: float
    unit: str
    """Of a difference."""
    split: str = TEST
    """test, or validation where the data have no test images."""


TOP1 = Metric("top1", "accuracy (%)", 100.0, "points")
MAE = Metric("mae", "mean absolute error", 1.0, "same unit")


@dataclasses.dataclass(frozen=True)
class ArmRow:
    """A row of the table; values are of the last epoch's weights on the test split."""

    arm: str
    parameters: int
    macs: int
    expected: int
    """Seeds that the study asks for; runs of the grid, where no learning rate can be chosen."""
    summary: Summary | None
    epochs: float | None
    """Epoch of the last weights."""
    reference: str
    comparison: Comparison | None
    """With the reference; None for the reference itself, or without common seeds."""
    p_holm: float | None
    """Of the t test, corrected for all comparisons of the study."""
    failed: int


def metric_of(folder: StudyFolder) -> Metric:
    """MAE for regressions, else top1, of the split that all runs were scored on; InputError without one."""
    runs = [run for name in folder.arms for run in folder.runs(name) if run.state == FINISHED]
    metric = MAE if any("mae" in run.result for run in runs) else TOP1
    first = {split_of(run): run for run in reversed(runs) if split_of(run) in (TEST, VALIDATION)}
    if len(first) > 1:
        raise InputError(
            f"{first[VALIDATION].workdir} was scored on validation images, as its data have no others, and "
            f"{first[TEST].workdir} on test images; report them apart"
        )
    return dataclasses.replace(metric, split=next(iter(first), TEST))


def scores(folder: StudyFolder, name: str, metric: Metric) -> dict[int, float]:
    """Scores of the finished runs of an arm, by seed, in the metric's unit.

    {} for an arm that found no learning rate, as its runs were at several.
    """
    values = {run.seed: value_of(run, metric.name) for run in _scored(folder, name)}
    return {seed: metric.factor * value for seed, value in values.items() if value is not None}


def split_of(run: StudyRun) -> str:
    """The split that the scores of a finished run are of; "none" where no images were left to judge it by."""
    return run.result.get("split", TEST)


def value_of(run: StudyRun, name: str) -> float | None:
    """A number of a run's result; None where it has no such number."""
    value = run.result.get(name)
    return value if isinstance(value, int | float) else None


def arm_rows(folder: StudyFolder) -> list[ArmRow]:
    """The table, p-values corrected for all comparisons in it."""
    metric = metric_of(folder)
    values = {name: scores(folder, name, metric) for name in folder.arms}
    comparisons = {
        name: compare(values[name], values[arm.reference]) if arm.reference else None
        for name, arm in folder.arms.items()
    }
    corrected = holm([c.p if c else None for c in comparisons.values()])
    return [
        ArmRow(
            arm=name,
            parameters=arm.parameters,
            macs=arm.macs,
            # Of a grid, the table has the seeds at the chosen rate.
            expected=len(folder.seeds)
            if arm.learning_rates and not folder.has_no_rate(name)
            else folder.expected(name),
            summary=summarize(list(values[name].values())),
            epochs=max((last_epoch(run) for run in folder.runs(name) if run.state == FINISHED), default=None),
            reference=arm.reference,
            comparison=comparisons[name],
            p_holm=p,
            failed=sum(run.state == FAILURE for run in folder.runs(name)),
        )
        for (name, arm), p in zip(folder.arms.items(), corrected, strict=True)
    ]


def last_epoch(run: StudyRun) -> float:
    """Epoch of a run's last record."""
    if run.kept:
        return float(run.kept["epoch"] or 0)
    return max((record["epoch"] for record in read_metrics(run.workdir)), default=0.0)


def run_rows(folder: StudyFolder) -> list[dict[str, Any]]:
    """One row for each run, of the table and of the grid, whatever its state."""
    rows = []
    for name, arm in folder.arms.items():
        counted = {run.workdir for run in folder.runs(name)}
        for run in folder.all_runs(name):
            if run.kept:
                rows.append(run.kept | {"in_table": run.workdir in counted})
                continue
            config, result = _config_of(run, arm), run.result
            session = last_session(run.workdir)
            test = result if split_of(run) == TEST else {}
            validation = result if split_of(run) == VALIDATION else result.get("validation") or {}
            rows.append(
                {
                    "arm": name,
                    "seed": run.seed,
                    "learning_rate": config.schedule.learning_rate,
                    "in_table": run.workdir in counted,
                    "state": run.state,
                    "reason": run.reason,
                    **{f"test_{key}": test.get(key) for key in ("top1", "top5", "mae", "loss", "n")},
                    **{f"validation_{key}": validation.get(key) for key in ("top1", "mae", "loss")},
                    "step": result.get("step"),
                    "epoch": last_epoch(run) or None,
                    "parameters": arm.parameters,
                    "macs": arm.macs,
                    "seconds": result.get("seconds"),
                    "seeds_together": result.get("seeds_together"),
                    "seconds_per_step_and_seed": seconds_per_step(folder, run),
                    "config_hash": config_hash(config),
                    "commit": commit(session) if session else None,
                    "test_images": images_of(run, TEST),
                    "workdir": _place(folder, run),
                }
            )
    return rows


def scored_runs(folder: StudyFolder) -> dict[str, list[StudyRun]]:
    """The finished runs of each arm that has some, without arms that found no learning rate."""
    return {name: runs for name in folder.arms if (runs := _scored(folder, name))}


def _scored(folder: StudyFolder, name: str) -> list[StudyRun]:
    if folder.has_no_rate(name):
        return []
    return [run for run in folder.runs(name) if run.state == FINISHED]


def curve_rows(scored: Mapping[str, Sequence[StudyRun]], metric: Metric) -> list[dict[str, Any]]:
    """Computes the learning curves of each arm from the records of its runs.

    Runs without records are left out. A row is one metric at one epoch that all other runs of the arm
    recorded: the mean over these n runs, the lowest and the highest value, in the unit of the records.
    """
    rows = []
    for name, runs in scored.items():
        for split, key in itertools.product(("train", VALIDATION), ("loss", metric.name)):
            series = [values for run in runs if (values := curve(run, split, key))]
            for epoch in sorted(set.intersection(*map(set, series))) if series else ():
                values = [each[epoch] for each in series]
                found = {"mean": statistics.mean(values), "lowest": min(values), "highest": max(values)}
                numbers = {column: float(f"{value:.6g}") for column, value in found.items()}
                rows.append(
                    {"arm": name, "split": split, "metric": key, "epoch": epoch, "n": len(series)} | numbers
                )
    return rows


def _config_of(run: StudyRun, arm: ResolvedArm) -> Config:
    """The config that a run was trained with; its arm may have other values where they decide no number."""
    if (run.workdir / CONFIG_FILE).exists():
        return load_saved_config(run.workdir)
    return arm.at(run.seed, run.learning_rate)


def seconds_per_step(folder: StudyFolder, run: StudyRun) -> float | None:
    """A run's share of the time of a training step, which seeds that are trained together share."""
    if run.kept:
        return run.kept["seconds_per_step_and_seed"]
    rate = run.result.get("images_per_second")
    return folder.arms[run.arm].config.train.batch_size / rate if rate else None


def images_of_arms(folder: StudyFolder, split: str) -> dict[str, set[str]]:
    """The fingerprints of the images that the runs of each arm were scored on, where they were noted."""
    return {
        name: {images_of(run, split) for run in folder.runs(name) if run.state == FINISHED} - {""}
        for name in folder.arms
    }


def _place(folder: StudyFolder, run: StudyRun) -> str:
    inside = run.workdir.is_relative_to(folder.workdir)
    return (run.workdir.relative_to(folder.workdir) if inside else run.workdir).as_posix()
