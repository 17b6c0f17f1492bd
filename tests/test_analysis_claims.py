"""What theory says of chains, held against narrow ones; the page of claims."""

import dataclasses
import math
import runpy
from pathlib import Path

import numpy as np
import pytest

from resnet.analysis import claims, evidence, theory
from resnet.analysis.growth import Estimate
from resnet.config import replaced

CONFIGS = Path(__file__).parents[1] / "configs"
# Narrow and shallow, but wide enough for these rates.
NARROW = {"model.width": 1.0, "model.blocks": (16,)}
EXACT = ("0.5 x alone", "identity, branch scale 0 (ReZero)", "the same, sigmoid after the sum")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    chain, digits = (runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]() for name in
                     ("chain", "digits_small"))  # fmt: skip
    return claims.Bench(replaced(chain, NARROW), digits, tmp_path_factory.mktemp("runs"), images=8, seeds=1)


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
    outcome = theory.measure(evidence.SETUPS[name], bench.chain, bench.images, seeds=1)
    assert outcome.agrees, outcome.row()
    if name in EXACT:
        law = outcome.setup.gradient.value
        assert outcome.gradient.value == pytest.approx(law, rel=1e-3)


def test_laws_tell_agreement_from_disagreement():
    found = Estimate(1.4, 1.38, 1.42, 30)
    for kind, value, agrees in (
        ("equal", 1.41, True), ("equal", 1.2, False), ("power", 2.0, False), ("at least", 1.3, True),
        ("at least", 1.6, False), ("at most", 1.5, True), ("at most", 1.2, False),
    ):  # fmt: skip
        assert theory.Law(kind, value).agrees(found) is agrees
    assert not theory.Law("equal", 1.0).agrees(None)


@pytest.mark.thorough
def test_claims_without_training(bench):
    exact, slopes, output, shape = (
        claim
        for test in (evidence.identity_returns_its_input, evidence.slopes, evidence.output_function,
                     evidence.changes_of_shape)
        for claim in test(bench)
    )  # fmt: skip
    assert [claim.holds for claim in (exact, slopes, output, shape)] == ["yes"] * 4
    assert slopes.rows[2]["largest slope"] == pytest.approx(0.25, abs=1e-4)
    assert [row["parameters"] for row in shape.rows[:2]] == [0, 0]
    assert shape.rows[0]["pixels that get gradient"] == "25%"


def test_the_page_holds_every_claim(bench, tmp_path):
    claim = claims.Claim("It is so", "python x.py", [{"a": 1.0}], "in part", "Mostly.")
    outcome = theory.measure(evidence.SETUPS["0.5 x alone"], bench.chain, 4, seeds=1)
    drawn = dataclasses.replace(claim, pictures={"p.png": evidence._picture([outcome])})
    found = claims.write_page([lambda bench: [claim, drawn]], bench, tmp_path, "make claims")
    page = (tmp_path / "claims.md").read_text()
    assert found["holds"] == ["in part", "in part"] and math.isfinite(found["seconds"])
    assert '## <a id="claim-2"></a>2. It is so' in page and "**Holds: in part.** Mostly." in page
    assert (tmp_path / "claims" / "p.png").stat().st_size > 10_000
