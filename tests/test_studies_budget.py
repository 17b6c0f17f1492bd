"""Matched budgets: the width or depth that an arm is given, and arms that match arms with a match."""

import dataclasses

import pytest

from resnet.errors import InputError
from resnet.models.config import ModelConfig
from resnet.models.grammar import check_net
from resnet.studies.budget import Match, count, solve
from resnet.studies.study import Arm, resolve
from tests.studies_cases import tiny_study

SHAPES = ((32, 32, 3), 10)


@pytest.mark.thorough
@pytest.mark.parametrize("budget", ("parameters", "macs"))
@pytest.mark.parametrize(
    ("changes", "by", "tolerance"),
    [({"shortcut": "highway"}, "width", 0.02), ({"width": 0.5}, "depth", 0.02), ({}, "width", 0.0)],
)
def test_budgets_are_matched_and_say_what_they_reached(budget, changes, by, tolerance):
    target = count(ModelConfig(depth=56), SHAPES, budget)
    config = ModelConfig(depth=56, **changes)
    reached = solve(config, target, Match("other", budget, by), SHAPES)
    found = dataclasses.replace(config, **{reached.field.removeprefix("model."): reached.value})
    check_net(found)
    assert count(found, SHAPES, budget) == reached.reached
    assert abs(reached.reached / target - 1) <= tolerance
    assert f"{target:,}" in str(reached) and reached.field in str(reached)


@pytest.mark.parametrize("fields", [{"norm": "group", "norm_groups": 8}, {"groups": 8}], ids=str)
def test_a_width_is_found_where_most_widths_are_no_net(fields):
    config = ModelConfig(depth=8, **fields)
    target = count(dataclasses.replace(config, width=2.0), SHAPES, "parameters")
    reached = solve(config, target, Match("other"), SHAPES)
    assert reached.reached == target
    check_net(dataclasses.replace(config, width=reached.value))


def test_a_budget_out_of_reach_is_an_error():
    with pytest.raises(InputError, match="no depth comes near the budget; the nearest is"):
        solve(ModelConfig(width=8), 1000, Match("other", by="depth"), SHAPES)
    for by, fields, reason in (
        ("width", {"shortcut": "idenity"}, "idenity"),
        ("depth", {"groups": 3}, "groups"),
    ):
        with pytest.raises(InputError, match=f"no {by} is a net with the arm's other fields: .*{reason}"):
            solve(ModelConfig(**fields), 100_000, Match("other", by=by), SHAPES)


def test_an_arm_may_match_another():
    arms = {"highway": Arm({"model.shortcut": "highway"}, match=Match("identity")), "identity": Arm()}
    resolved = resolve(tiny_study(arms=arms))
    assert "as identity" in resolved["highway"].matched and not resolved["identity"].matched
    assert resolved["highway"].reference == "identity" and not resolved["identity"].reference


@pytest.mark.parametrize("order", ["abc", "acb", "bac", "bca", "cab", "cba"])
def test_an_arm_that_matches_has_the_budget_of_one_that_matches(order):
    arms = {
        "a": Arm({"model.shortcut": "none"}, match=Match("b")),
        "b": Arm({"model.branch": "bottleneck", "model.depth": 11}, match=Match("c")),
        "c": Arm(),
    }
    found = resolve(tiny_study(arms={name: arms[name] for name in order}, reference="c"))
    assert f"for {found['b'].parameters:,} " in found["a"].matched
    assert f"for {found['c'].parameters:,} " in found["b"].matched


@pytest.mark.parametrize(("first", "second"), [("a", "a"), ("b", "a")])
def test_arms_that_match_each_other_are_refused(first, second):
    arms = {"a": Arm(match=Match(first)), "b": Arm(match=Match(second)), "c": Arm()}
    with pytest.raises(InputError, match="`match` goes round in a circle of arms, .*; one of them must have"):
        resolve(tiny_study(arms=arms, reference="c"))


def test_a_width_that_a_match_solves_for_is_refused():
    arms = {"a": Arm({"model.width": 4.0}, match=Match("c")), "c": Arm()}
    with pytest.raises(
        InputError, match="arm 'a': `model.width` would have no effect: `match` solves for it"
    ):
        resolve(tiny_study(arms=arms, reference="c"))
