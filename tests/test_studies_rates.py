"""The pictures of arms that differ in one amount: the grids of learning rates, and the last scores."""

import json

import numpy as np

from resnet.models.geometry import block_specs
from resnet.studies.pages import plots
from resnet.studies.pages.amounts import DEPTH, DURATION, TOP, WIDTH, draw_grids, draw_last, series_of
from resnet.studies.pages.plots import plot_study
from resnet.studies.pages.rows import TOP1, curve_rows, metric_of, scored_runs
from resnet.studies.stored import open_folder
from resnet.studies.study import Arm
from tests.studies_cases import tiny_config, tiny_study

LOSSES = {8: {0.1: 0.5, 0.2: 0.25, 0.4: 1e6}, 14: {0.1: 0.5, 0.2: 0.75, 0.4: None}}


def drawn_of(folder):
    return set(plot_study(folder, [], curve_rows(scored_runs(folder), metric_of(folder))))


def test_the_loss_at_each_rate_is_drawn_for_each_depth(tmp_path):
    """Where a run failed there is no point; a grid whose end wins goes on, and chooses nothing yet."""
    base = tiny_config()
    base.model.blocks = ()
    arms = {f"identity-{depth}": Arm({"model.depth": depth}) for depth in LOSSES}
    study = tiny_study(
        base=base, arms=arms, reference="identity-8", seeds=(0,), learning_rates=(0.1, 0.2, 0.4)
    )
    folder = open_folder(study, tmp_path, "")
    for depth, losses in LOSSES.items():
        for rate, loss in losses.items():
            workdir = folder.place(f"identity-{depth}", 0, rate)
            workdir.mkdir(parents=True)
            result = {"top1": 0.5, "step": 8, "validation": {"top1": 0.5, "loss": loss}}
            (workdir / "result.json").write_text(json.dumps(result))
    series = series_of(DEPTH, folder, {name: folder.grid(name)[0.1] for name in arms})
    (axes,) = draw_grids(DEPTH, folder, series).axes
    assert axes.get_title() == "identity" and axes.get_xscale() == "log"
    shallow, chosen, deep = axes.get_lines()
    np.testing.assert_allclose(shallow.get_data(), [[0.1, 0.2, 0.4], [0.5, 0.25, TOP]])
    assert (chosen.get_xdata(), chosen.get_ydata()) == ([0.2], [0.25])
    assert [shallow.get_label(), deep.get_label()] == ["8 layers", "14 layers"]
    assert list(deep.get_xdata()) == [0.05, 0.1, 0.2, 0.4]
    np.testing.assert_array_equal(deep.get_ydata(), [np.nan, 0.5, 0.75, np.nan])


def test_the_last_scores_are_drawn_over_the_length_of_the_training(tmp_path):
    scores = {"none-2": 0.25, "none-4": 0.5, "identity-2": 0.75, "identity-4": 1.0}
    arms = {
        name: Arm({"train.duration": f"{name[-1]} epochs", "model.shortcut": name[:-2]}) for name in scores
    }
    folder = open_folder(tiny_study(arms=arms, reference="identity-2", seeds=(0,)), tmp_path, "")
    for name, top1 in scores.items():
        workdir = folder.place(name, 0, None)
        workdir.mkdir(parents=True)
        (workdir / "result.json").write_text(json.dumps({"split": "test", "top1": top1, "step": 8}))
        lines = ({"split": "train", "step": 4 * n, "epoch": n, "top1": top1 / n, "loss": 1.0} for n in (1, 2))
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    finished = {name: folder.runs(name) for name in arms}
    assert not series_of(DEPTH, folder, finished)
    series = series_of(DURATION, folder, finished)
    assert series == {"none": {2: "none-2", 4: "none-4"}, "identity": {2: "identity-2", 4: "identity-4"}}
    training, test = draw_last(DURATION, folder, series, finished, metric_of(folder)).axes
    assert test.get_xlabel() == "length of the training (epochs)" and test.get_xscale() == "log"
    np.testing.assert_allclose(test.get_lines()[0].get_data(), [[2, 4], [25, 50]])
    np.testing.assert_allclose(training.get_lines()[2].get_data(), [[2, 4], [37.5, 50]])
    assert drawn_of(folder) == {"duration.png", "curves.png"}
    # As where only the result of an earlier start is kept.
    (folder.place("none-4", 0, None) / "metrics.jsonl").unlink()
    (test,) = draw_last(DURATION, folder, series, finished, metric_of(folder)).axes
    assert test.get_ylabel() == "test accuracy (%)"
    assert drawn_of(folder) == {"duration.png"}
    np.testing.assert_allclose(test.get_lines()[0].get_data(), [[2, 4], [25, 50]])


def test_an_arm_without_a_rate_is_in_no_picture_of_scores(tmp_path):
    """One arm has a failed seed and a finished one at each rate, so that no rate can be chosen."""
    arms = {f"none-{n}": Arm({"train.duration": f"{n} epochs"}) for n in (2, 4, 8)}
    study = tiny_study(arms=arms, reference="none-2", learning_rates=(0.1, 0.2, 0.4), grid_seeds=2)
    folder = open_folder(study, tmp_path, "")
    for name in [*arms] * 9:  # as the grid of the last one grows
        for run in (run for run in folder.all_runs(name) if not run.over):
            run.workdir.mkdir(parents=True)
            top1 = 0.5 + 0.1 * (run.learning_rate == 0.2)
            done = {"split": "test", "top1": top1, "step": 8, "validation": {"top1": top1, "loss": 1.0}}
            failed = name == "none-8" and run.seed == 1
            (run.workdir / ("failed.json" if failed else "result.json")).write_text(
                json.dumps({"failed": "nan", "step": 1} if failed else done)
            )
            line = {"split": "train", "step": 8, "epoch": 1, "top1": 0.5, "loss": 1.0}
            (run.workdir / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert folder.has_no_rate("none-8") and folder.chosen_rate("none-2") == 0.2
    assert drawn_of(folder) == {"duration.png", "rates.png", "curves.png"}
    curves = curve_rows(scored_runs(folder), TOP1)
    assert {row["arm"] for row in curves} == {"none-2", "none-4"}
    drawn = plots._of_runs(folder, {name: folder.runs(name) for name in arms}, TOP1, curves)
    for axes in drawn["duration.png"].axes:
        assert list(axes.get_lines()[0].get_xdata()) == [2, 4]
    labels = [line.get_label() for line in drawn["curves.png"].axes[0].get_lines()]
    assert labels == ["none-2 (n = 2)", "none-4 (n = 2)"]


def test_without_any_rate_no_curves_are_drawn(tmp_path):
    """One of two seeds fails at each rate, so that no rate is chosen."""
    study = tiny_study(arms={"none": Arm()}, reference="none", learning_rates=(0.1,), grid_seeds=2)
    folder = open_folder(study, tmp_path, "")
    for _ in range(9):  # as the grid grows
        for run in (run for run in folder.all_runs("none") if not run.over):
            run.workdir.mkdir(parents=True)
            done = {"split": "test", "top1": 0.5, "step": 8, "validation": {"top1": 0.5, "loss": 1.0}}
            file, text = ("failed.json", {"failed": "nan", "step": 1}) if run.seed else ("result.json", done)
            (run.workdir / file).write_text(json.dumps(text))
            line = {"split": "train", "step": 8, "epoch": 1, "top1": 0.5, "loss": 1.0}
            (run.workdir / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert folder.has_no_rate("none") and not drawn_of(folder)


def test_two_arms_of_one_width_are_on_two_lines(tmp_path):
    """Their learning rates differ: neither takes the other's place."""
    rates = {"optimizer.lr_multipliers": (("dense/kernel", 0.5),)}
    changes = {"a-1": 1, "b-1": 1, "a-2": 2, "b-2": 2}
    arms = {
        name: Arm({"model.width": float(width)} | (rates if name[0] == "b" else {}))
        for name, width in changes.items()
    }
    folder = open_folder(tiny_study(arms=arms, reference="a-1", seeds=(0,)), tmp_path, "")
    series = series_of(WIDTH, folder, {name: folder.runs(name) for name in arms})
    channels = block_specs(folder.arms["a-1"].config.model)[0].width
    lines = [{channels: f"{name}-1", 2 * channels: f"{name}-2"} for name in "ab"]
    assert series == {"a-1": lines[0], "b-1": lines[1]}
