"""Claims: laws, rules that turn with their numbers, theory against narrow chains, and the page."""

import dataclasses
import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.analysis import theory
from resnet.analysis.claims import activations, dense, depth, identity, information, outputs, trained
from resnet.analysis.claims.claim import Bench, Claim, Finding, row_of
from resnet.analysis.claims.groups import GROUPS
from resnet.analysis.claims.page import write_claims
from resnet.analysis.growth import Estimate, mean_of
from resnet.analysis.laws import NO, UNDECIDED, WITHIN, YES, Law, all_of, check
from resnet.config import replaced

CONFIGS = Path(__file__).parents[1] / "configs"
# Narrow and shallow, but wide enough for these rates.
NARROW = {"model.width": 1.0, "model.blocks": (16,)}
EXACT = ("0.5 x alone", "identity, branch scale 0 (ReZero)", "the same, sigmoid after the sum")


def about(value, half=0.01):
    return Estimate(value, value - half, value + half, 30)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    chain, digits, rotation = (
        runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()
        for name in ("chain", "digits_small", "digits_rotation")
    )
    runs = tmp_path_factory.mktemp("runs")
    return Bench(replaced(chain, NARROW), digits, rotation, runs, images=8, seeds=1)


@pytest.mark.parametrize(
    ("law", "found", "holds"),
    [
        (Law("equal", 1.41), about(1.4, 0.02), YES),
        (Law("equal", 1.2), about(1.4, 0.02), NO),
        (Law("equal", 1.2, 1.2), about(1.4, 0.02), WITHIN),
        (Law("equal", 1.2, 1.1), about(1.4, 0.02), NO),
        # An interval that reaches beyond a bound neither meets it nor contradicts it.
        (Law("at least", 1.39), about(1.4, 0.02), UNDECIDED),
        (Law("at least", 1.43), about(1.4, 0.02), NO),
        (Law("at most", 1.39, 1.01), about(1.4, 0.02), UNDECIDED),
        (Law("within", 1.0), about(-0.5, 0.4), YES),
        (Law("within", 1.0), about(0.0, 1.2), UNDECIDED),
        (Law("within", 1.0), about(-1.5, 0.6), UNDECIDED),
        (Law("within", 1.0), about(-1.5, 0.4), NO),
        (Law("at least", 1.39, 1.01), about(1.4, 0.02), WITHIN),
        (Law("at least", 1.38), about(1.4, 0.02), YES),
        (Law("at most", 1.5), about(1.4, 0.02), YES),
        (Law("at most", 1.3), about(1.4, 0.02), NO),
        (Law("equal", 1.0), None, NO),
        (Law("at most", 1.0), Estimate(0.0, -math.inf, 0.5, 2), NO),
    ],
)
def test_a_law_has_four_verdicts(law, found, holds):
    assert law.judge(found) == holds


def test_several_checks_hold_as_the_least_of_them():
    yes, within, no = (check("x", value, Law("equal", 1.0, 1.5)) for value in (1.0, 1.2, 2.0))
    assert [each.holds for each in (yes, within, no)] == [YES, WITHIN, NO]
    undecided = check("x", about(1.0, 0.5), Law("at least", 1.0))
    assert (all_of([yes, within]), all_of([yes, no, undecided]), all_of([])) == (WITHIN, NO, NO)
    assert all_of([yes, undecided, within]) == UNDECIDED
    assert str(within) == "x: 1.2, expected 1, within a factor of 1.5: within tolerance"


def test_a_rate_is_judged_at_the_depth_that_is_claimed():
    """5 % a block are a factor of 3.7 over 27 blocks."""
    rate = theory.Rate("equal", 1.467)
    assert rate.law().judge(rate.over_depth(about(1.402, 0.017))) == NO
    assert rate.law().judge(rate.over_depth(about(1.46, 0.001))) == WITHIN
    power = theory.Rate("power", 0.5)
    assert power.over_depth(about(0.5)).value == pytest.approx(27**0.5)


ZERO = "share of slopes that are 0"
SLOPES = [
    {"function": "identity", "smallest slope": 1.0, "largest slope": 1.0, ZERO: 0.0},
    {"function": "relu", "smallest slope": 0.0, "largest slope": 1.0, ZERO: 0.5},
    {"function": "sigmoid", "smallest slope": 0.01, "largest slope": 0.25, ZERO: 0.0},
]
INSIDE, AFTER, ON = activations.PLACES
PLACES = [
    {"function": name, INSIDE: about(5.0), AFTER: about(lost, lost / 10), ON: about(lost, lost / 10)}
    for name, lost in (("identity", 5.0), ("relu", 1e-3), ("sigmoid", 1e-9), ("tanh", 0.1))
]
LINEAR = [{"activation": "identity", "layers": n, "distance from affine": 1e-6,
           "_accuracies": [0.95, 0.951, 0.949]}
          for n in (1, 8, 56)]  # fmt: skip
GROWTH = [{"net": "net", "signal": about(1.0), "gradient": about(1.0)}]
WIDTHS = [{"channels": n, "gap (log)": about(1 / n, 0.2 / n)} for n in (16, 64, 256)]
DEAD = "% of channels dead"
GAIN = "the identity's gain"
TRAINED = [{"layers": layers, "epochs": epochs, GAIN: about(gain, 1.0),
            "deviation over seeds, none over identity": about(3.0, 1.0)}
           for layers, epochs, gain in ((8, 4, 0.5), (8, 15, 0.0), (20, 4, 40.0), (20, 15, 5.0))]  # fmt: skip
READING = [{"shortcut": name, "block": 27, "_probe": [x, x + 1, x], "_pixels": [x / 100, x / 100, x / 90]}
           for name, x in (("identity", 90.0), ("none", 15.0))]  # fmt: skip
REGRESSIONS = [{"targets": "outside", "_identity": [5.0, 5.1, 5.2], "_sigmoid": [20.0, 21.0, 22.0],
                "_tanh": [15.0, 16.0, 17.0]}]  # fmt: skip
SATURATION = [{"logit": -10.0, "error, identity": -10.75, "gradient, identity": -10.75,
               "gradient, sigmoid": -3e-5, "gradient, tanh": 0.0}]  # fmt: skip
SHAPES = [
    {"where shapes differ": "pad", "parameters": 0, "multiply-accumulates": 0, "refused": "",
     "of x's squares kept": 1.0},
    {"where shapes differ": "projection", "parameters": 160, "refused": "", "of x's squares kept": 1.0},
    {"where shapes differ": "none", "refused": "it does not fit"},
]  # fmt: skip
SIGMOID = [{"layers are": "sigmoid", "layers": n, "inputs": 100, "told apart in float32": left,
            "linear probe %": left} for n, left in ((1, 95), (56, 3))]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "rows", "where", "against"),
    [
        (identity.rule_path, [{"path": "identity", "changed on the way up": 0, "changed on the way down": 0}],
         {}, {"changed on the way down": 1}),
        (identity.rule_other_paths, [{"path": "0.5 x", "scale of the gradient": 1e-16}], {},
         {"scale of the gradient": 0.5}),
        (identity.rule_costs, [{"shortcut": name, "parameters": 10, "multiply-accumulates": 99}
                               for name in ("none", "identity")],
         {"shortcut": "identity"}, {"parameters": 11}),
        (identity.rule_shapes, SHAPES, {"where shapes differ": "pad"}, {"parameters": 1}),
        (identity.rule_shapes, SHAPES, {"where shapes differ": "projection"}, {"parameters": 0}),
        (identity.rule_shapes, SHAPES, {"where shapes differ": "none"}, {"refused": ""}),
        (identity.rule_handed_on, SHAPES, {"where shapes differ": "pad"}, {"of x's squares kept": 0.26}),
        (depth.rule_lost_or_blown_up, [{"net": "sigmoid", "gradient": about(1e-34, 1e-36)}], {},
         {"gradient": about(2.0, 0.1)}),
        (depth.rule_kept, GROWTH, {}, {"gradient": about(9e3, 10.0)}),
        (depth.rule_kept, GROWTH, {}, {"signal": about(1e-3, 1e-4)}),
        (depth.rule_not_lost, GROWTH, {}, {"gradient": about(0.1)}),
        (depth.rule_lost, [{"net": "0.5 x", "gradient": about(1e-8, 1e-9)}], {}, {"gradient": about(0.5)}),
        (depth.rule_widths, WIDTHS, {"channels": 256}, {"gap (log)": about(0.07, 0.001)}),
        (activations.rule_slopes, SLOPES, {"function": "sigmoid"}, {"largest slope": 0.3}),
        (activations.rule_slopes, SLOPES, {"function": "identity"}, {"smallest slope": 0.9}),
        (activations.rule_places, PLACES, {"function": "sigmoid"}, {INSIDE: about(0.05)}),
        (activations.rule_places, PLACES, {"function": "relu"}, {AFTER: about(0.6)}),
        (activations.rule_linear, LINEAR, {"layers": 56}, {"_accuracies": [0.9, 0.901, 0.899]}),
        (activations.rule_linear, LINEAR, {"layers": 8}, {"distance from affine": 0.1}),
        (information.rule_sigmoid, SIGMOID, {"layers": 56}, {"told apart in float32": 100}),
        (information.rule_sigmoid, SIGMOID, {"layers": 56}, {"linear probe %": 94}),
        (information.rule_reading, READING, {"shortcut": "none"}, {"_probe": [95.0, 96.0, 95.0]}),
        (information.rule_reading, READING, {"shortcut": "identity"}, {"_pixels": [0.05, 0.05, 0.06]}),
        (outputs.rule_saturation, SATURATION, {}, {"gradient, identity": -5.0}),
        (outputs.rule_saturation, SATURATION, {}, {"gradient, tanh": 0.2}),
        (outputs.rule_regressions, REGRESSIONS, {}, {"_sigmoid": [4.0, 4.2, 4.1]}),
        (trained.rule_deep, TRAINED, {"layers": 20, "epochs": 15}, {GAIN: about(1.5, 0.4)}),
        (trained.rule_shallow, TRAINED, {"layers": 8, "epochs": 4}, {GAIN: about(4.9, 2.0)}),
        (trained.rule_budget, TRAINED, {"layers": 20, "epochs": 15}, {GAIN: about(60.0, 1.0)}),
        (trained.rule_stable, TRAINED, {"layers": 8, "epochs": 4},
         {"deviation over seeds, none over identity": about(0.7, 0.2)}),
        (trained.rule_dead, [{"shortcut": "none", "when": "trained", DEAD: about(5.0, 1.0)}], {},
         {DEAD: about(0.0, 0.0)}),
    ],
)  # fmt: skip
def test_numbers_that_contradict_a_claim_turn_its_verdict(rule, rows, where, against):
    assert all_of(rule(rows)) != NO
    turned = [row | against if all(row[k] == v for k, v in where.items()) else row for row in rows]
    before, after = (Finding(CLAIM, each, rule(each)) for each in (rows, turned))
    assert after.holds == NO and after.text != before.text and ": no" in after.text


CLAIM = Claim("It is so", "It must be so.", "python x.py", lambda bench: [], lambda rows: [])


def test_every_rule_that_judges_rows_is_contradicted_above():
    rules = {claim.rule for group in GROUPS.values() for claim in group} - {depth.rule_theory}
    (mark,) = test_numbers_that_contradict_a_claim_turn_its_verdict.pytestmark
    assert rules == {case[0] for case in mark.args[1]}


def test_constants_of_theory():
    assert theory.sigmoid_rest() == pytest.approx(0.6590, abs=1e-4)
    relu = theory.gradient_gain(lambda z: np.maximum(z, 0), lambda z: z > 0, 2.0)
    assert relu == pytest.approx(1, abs=0.05)
    sigmoid = theory.gradient_gain(theory.sigmoid, theory.sigmoid_slope, 1.0)
    assert 0.05 < sigmoid < 1 / 16
    linear = theory.gradient_gain(lambda z: z, np.ones_like, 1.0)
    assert linear == pytest.approx(1)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [EXACT[0], EXACT[2], "plain, sigmoid"])
def test_narrow_chains_follow_theory(bench, name):
    outcome = theory.measure(depth.SETUPS[name], bench.chain, bench.images, seeds=1)
    assert all_of(outcome.checks()) != NO, outcome.checks()
    if name in EXACT:
        law = outcome.setup.gradient.value
        assert outcome.gradient.value == pytest.approx(law, rel=1e-3)
    wrong = dataclasses.replace(outcome.setup, gradient=theory.Rate("equal", 0.9))
    assert all_of(dataclasses.replace(outcome, setup=wrong).checks()) == NO


@pytest.mark.thorough
def test_claims_that_need_no_training(bench):
    found = {claim.rule: claim.test(bench) for claim in identity.CLAIMS}
    assert found[identity.rule_path].holds == found[identity.rule_costs].holds == YES
    shapes = found[identity.rule_shapes]
    assert (
        shapes.holds == YES
        and "zero padding" in row_of(shapes.rows, **{"where shapes differ": "none"})["refused"]
    )
    assert row_of(shapes.rows, **{"where shapes differ": "pad"})["pixels that get gradient"] == 0.25
    assert found[identity.rule_handed_on].holds == NO


def test_a_linear_map_reads_what_is_there_and_nothing_else():
    x = jax.random.normal(jax.random.key(0), (300, 5))
    labels = x.argmax(1)
    assert information.reconstruction(jnp.tanh(x) @ jnp.ones((5, 5)) + x, x) > 0.9
    assert information.reconstruction(jax.random.normal(jax.random.key(1), (300, 5)), x) < 0.1
    assert information.probe(x, labels) > 0.8
    assert information.probe(jnp.zeros_like(x), labels) < 0.4


@pytest.mark.thorough
def test_a_deep_net_of_identities_is_one_linear_map(bench, monkeypatch):
    monkeypatch.setattr(dense, "STEPS", 20)
    data = dense.digits(bench.digits)
    linear, bent = (dense.fit_dense(data, name, 4, seed=0) for name in ("identity", "relu"))
    assert linear.distance_from_affine < 1e-4 < 0.1 < bent.distance_from_affine
    assert linear.rank <= 10


def test_an_interval_of_a_mean():
    found = mean_of([1.0, 2.0, 3.0])
    assert found.value == 2 and found.low == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-4)
    assert mean_of([1.0]) is None and mean_of([1.0, math.nan]) is None


@pytest.mark.thorough
def test_the_page_holds_every_claim_and_its_verdict(bench, tmp_path):
    rows = [{"a": about(1.0), "_flow": None}]
    outcome = theory.measure(depth.SETUPS["0.5 x alone"], bench.chain, 4, seeds=1)
    drawn = depth.picture("p.png")([{"net": "net", "_flow": outcome.net.flow}])
    right, wrong = (
        dataclasses.replace(CLAIM, measure=lambda bench: rows, pictures=lambda rows: drawn,
                            rule=lambda rows, value=value: [check("a", rows[0]["a"], Law("equal", value))])
        for value in (1.0, 2.0)
    )  # fmt: skip
    found = write_claims([right, wrong], bench, tmp_path, "make claims")
    page = (tmp_path / "claims.md").read_text()
    assert found["holds"] == [YES, NO] and math.isfinite(found["seconds"])
    assert '## <a id="claim-2"></a>2. It is so' in page and "Hypothesis: It must be so." in page
    assert "**Holds: no.** a: 1 [0.99, 1.01], expected 2: no." in page and "_flow" not in page
    assert (tmp_path / "claims" / "p.png").stat().st_size > 10_000
