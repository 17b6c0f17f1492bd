"""Lesions, paths, responses and gates of nets whose answers are known."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.analysis import gates, lesion, paths, responses, signal
from resnet.analysis.answer import markdown
from resnet.analysis.subject import Subject, of_config
from resnet.config import Config
from resnet.errors import InputError

LINEAR = {
    "norm": "none", "activation": "identity", "padding": "circular", "kernel_init": "delta_orthogonal",
    "after_sum": "identity",
}  # fmt: skip


def subject(blocks=4, images=8, **model):
    config = Config()
    config.model.family, config.model.blocks, config.model.width = "chain", (blocks,), 0.25
    for name, value in model.items():
        setattr(config.model, name, value)
    return of_config("tiny", config, images=images)


@pytest.mark.thorough
def test_blocks_that_are_the_identity_can_be_deleted_and_swapped_for_nothing():
    asked = subject(shortcut="rezero", **LINEAR)
    (net,) = lesion.ask(asked, lesion.Options(counts=(1, 2, 9), draws=3)).nets
    assert len(net.deleted) == 4 and set(net.deleted.values()) == {net.intact}
    assert {draw.error for draw in net.several + net.swapped} == {net.intact}
    assert [draw.count for draw in net.several] == [1, 1, 1, 2, 2, 2]
    assert any(draw.tau < 1 for draw in net.swapped)


@pytest.mark.thorough
def test_a_deleted_block_is_the_identity_and_the_net_goes_on():
    asked = subject(blocks=3, **LINEAR)
    stem, *blocks, head = asked.parts()
    logits = head(blocks[2](blocks[0](stem(asked.images))))
    # With these labels the net is always right without block 2, and not with it.
    asked = dataclasses.replace(asked, labels=logits.argmax(1))
    (net,) = lesion.ask(asked, lesion.Options(counts=(), draws=1)).nets
    assert net.deleted["stage1/block2"] == 0 and net.intact > 0


@pytest.mark.thorough
def test_of_a_plain_net_only_blocks_that_keep_the_shape_can_go():
    config = Config()
    config.model.blocks, config.model.width, config.model.shortcut = (2, 1, 2), 0.25, "none"
    (net,) = lesion.ask(of_config("plain", config, images=4), lesion.Options(counts=(1,), draws=1)).nets
    assert list(net.deleted) == ["stage1/block1", "stage1/block2", "stage3/block2"]
    assert net.numbers == [1, 2, 5]


def test_a_lesion_is_drawn_and_tabled():
    net = dataclasses.replace(subject(blocks=2), name="_$x$")
    answer = lesion.ask(net, lesion.Options(counts=(1,), draws=2))
    assert "stage1/block" in markdown(answer)
    assert len(answer.plot().axes) == 3
    hurt = lesion.DamagedNet("n", 0.1, {"a": 0.2, "b": 0.9, "c": 0.3}, [1, 2, 3], [], [])
    assert lesion._single(hurt)["worst block"] == "b"
    assert [text.get_text() for text in answer.plot().legends[0].get_texts()] == ["net _$x$"]


@pytest.mark.thorough
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_paths_of_isometric_branches_weigh_as_their_number_times_scale(scale):
    # Every branch is an orthogonal matrix times scale^2 (two convolutions), the shortcut the identity.
    answer = paths.ask(subject(blocks=6, branch_init_scale=scale, **LINEAR), paths.Options(draws=2))
    gain = scale**2
    np.testing.assert_allclose(answer.draws, np.arange(7)[:, None] * np.log10([[gain, gain]]), atol=1e-4)
    expected = np.array([math.comb(6, k) * gain**k for k in range(7)])
    np.testing.assert_allclose(answer.weight, expected / expected.sum(), rtol=1e-3)
    low, high = answer.effective
    assert answer.weight[low : high + 1].sum() >= paths.CARRIED
    assert (low, high) == {1.0: (1, 5), 0.5: (0, 3)}[scale]  # no fewer lengths carry as much
    share = sum(math.comb(6, k) for k in range(low, high + 1)) / 2**6
    np.testing.assert_allclose(answer.share_of_paths, share)
    assert len(answer.plot().axes) == 3


def test_a_gradient_that_is_zero_has_no_paths():
    with pytest.raises(InputError, match="tiny: no gradient of a finite size reaches the stem"):
        paths.weigh_paths("tiny", np.full((3, 2), -np.inf))


def test_a_plain_net_has_no_paths():
    with pytest.raises(InputError, match="has one path"):
        paths.ask(subject(shortcut="none"), paths.Options())


@pytest.mark.thorough
@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("order", ["postactivation", "preactivation"])
def test_responses_behind_batch_norms_have_deviation_one(order, statistics):
    asked = responses.Options(statistics=statistics)
    (net,) = responses.ask(subject(blocks=2, activation_order=order), asked).nets
    found = {
        name: value for name, value in net.layers.items() if order == "postactivation" or "conv1" in name
    }
    found.pop("stem/conv1")
    assert len(net.layers) == 5 and len(found) == (4 if order == "postactivation" else 2)
    np.testing.assert_allclose([*found.values()], 1, rtol=1e-3)


def test_responses_of_a_linear_net_keep_their_deviation():
    asked = subject(blocks=2, shortcut="none", **LINEAR)
    answer = responses.ask(asked, responses.Options())
    values = np.array([*answer.nets[0].layers.values()])
    np.testing.assert_allclose(values[1:], values[0], rtol=0.05)
    assert len(answer.plot().axes) == 2 and len(answer.tables()["Every layer"]) == 5


@pytest.mark.parametrize("shortcut", ["exclusive_gating", "shortcut_only_gating", "highway"])
def test_a_gate_without_weights_opens_by_its_bias(shortcut):
    norm = "batch" if shortcut == "highway" else "none"
    asked = subject(blocks=2, shortcut=shortcut, gate_bias=-2.0, gate_init="zero", norm=norm)
    answer = gates.ask(asked, gates.Options())
    assert answer.blocks == ["stage1/block1", "stage1/block2"]
    (moment,) = answer.moments
    for values in (moment.mean, moment.lowest, moment.highest):
        np.testing.assert_allclose(values, np.full(2, 1 / (1 + math.exp(2))), rtol=1e-5)
    assert len(answer.plot().axes) == 1


def test_gates_are_told_by_mean_lowest_and_highest_over_images():
    moment = gates._moment(3, np.array([[0.1, 0.5], [0.4, 0.9], [0.5, 0.7]]))
    np.testing.assert_allclose(moment.lowest, [0.1, 0.5])
    np.testing.assert_allclose(moment.mean, [1 / 3, 0.7])
    np.testing.assert_allclose(moment.highest, [0.5, 0.9])


def test_a_run_is_asked_up_to_the_checkpoint_that_is_named(monkeypatch):
    asked = dataclasses.replace(subject(blocks=2, shortcut="rezero", norm="none"), step=4)
    monkeypatch.setattr(gates, "steps_on_disk", lambda workdir: [6, 4, 2])

    def beside(self, workdir, step):
        weights = jax.tree.map(lambda leaf: jnp.full_like(leaf, step), self.variables)
        return dataclasses.replace(self, step=step, variables=weights)

    monkeypatch.setattr(Subject, "beside", beside)
    moments = gates.ask(dataclasses.replace(asked, variables=beside(asked, "", 4).variables), gates.Options())
    assert [(moment.step, moment.mean.tolist()) for moment in moments.moments] == [(2, [2, 2]), (4, [4, 4])]


def test_learned_multipliers_take_the_place_of_gates():
    asked = subject(blocks=4, shortcut="skipinit", alpha_init="inverse_sqrt", norm="none")
    answer = gates.ask(asked, gates.Options())
    np.testing.assert_allclose(answer.moments[0].mean, np.full(4, 0.5))
    with pytest.raises(InputError, match="has no gate"):
        gates.ask(subject(), gates.Options())


@pytest.mark.thorough
def test_the_gradient_of_the_flow_is_the_sum_over_paths():
    asked = subject(blocks=2)
    stem, first, second, _ = asked.parts("batch")
    x0 = stem(asked.images)
    x1 = first(x0)
    top = jax.random.normal(jax.random.key(0), x1.shape)
    whole = first.pull(x0, second.pull(x1, top))
    single = [
        first.pull_through(x0, second.pull_through(x1, top, branch=b), branch=a)
        for a in (True, False) for b in (True, False)
    ]  # fmt: skip
    np.testing.assert_allclose(sum(single), whole, rtol=1e-3, atol=1e-3 * abs(whole).max())
    assert signal.measure_flow(asked).gradient.shape == (3,)
