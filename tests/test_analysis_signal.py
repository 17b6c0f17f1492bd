"""The signal question: growth with intervals, depth scans, and what a script writes."""

import json

import numpy as np
import pytest

from resnet.analysis import signal
from resnet.analysis.answer import markdown, write
from resnet.analysis.growth import growth_per_block, power_of_depth
from resnet.analysis.questions import QUESTIONS
from resnet.analysis.subject import at_depth, of_config
from resnet.config import Config
from resnet.errors import InputError
from resnet.models.chain import Flow
from resnet.models.config import ModelConfig
from resnet.models.geometry import blocks_per_stage, count_layers


def tiny(**fields):
    config = Config()
    config.model.family, config.model.blocks, config.model.width = "chain", (3,), 0.25
    for name, value in fields.items():
        setattr(config.model, name, value)
    return config


def test_growth_has_an_interval_that_holds_the_truth():
    rng = np.random.default_rng(0)
    blocks = np.arange(1, 25)
    found = [growth_per_block(rng.normal(np.log(1.4), 0.2, 24), blocks) for _ in range(1000)]
    assert 930 <= sum(estimate.holds(1.4) for estimate in found) <= 970
    assert found[0].n == 18
    assert growth_per_block(np.array([9, 0.1, np.nan, np.inf]), blocks[:4]) is None
    np.testing.assert_allclose(growth_per_block(np.array([9, 0, 1, np.nan]), blocks[:4]).value, np.exp(0.5))
    assert growth_per_block(np.zeros(0), blocks[:0]) is power_of_depth(np.zeros(0), blocks[:0]) is None


def test_polynomial_growth_is_told_from_exponential():
    blocks = np.arange(1, 101)
    found = power_of_depth(1.5 * np.log1p(1 / blocks), blocks)
    np.testing.assert_allclose([found.value, found.low, found.high], 1.5, rtol=1e-6)
    assert power_of_depth(np.full(100, 0.3), blocks).value > 10


def test_depths_are_rounded_to_whole_blocks():
    assert at_depth(tiny(), 100) == {"model.blocks": (49,)}
    assert at_depth(Config(), 55) == {"model.blocks": (9, 9, 9)}
    assert at_depth(Config(), 1) == {"model.blocks": (1, 1, 1)}


@pytest.mark.thorough
def test_a_scan_over_depths_and_seeds():
    subject = of_config("tiny", tiny(shortcut="none"), images=4)
    answer = signal.ask(subject, signal.Options(depths=(4, 10), seeds=2))
    assert [(net.layers, len(net.flow.blocks)) for net in answer.nets] == [(4, 1), (10, 4)]
    assert answer.nets[1].gradient.n == 6
    assert "| 10 |" in markdown(answer).replace("  ", "")


def test_a_table_has_the_numbers_of_the_flow():
    powers = {"x": [0, 1, 2], "branch": [3, 4], "gradient": [7, 6, 4]}  # of ten
    logs = {name: np.log(10) * np.array(values) for name, values in powers.items()}
    flow = Flow(("a", "b"), cosine=np.full(2, 0.5), **logs)
    rows = [(row["gradient to x"], row["gradient to the output"]) for row in signal._blocks(flow)]
    np.testing.assert_allclose(rows, [(7, 6), (6, 4)])
    row = signal._summary(signal.NetFlow(3, flow, None, None, None, None))
    found = row["F(x)/x (median)"], row["gradient, first over last block (log10)"]
    assert found == pytest.approx((1000, 3))


@pytest.mark.thorough
def test_real_images_start_with_the_gradient_of_the_loss():
    subject = of_config("tiny", tiny(zero_head=True), data="train", images=4)
    assert np.isnan(signal.measure_flow(subject).gradient).all()
    assert subject.images.shape == (4, 8, 8, 1)


@pytest.mark.thorough
def test_an_answer_is_three_files(tmp_path):
    subject = of_config("tiny", tiny(), images=4)
    question, options = QUESTIONS["signal"], signal.Options()
    paths = write("signal", question, subject, options, question.ask(subject, options), tmp_path, "as typed")
    assert [path.name for path in paths] == ["signal.json", "signal.md", "signal.png"]
    saved = json.loads(paths[0].read_text())
    assert saved["command"] == "as typed" and saved["options"]["seeds"] == 1
    assert "Root mean squares" in saved["definition"] and "He 2016" in saved["source"]
    assert len(saved["answer"]["nets"][0]["flow"]["gradient"]) == 4
    assert "stage1/block3" in paths[1].read_text() and paths[2].stat().st_size > 10_000


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_has_a_definition_and_a_source(name):
    assert len(QUESTIONS[name].definition) > 100 and "20" in QUESTIONS[name].source


def test_what_cannot_be_asked():
    with pytest.raises(InputError, match="`--data` must be one of noise, train, validation, test"):
        of_config("tiny", tiny(), data="nosie")
    subject = of_config("tiny", tiny(), images=4)
    with pytest.raises(InputError, match="`--statistics` must be one of batch, running"):
        signal.ask(subject, signal.Options(statistics="none"))


@pytest.mark.parametrize(
    ("family", "branch", "depth"),
    [("cifar", "basic", 20), ("wide", "basic", 16), ("cifar", "bottleneck", 20)],
)
def test_layers_are_those_of_the_depth(family, branch, depth):
    config = Config(model=ModelConfig(family=family, branch=branch, blocks=(), depth=depth))
    assert count_layers(config.model, sum(blocks_per_stage(config.model))) == depth
    assert at_depth(config, depth)["model.blocks"] == blocks_per_stage(config.model)
