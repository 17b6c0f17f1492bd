"""Several seeds of one config as one page, several configs in one plot."""

import json
import statistics

import pytest

from resnet.config import Config, config_to_dict, save_config
from resnet.errors import InputError
from resnet.studies.comparison import curve, group_by_config, plot_comparison
from resnet.studies.summary import load_finished, summarize, write_page


def finished(workdir, seed, top1, depth=20):
    workdir.mkdir()
    config = Config(seed=seed)
    config.model.depth = depth
    save_config(config, workdir)
    result = {"top1": top1, "loss": 0.1, "n": 360, "step": 9, "seconds": 5.0, "images_per_second": 70.0}
    session = {
        "command": "python scripts/train.py",
        "git": {"commit": "abc", "dirty": True},
        "config": config_to_dict(config),
        "devices": {"backend": "cpu"},
        "versions": {"jax": "0.10.2"},
    }
    (workdir / "result.json").write_text(json.dumps(result))
    (workdir / "run.json").write_text(json.dumps({"sessions": [session]}))
    return load_finished(workdir)


def test_mean_and_deviation_over_seeds(tmp_path):
    values = (0.9, 0.8, 0.85)
    runs = [finished(tmp_path / str(seed), seed, value) for seed, value in enumerate(values)]
    summary = summarize(runs)
    assert summary["n"] == 3 and summary["metric"] == "top1"
    assert summary["mean"] == pytest.approx(0.85) and summary["std"] == pytest.approx(
        statistics.stdev(values)
    )
    write_page(runs, summary, "Three seeds", tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "**85.00 ± 5.00** %" in page and "abc and uncommitted changes" in page
    assert [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("|")][2:] == list(
        "012"
    )


def test_one_seed_has_no_deviation(tmp_path):
    runs = [finished(tmp_path / "0", 0, 0.9)]
    assert summarize(runs)["std"] is None
    write_page(runs, summarize(runs), "One seed", tmp_path / "page.md")
    assert "**90.00** % (one seed)" in (tmp_path / "page.md").read_text()


def test_runs_of_two_configs_are_not_mixed(tmp_path):
    runs = [finished(tmp_path / "a", 0, 0.9), finished(tmp_path / "b", 1, 0.9, depth=56)]
    with pytest.raises(InputError, match="differs from .* in model.depth; summarise runs that differ"):
        summarize(runs)


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no finished run .*; train it to the end first"):
        load_finished(tmp_path)


def write_metrics(workdir, values):
    lines = [
        {"step": step, "epoch": float(step), "split": split, "loss": 1.0, "top1": value}
        for step, value in enumerate(values, 1)
        for split in ("train", "validation")
    ]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_runs_are_grouped_by_what_differs_and_drawn(tmp_path):
    for name, depth, seed, values in (
        ("a", 20, 0, [0.1, 0.5]),
        ("b", 20, 1, [0.3, 0.7, 0.9]),
        ("c", 56, 0, [0.2]),
    ):
        finished(tmp_path / name, seed, 0.9, depth)
        write_metrics(tmp_path / name, values)
    workdirs = [tmp_path / name for name in "abc"]
    groups = group_by_config(workdirs)
    assert groups == {"model.depth=20": workdirs[:2], "model.depth=56": workdirs[2:]}
    # The third epoch is left out: one of the two runs has not come that far.
    assert curve(workdirs[:2], "train", "top1") == ([1.0, 2.0], [[0.1, 0.5], [0.3, 0.7]])
    counts = plot_comparison(workdirs, "depth", tmp_path / "plot.png")
    assert counts == {"model.depth=20": 2, "model.depth=56": 1}
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
