"""What a study's page and its messages must not leave unsaid: other data, arms that went, other code."""

import csv
import dataclasses
import json

import pytest

from resnet.config import replaced, save_config
from resnet.data.datasets import load_dataset
from resnet.errors import InputError
from resnet.fields import check_types
from resnet.models.counts import count_parts, totals
from resnet.runs.task import FILE as TASK
from resnet.runs.task import save_task, task_of
from resnet.studies.budget import Match
from resnet.studies.collected import collect
from resnet.studies.kept import CSV, PAGE, open_study
from resnet.studies.pages.recording import record
from resnet.studies.pages.report import write_report
from resnet.studies.stored import FILE, load_folder, open_folder, save_folder
from resnet.studies.study import Arm, Origin, resolve
from tests.folder_cases import noted
from tests.studies_cases import tiny_config, tiny_study


def finish(run, config, split="test", images=None):
    """A finished run, scored on a split; `images` is the fingerprint of that split."""
    run.mkdir(parents=True)
    save_config(config, run)
    save_task(task_of(load_dataset(config.data)), run)
    if images:
        task = json.loads((run / TASK).read_text())
        (run / TASK).write_text(json.dumps(task | {"fingerprint": {split: images}}))
    score = {"top1": 0.5 + 0.1 * config.seed, "loss": 0.1, "n": 30}
    result = {"split": split, **score, "step": 8, "validation": {"top1": 0.25, "loss": 2.0}}
    (run / "result.json").write_text(json.dumps(result))
    records = (
        {"step": 8, "epoch": 2.0, "split": name, "top1": 0.5, "loss": 1.0} for name in ("train", split)
    )
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


def study_in(tmp_path, **fields):
    folder = open_folder(tiny_study(**fields), tmp_path, "python scripts/study.py")
    save_folder(folder)
    return folder


def test_each_arm_is_counted_on_its_own_data():
    """Images of another size and fewer classes change parameters and multiply-accumulates."""
    arms = {
        "identity": Arm(),
        "larger": Arm({"data.name": "synthetic"}),
        "fewer": Arm({"data.classes": ("0", "1", "2")}),
    }
    for name, arm in resolve(tiny_study(arms=arms)).items():
        data = load_dataset(arm.config.data)
        counted = totals(count_parts(arm.config.model, data.num_outputs, data.image_shape))
        assert (arm.parameters, arm.macs) == counted, name
    target = resolve(tiny_study(arms=arms))["larger"].macs
    arms |= {
        "matched": Arm({"data.name": "synthetic", "model.shortcut": "none"}, match=Match("larger", "macs"))
    }
    assert resolve(tiny_study(arms=arms))["matched"].macs == target


@pytest.mark.parametrize("split", ("test", "validation"))
def test_a_page_names_the_split_that_its_scores_are_of(split, tmp_path):
    folder = study_in(tmp_path)
    for name in folder.arms:
        for seed in folder.seeds:
            run = folder.run(name, seed, None).workdir
            finish(run, folder.arms[name].at(seed), split)
    write_report(load_folder(tmp_path))
    page, other = (tmp_path / PAGE).read_text(), {"test": "validation", "validation": "test"}[split]
    assert f"{split} accuracy (%)" in page and f"{split} loss" in page
    assert f"{other} accuracy (%)" not in page
    assert ("the data have no test images" in page) == (split == "validation")
    row = next(csv.DictReader((tmp_path / CSV).read_text().splitlines()))
    assert row[f"{split}_top1"] == "0.5" and (row["test_n"] == "30") == (split == "test")


def test_scores_of_two_splits_are_not_compared(tmp_path):
    runs = [
        finish(tmp_path / split / f"seed{seed}", tiny_config_of(seed, width), split)
        for split, width in (("test", 0.25), ("validation", 0.5))
        for seed in (0, 1)
    ]
    with pytest.raises(
        InputError, match="scored on validation images, .* and .* on test images; report them"
    ):
        write_report(collect(runs, tmp_path / "page", "Runs"))


def test_scores_on_other_images_are_told(tmp_path):
    runs = [
        finish(tmp_path / f"{width}" / f"seed{seed}", tiny_config_of(seed, width), images=images)
        for width, images in ((0.25, "30 images, a"), (0.5, "30 images, b"))
        for seed in (0, 1)
    ]
    write_report(collect(runs, tmp_path / "page", "Runs"))
    assert "different test images: width 0.5 and width 0.25" in (tmp_path / "page" / PAGE).read_text()
    (tmp_path / "0.5" / "seed0" / TASK).write_bytes((tmp_path / "0.25" / "seed0" / TASK).read_bytes())
    (tmp_path / "0.5" / "seed1" / TASK).write_bytes((tmp_path / "0.25" / "seed1" / TASK).read_bytes())
    write_report(collect(runs, tmp_path / "page", "Runs"))
    assert "different" not in (tmp_path / "page" / PAGE).read_text()


def test_scores_of_one_arm_on_several_sets_of_images_are_told(tmp_path):
    runs = [
        finish(tmp_path / f"seed{seed}", tiny_config_of(seed, 0.25), images=f"30 images, {seed}")
        for seed in (0, 1)
    ]
    write_report(collect(runs, tmp_path / "page", "Runs"))
    assert (
        "Runs of one arm were scored on different test images: all.**"
        in (tmp_path / "page" / PAGE).read_text()
    )


def tiny_config_of(seed, width):
    config = tiny_config()
    config.seed, config.model.width = seed, width
    return config


def test_the_ledger_takes_no_scores_on_validation(tmp_path):
    folder = study_in(tmp_path, arms={"identity": Arm()}, seeds=(0,))
    finish(folder.run("identity", 0, None).workdir, folder.arms["identity"].at(0), "validation")
    path = tmp_path / FILE
    origin = {"file": "s.py", "scale": "small", "changes": {}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"origin": origin}))
    with pytest.raises(InputError, match="the ledger holds test errors of classifiers"):
        record(tmp_path, tmp_path / "ledger.csv")


def test_arms_that_ran_and_were_removed_are_told(tmp_path, caplog):
    folder = study_in(tmp_path)
    finish(folder.run("none", 0, None).workdir, folder.arms["none"].at(0))
    for _ in range(2):  # at every later start
        save_folder(open_folder(tiny_study(arms={"identity": Arm()}), tmp_path, ""))
        assert "has no more: none." in caplog.text
        caplog.clear()
    write_report(open_study(tmp_path))
    assert "arms ran that it has no more: none." in (tmp_path / PAGE).read_text()
    assert load_folder(tmp_path).gone == ("none",)
    assert open_folder(tiny_study(), tmp_path, "").gone == ()  # it is back


def test_an_arm_that_never_began_goes_without_a_word(tmp_path):
    study_in(tmp_path)
    assert open_folder(tiny_study(arms={"identity": Arm()}), tmp_path, "").gone == ()


def test_an_arm_of_other_code_is_named_and_nothing_is_to_be_deleted(tmp_path):
    study_in(tmp_path)
    path = tmp_path / FILE
    path.write_text(path.read_text().replace('"shortcut": "none"', '"shortcut": "mine"'))
    with pytest.raises(InputError, match="arm 'none' is of other code: .*got 'mine'; go back to") as told:
        load_folder(tmp_path)
    assert "delete" not in str(told.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    (
        ({"arms": {"identity": Arm({"seed": 7})}}, "arm 'identity': `seed` would have no effect: .*`seeds`"),
        ({"arms": {"identity": Arm({"train.seeds": 4})}}, "`train.seeds` would have no effect"),
        (
            {"arms": {"identity": Arm({"schedule.learning_rate": 0.2}, learning_rates=(0.1, 0.05))}},
            r"`schedule.learning_rate` would have no effect: .*\(0.1, 0.05\)",
        ),
        ({"arms": {}}, "`arms` of the study is empty"),
        (
            {"base": replaced(tiny_config(), {"train.seeds": 5})},
            "`train.seeds` must be 1 in a study, .* got 5",
        ),
        (
            {
                "origin": Origin("s.py", "small", {"model.order": "original"}),
                "arms": {"identity": Arm({"model.activation_order": "preactivation"})},
            },
            "`model.activation_order` would have no effect: every arm of the study sets it; leave it out",
        ),
        ({"origin": Origin("s.py", "small", {"seed": 9})}, "`seed` would have no effect: .*; leave it out"),
        (
            {
                "origin": Origin("s.py", "small", {"schedule.learning_rate": 1.0}),
                "learning_rates": (0.1, 0.2),
            },
            "`schedule.learning_rate` would have no effect",
        ),
    ),
)
def test_what_would_have_no_effect_is_refused(fields, message, tmp_path):
    study = tiny_study(**fields)
    with pytest.raises(InputError, match=message):
        open_folder(study, tmp_path, "")
    if study.origin:  # a study that was begun so can be read
        assert resolve(study)


def test_arms_that_set_a_field_of_the_command_line_are_named(tmp_path, monkeypatch):
    lines = noted(monkeypatch)
    arms = {"identity": Arm(), "none": Arm({"model.shortcut": "none"})}
    changes = {"model.shortcut": "projection", "train.batch_size": 8}
    open_folder(tiny_study(arms=arms, origin=Origin("s.py", "small", changes)), tmp_path, "")
    assert lines == ["`model.shortcut` has no effect on the arms that set it, or choose it: none"]


def test_arms_that_choose_what_the_command_line_sets_are_named(tmp_path, monkeypatch):
    lines = noted(monkeypatch)
    arms = {"identity": Arm(), "none": Arm({"model.shortcut": "none"}, learning_rates=(0.1, 0.2))}
    changes = {"schedule.learning_rate": 0.3}
    open_folder(tiny_study(arms=arms, origin=Origin("s.py", "small", changes)), tmp_path, "")
    assert lines == ["`schedule.learning_rate` has no effect on the arms that set it, or choose it: none"]


def test_fields_without_effect_are_named(tmp_path, monkeypatch):
    lines = noted(monkeypatch)
    arms = {
        "none": Arm({"model.shortcut": "none", "model.shortcut_scale": 0.25}),
        "half": Arm({"model.shortcut": "constant_scaling", "model.shortcut_scale": 0.25}),
    }
    changes = {"model.gate_bias": -6.0, "model.branch_scale": 0.25}
    base = replaced(tiny_config(), changes)
    study = tiny_study(base=base, arms=arms, reference="none", origin=Origin("s.py", "small", changes))
    open_folder(study, tmp_path, "")
    assert lines == [
        "`model.gate_bias` has no effect on any arm: it is for `model.shortcut` exclusive_gating, "
        "shortcut_only_gating, highway",
        "arm none: `model.shortcut_scale` has no effect: it is for `model.shortcut` constant_scaling, "
        "decayed_identity",
    ]


def test_a_list_for_a_tuple_is_shown_as_one():
    @dataclasses.dataclass
    class Given:
        seeds: tuple[int, ...]

    with pytest.raises(InputError, match=r"`Given.seeds` must .*got \[0, 1\]; write \(0, 1\)"):
        check_types(Given([0, 1]))
