"""Claims: rules that turn with their numbers, theory against narrow chains, and the page."""

import dataclasses
import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.analysis import theory
from resnet.analysis.claims import (
    activations,
    dead,
    dense,
    depth,
    folded,
    identity,
    information,
    kept,
    outputs,
    trained,
)
from resnet.analysis.claims.claim import Bench, Claim, Finding, row_of
from resnet.analysis.claims.page import CLAIMS, write_claims
from resnet.analysis.growth import exp_of
from resnet.analysis.laws import NO, YES, Law, all_of, check
from resnet.analysis.subject import of_config
from resnet.config import replaced
from resnet.errors import InputError
from tests.test_analysis_laws import about

CONFIGS = Path(__file__).parents[1] / "configs"
# Narrow and shallow, but wide enough for these rates.
NARROW = {"model.width": 1.0, "model.blocks": (16,)}
EXACT = depth.SPOILT


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    chain, digits, rotation = (
        runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()
        for name in ("chain", "digits_small", "digits_rotation")
    )
    runs = tmp_path_factory.mktemp("runs")
    return Bench(replaced(chain, NARROW), digits, rotation, runs, kept={}, images=8, seeds=1)


ZERO = "share of slopes that are 0"
SLOPES = [
    {"function": "identity", "smallest slope": 1.0, "largest slope": 1.0, ZERO: 0.0},
    {"function": "relu", "smallest slope": 0.0, "largest slope": 1.0, ZERO: 0.5},
    {"function": "sigmoid", "smallest slope": 0.01, "largest slope": 0.25, ZERO: 0.0},
]
INSIDE, AFTER, ON = activations.PLACES
AGAINST = activations.AGAINST
PLACES = [
    {"function": name, "place": place, AGAINST: about(factor, factor / 10)}
    for name, factors in (("identity", (1.0, 1.0, 1.0)), ("relu", (2.0, 1e-3, 300.0)),
                          ("sigmoid", (0.5, 6e4, 1e-9)), ("tanh", (1.0, 1.0, 1.0)))
    for place, factor in zip(activations.PLACES, factors, strict=True)
]  # fmt: skip
LINEAR = [{"activation": "identity", "layers": n, "not affine": 1e-6, "_ranks": [10, 10, 10],
           "_accuracies": [0.95, 0.951, 0.949]}
          for n in (1, 8, 56)]  # fmt: skip
GROWTH = [{"net": "net", "signal": about(1.0), "gradient": about(1.0)}]
GAPS = [{"channels": channels, "images": images, "gap (log)": about(gap, gap / 5),
         depth.OVER: exp_of(about(gap, gap / 5), 27)}
        for channels, images, gap in ((64, 32, 0.02), (256, 32, 0.005), (64, 128, 0.01))]  # fmt: skip
DEAD = [{"net": "none", dead.CHANNELS: about(5.0, 1.0), "_last": last} for last in (False, True)]
GAIN, RATIO = trained.GAIN, trained.RATIO
TRAINED = [{"study": study, "layers": layers, "epochs": epochs, GAIN: about(gain, 1.0),
            RATIO: about(3.0, 1.0)}
           for study, layers, epochs, gain in (
               (trained.HERE, 8, 4, 0.5), (trained.HERE, 8, 15, 0.0), (trained.HERE, 20, 4, 40.0),
               (trained.HERE, 20, 15, 5.0), ("kept", 8, 15, 0.0), ("kept", 56, 15, 60.0))]  # fmt: skip
FOLDED = [{"net": name, folded.APART: 1e-6, "parameters": 100, "parameters, folded": 90,
           "multiply-accumulates": 100, "multiply-accumulates, folded": 90}
          for name in folded.NETS]  # fmt: skip
READING = [{"shortcut": name, "block": 27, "_probe": [x, x + 1, x], "_pixels": [x / 100, x / 100, x / 90]}
           for name, x in (("identity", 90.0), ("none", 15.0))]  # fmt: skip
REGRESSIONS = [{"targets": "outside", "_identity": [5.0, 5.1, 5.2], "_sigmoid": [20.0, 21.0, 22.0],
                "_tanh": [15.0, 16.0, 17.0]}]  # fmt: skip
SATURATION = [{"logit": -10.0, "error, identity": -10.75, "gradient, identity": -10.75,
               "gradient, sigmoid": -3e-5, "gradient, tanh": 0.0}]  # fmt: skip
SHAPES = [
    {"where shapes differ": "pad", "parameters": 0, "multiply-accumulates": 0, "refused": "",
     identity.KEPT: 1.0},
    {"where shapes differ": "projection", "parameters": 160, "refused": "", identity.KEPT: 1.0},
    {"where shapes differ": "none", "refused": "it does not fit"},
]  # fmt: skip
SIGMOID = [{"layers are": "sigmoid", "layers": n, "inputs": 100, "distinct in float32": left,
            information.PROBE: left} for n, left in ((1, 95), (56, 3))]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "rows", "where", "against"),
    [
        (identity.rule_returned, [{"shortcut": "identity"} | dict.fromkeys(identity.CHANGED, 0)], {},
         {identity.CHANGED[1]: 1}),
        (identity.rule_others, [{"shortcut": "0.5 x", identity.LEFT: 1e-16}], {}, {identity.LEFT: 0.5}),
        (identity.rule_costs, [{"shortcut": name, "parameters": 10, "multiply-accumulates": 99}
                               for name in ("none", "identity")],
         {"shortcut": "identity"}, {"parameters": 11}),
        (identity.rule_shapes, SHAPES, {"where shapes differ": "pad"}, {"parameters": 1}),
        (identity.rule_shapes, SHAPES, {"where shapes differ": "projection"}, {"parameters": 0}),
        (identity.rule_shapes, SHAPES, {"where shapes differ": "none"}, {"refused": ""}),
        (identity.rule_preserved, SHAPES, {"where shapes differ": "pad"}, {identity.KEPT: 0.26}),
        (depth.rule_lost_or_blown_up, [{"net": "sigmoid", "gradient": about(1e-34, 1e-36)}], {},
         {"gradient": about(2.0, 0.1)}),
        (depth.rule_kept, GROWTH, {}, {"gradient": about(9e3, 10.0)}),
        (depth.rule_kept, GROWTH, {}, {"signal": about(1e-3, 1e-4)}),
        (depth.rule_not_lost, GROWTH, {}, {"gradient": about(0.1)}),
        (depth.rule_lost, [{"net": "0.5 x", "gradient": about(1e-8, 1e-9)}], {}, {"gradient": about(0.5)}),
        (depth.rule_gap, GAPS, {"channels": 256}, {"gap (log)": about(0.07, 0.001)}),
        (depth.rule_gap, GAPS, {"channels": 256}, {depth.OVER: about(0.15)}),
        (depth.rule_gap, GAPS, {"images": 128}, {"gap (log)": about(0.07, 0.001)}),
        (depth.rule_gap, GAPS, {"images": 128}, {depth.OVER: about(1.7)}),
        (activations.rule_slopes, SLOPES, {"function": "sigmoid"}, {"largest slope": 0.3}),
        (activations.rule_slopes, SLOPES, {"function": "identity"}, {"smallest slope": 0.9}),
        (activations.rule_places, PLACES, {"function": "sigmoid", "place": INSIDE}, {AGAINST: about(0.05)}),
        (activations.rule_places, PLACES, {"function": "sigmoid", "place": INSIDE}, {AGAINST: about(20.0)}),
        (activations.rule_places, PLACES, {"function": "sigmoid", "place": AFTER}, {AGAINST: about(0.6)}),
        (activations.rule_places, PLACES, {"function": "relu", "place": ON}, {AGAINST: about(60.0)}),
        (activations.rule_linear, LINEAR, {"layers": 56}, {"_accuracies": [0.9, 0.901, 0.899]}),
        (activations.rule_linear, LINEAR, {"layers": 8}, {"not affine": 0.1}),
        (activations.rule_linear, LINEAR, {"layers": 8}, {"_ranks": [10, 9, 10]}),
        (information.rule_sigmoid, SIGMOID, {"layers": 56}, {"distinct in float32": 100}),
        (information.rule_sigmoid, SIGMOID, {"layers": 56}, {information.PROBE: 94}),
        (information.rule_reading, READING, {"shortcut": "none"}, {"_probe": [95.0, 96.0, 95.0]}),
        (information.rule_reading, READING, {"shortcut": "identity"}, {"_pixels": [0.05, 0.05, 0.06]}),
        (outputs.rule_saturation, SATURATION, {}, {"gradient, identity": -5.0}),
        (outputs.rule_saturation, SATURATION, {}, {"gradient, tanh": 0.2}),
        (outputs.rule_regressions, REGRESSIONS, {}, {"_sigmoid": [4.0, 4.2, 4.1]}),
        (trained.rule_deep, TRAINED, {"layers": 56}, {GAIN: about(1.5, 0.4)}),
        (trained.rule_shallow, TRAINED, {"study": "kept", "layers": 8}, {GAIN: about(4.9, 2.0)}),
        (trained.rule_shallow, TRAINED, {"layers": 8, "epochs": 4}, {GAIN: about(4.9, 2.0)}),
        (trained.rule_depth, TRAINED, {"study": "kept", "layers": 8}, {GAIN: about(90.0)}),
        (trained.rule_depth, TRAINED, {"layers": 20, "epochs": 4}, {GAIN: about(-5.0)}),
        (trained.rule_budget, TRAINED, {"layers": 20, "epochs": 15}, {GAIN: about(60.0, 1.0)}),
        (trained.rule_budget, TRAINED, {"layers": 8, "epochs": 4}, {GAIN: about(-9.0, 1.0)}),
        (trained.rule_stable, TRAINED, {"layers": 56}, {RATIO: about(0.7, 0.2)}),
        (dead.rule_dead, DEAD, {"_last": True}, {dead.CHANNELS: about(0.0, 0.0)}),
        (folded.rule_folded, FOLDED, {"net": "RepVGG"}, {folded.APART: 0.01}),
        (folded.rule_folded, FOLDED, {"net": "RepVGG"}, {"parameters, folded": 101}),
    ],
)  # fmt: skip
def test_numbers_that_contradict_a_claim_turn_its_verdict(rule, rows, where, against):
    assert all_of(rule(rows)) != NO
    turned = [row | against if all(row[k] == v for k, v in where.items()) else row for row in rows]
    before, after = (Finding(CLAIM, each, rule(each)) for each in (rows, turned))
    assert after.holds == NO and str(after.judged[0]).endswith(": no") and after.judged != before.judged


CLAIM = Claim("It is so", "It must be so.", "It is not.", lambda bench: [], lambda rows: [])


def test_every_rule_that_judges_rows_is_contradicted_above():
    rules = {claim.rule for claim in CLAIMS} - {depth.rule_theory}
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
@pytest.mark.parametrize("name", [*EXACT, "plain, sigmoid"])
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
    assert found[identity.rule_returned].holds == found[identity.rule_costs].holds == YES
    shapes = found[identity.rule_shapes]
    assert (
        shapes.holds == YES
        and "zero padding" in row_of(shapes.rows, **{"where shapes differ": "none"})["refused"]
    )
    assert row_of(shapes.rows, **{"where shapes differ": "pad"})["pixels with a gradient"] == 0.25
    assert found[identity.rule_preserved].holds == NO


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
    assert linear.not_affine < 1e-4 < 0.1 < bent.not_affine
    assert linear.rank <= 10


def test_kept_studies_give_the_finished_runs_of_their_tables(tmp_path):
    for study in kept.STUDIES:
        (tmp_path / study).mkdir()
        (tmp_path / study / "runs.csv").write_text(
            "arm,seed,in_table,state,epoch,test_top1\n"
            "identity-56,0,True,finished,15.0,0.97\nnone-56,0,True,finished,15.0,0.31\n"
            "none-56,1,False,finished,15.0,0.5\nnone-56,2,True,failed,,\nrepvgg-56,0,True,finished,15.0,0.9\n"
        )
    found = kept.load_accuracies(tmp_path)
    expected = {(56, 15, "identity"): {0: 97.0}, (56, 15, "none"): {0: 31.0}}
    assert found == dict.fromkeys(kept.STUDIES, expected)
    study = list(kept.STUDIES)[1]
    path = tmp_path / study / "runs.csv"
    for damaged in (path.read_bytes() + b"none-56,3,True,finished\n", b"\xff", None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"{study}/runs.csv has no accuracies"):
            kept.load_accuracies(tmp_path)


def test_accuracies_are_compared_on_the_seeds_of_both():
    accuracies = {(56, 15, "identity"): {0: 97.0, 1: 98.0, 2: 50.0}, (56, 15, "none"): {0: 31.0, 1: 33.0}}
    accuracies |= {(56, 60, "identity"): {0: 99.0, 1: 98.0}, (56, 60, "none"): {1: 90.0}}  # still running
    accuracies |= {(56, 200, "identity"): {0: 99.0, 1: 98.0}}
    (row,) = trained.compared("kept", accuracies)
    assert (row["n"], row[GAIN].value, row[RATIO].value) == (2, 65.5, pytest.approx(2.0))


def test_the_studies_of_this_repository_can_be_read():
    found = kept.load_accuracies(CONFIGS.parent / "results" / "studies")
    rows = [row for study, accuracies in found.items() for row in trained.compared(study, accuracies)]
    assert {row["study"] for row in rows if row["layers"] == trained.DEEP and row["n"] >= 3} == set(
        kept.STUDIES
    )
    assert {row["epochs"] for row in rows if row["study"] == "budgets"} == {15, 60, 200}


@pytest.mark.thorough
def test_dead_channels_are_counted(bench):
    """An offset shuts the first channel of each of three blocks: 3 of 4 + 8 + 16 channels are dead."""
    config = replaced(bench.digits, {"model.blocks": (1, 1, 1), "model.width": 0.25})
    subject = of_config("dead", config, data="train", images=16)
    assert dead.dead_shares(subject)[0] == 0

    def silence(path, leaf):
        named = [key.key for key in path[-2:]]
        return leaf.at[0].set(-1e3) if named == ["norm1", "bias"] else leaf

    silent = jax.tree.map_with_path(silence, subject.variables)
    channels, units = dead.dead_shares(dataclasses.replace(subject, variables=silent))
    assert channels == pytest.approx(3 / 28)
    # On 64, 16 and 4 pixels, and now and then another unit on so few images.
    assert (64 + 16 + 4) / (4 * 64 + 8 * 16 + 16 * 4) <= units < 0.5


@pytest.mark.thorough
def test_the_page_holds_every_claim_and_its_verdict(bench, tmp_path):
    rows = [{"a": about(1.0), "_flow": None}]
    outcome = theory.measure(depth.SETUPS[EXACT[0]], bench.chain, 4, seeds=1)
    drawn = depth.picture("p.png")([{"net": "net", "_flow": outcome.net.flow}])
    right, wrong = (
        dataclasses.replace(CLAIM, measure=lambda bench: rows, pictures=lambda rows: drawn,
                            rule=lambda rows, law=law: [check("a", rows[0]["a"], law)])
        for law in (Law("equal", 1.0, 1.2), Law("equal", 2.0, 1.2))
    )  # fmt: skip
    found = write_claims([right, wrong], bench, tmp_path, "make claims")
    page = (tmp_path / "claims.md").read_text()
    assert found["holds"] == [YES, NO] and math.isfinite(found["seconds"])
    assert '## <a id="claim-2"></a>2. It is so' in page and "Hypothesis: It must be so." in page
    assert "**Holds: no.** It is not." in page and page.count("It is not.") == 1 and "_flow" not in page
    assert "| 1 [0.99, 1.01] | 2, within a factor of 1.2 | no " in page
    assert "python scripts/claims.py --only=2\n" in page
    assert (tmp_path / "claims" / "p.png").stat().st_size > 10_000
