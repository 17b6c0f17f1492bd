"""The picture of a study's grids of learning rates: one line for each depth, and the rate that is chosen."""

import json

import numpy as np

from resnet.studies.folder import open_folder
from resnet.studies.pages.plots import _rates, depth_series
from resnet.studies.study import Arm
from tests.studies_cases import tiny_config, tiny_study

LOSSES = {8: {0.1: 0.5, 0.2: 0.25, 0.4: 1.0}, 14: {0.1: 0.5, 0.2: 0.75, 0.4: None}}


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
    series = depth_series(folder, {name: folder.grid(name)[0.1] for name in arms})
    (axes,) = _rates(folder, series).axes
    assert axes.get_title() == "identity" and axes.get_xscale() == "log"
    shallow, chosen, deep = axes.get_lines()
    np.testing.assert_allclose(shallow.get_data(), [[0.1, 0.2, 0.4], [0.5, 0.25, 1.0]])
    assert (chosen.get_xdata(), chosen.get_ydata()) == ([0.2], [0.25])
    assert [shallow.get_label(), deep.get_label()] == ["8 layers", "14 layers"]
    assert list(deep.get_xdata()) == [0.05, 0.1, 0.2, 0.4]
    np.testing.assert_array_equal(deep.get_ydata(), [np.nan, 0.5, 0.75, np.nan])
