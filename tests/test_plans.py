"""The table of plans: what is made, kept and renewed, and what it says of where each comes from."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from resnet.cli.options import run
from resnet.planning import report
from resnet.planning.compiling import arguments, imagined
from resnet.planning.plan import Plan
from resnet.planning.targets import Target, parse_target
from resnet.runtime.devices import make_mesh
from resnet.training.trainer import make_trainer
from scripts import plans
from tests.planning_cases import stored_step

RESULTS = Path(__file__).parents[1] / "results/plan"


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Calls the script as if a v5e's compiler were here; gives what it compiled."""
    plan = Plan(parse_target("v5e"), stored_step().trainer.config, stored_step(), "", 10**7, 2.5)
    made = []

    def stored(net, target, whose, path):
        made.append((net, whose))
        return {"net": net, "whose": whose} | plan.record() | {"largest_batch": 640}

    def session(command):
        git = {"commit": "0123456789abcdef", "dirty": False}
        return {"command": command, "git": git, "versions": {"jax": "9.9.9"}, "devices": {}}

    monkeypatch.setattr(report, "this_session", session)
    monkeypatch.setattr(plans, "_plan", stored)
    monkeypatch.setattr(plans, "use_no_device", lambda: None)

    def call(*options, compiler="1.2.3"):
        monkeypatch.setattr(Target, "compiler", lambda _: ("libtpu", compiler))
        made.clear()
        run(plans.main, plans.define, ["--targets=v5e", f"--output={tmp_path}", *options])
        return list(made), (tmp_path / "plans.md").read_text()

    return call


def test_plans_are_kept_until_they_are_renewed(make, tmp_path):
    both = [("resnet8", "ours"), ("resnet8", "flax")]
    made, page = make("--nets=resnet8,resnet20x16")
    assert made == [*both, ("resnet20x16", "ours")] and "libtpu 1.2.3" in page and "| 640 " in page
    made, page = make("--nets=resnet8", compiler="4.5.6")
    assert made == [] and "4.5.6" not in page
    made, page = make("--nets=resnet8", "--renew", compiler="4.5.6")
    assert made == both and "libtpu 4.5.6" in page and "libtpu 1.2.3" in page
    origin = json.loads((tmp_path / "resnet8_v5e_ours.json").read_text())["origin"]
    assert "| 0123456789ab |" in page and "0123456789abcdef" in page and f"`{origin['command']}`" in page
    assert "153.6 MB, is copied to another layout" in page
    assert (tmp_path / "plans.png").stat().st_size > 1000


def test_a_plan_without_origin_is_said_to_have_none(make, tmp_path):
    make("--nets=resnet8")
    path = tmp_path / "resnet8_v5e_flax.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "origin": None}))
    _, page = make("--nets=resnet8")
    assert "Commit and versions of the others were not kept." in page


def test_the_page_holds_the_plans_beside_it():
    assert (RESULTS / "plans.md").read_text() == plans.table(plans.read_plans(RESULTS)) + "\n"


@pytest.mark.parametrize("net", ("resnet8", "resnet50_1111"))
def test_a_stock_net_takes_a_step_of_ours(net):
    config, images = plans.config_of(net, devices=1)
    ours = make_trainer(config, imagined(config.data, *images), make_mesh(1), (0,))
    stock = plans._stock(ours, net)
    state, batch = arguments(stock)
    after, metrics = jax.eval_shape(stock.train(), state, batch)
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, state) and "loss" in metrics
    counts = {sum(map(np.size, jax.tree.leaves(each.shapes.params))) for each in (ours, stock)}
    assert len(counts) == 1
