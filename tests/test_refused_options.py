"""Options that have no meaning beside others are refused before any work, not left out silently."""

import pytest

from resnet.config import Config, save_config
from resnet.data.config import OF_TRAINING
from resnet.runtime import machine
from tests.test_command import assert_refused

REFUSED = {
    "report --workdir=S --output=E": "--output has no meaning with --workdir alone; got 'E'",
    "report --workdir=S --title=Mine": "--title has no meaning with --workdir alone; got 'Mine'",
    "report --workdir=S --config.seed=7": "--config.seed=7 has no meaning with --workdir alone",
    "report --workdir=S --again=T --output=E --config.seed=7": "--config.seed=7 has no meaning with --again",
    "report --runs=a,b --output=E --workdir=S": "--workdir has no meaning with --runs; got 'S'",
    "report --runs=a,b --output=E --again=T": "--again has no meaning with --runs; got 'T'",
    "report --ledger --runs=a,b": "--runs has no meaning with --ledger; got 'a,b'",
    "report --ledger --workdir=S --again=T": "--again has no meaning with --ledger; got 'T'",
    "report --ledger --output=E": "--output has no meaning with --ledger; got 'E'",
    "report --ledger --config.seed=7": "--config.seed=7 has no meaning with --ledger",
    "describe --zoo --config=typo": "--config has no meaning with --zoo; got 'typo'",
    "describe --zoo --config.model.depth=99": "--config.model.depth=99 has no meaning with --zoo",
    "describe --zoo --blocks": "--blocks has no meaning with --zoo; got 'True'",
    "describe --config=digits --compare=digits --blocks": "--blocks has no meaning with --compare",
    "evaluate --workdir=w --data=imagenet_v2 --split=train": "--split has no meaning with --data=imagenet_v2",
    "evaluate --workdir=w --data=imagenet_c --by_class": "--by_class has no meaning with --data=imagenet_c",
    "train --config=digits --workdir=w --trace=t": "--trace has no meaning with a run, only with --dry_run",
    "prepare images --from=a --to=b.tar --dir=c": "--dir has no meaning with images; got 'c'",
    "prepare cifar10 --dir=a --short_side=9": "--short_side has no meaning with cifar10; got '9'",
    "import --source=a --workdir=w --step=3": "--step has no meaning with --source; got '3'",
    "report --runs=a --runs=b --output=E": "--runs is given twice; give all its values at once, with commas",
    "study --study=s --only=a --workdir=w --only=b": "--only is given twice",
    "analyze --question=shattering --config=chain --config.model.norm=none": "`model.norm` would have no",
    "analyze --question=trainability --config=chain --config.model.order=pyramid": "`model.activation_order`",
    "import --export=a --workdir=w --config=digits": "--config has no meaning with --export; got 'digits'",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_has_no_meaning_is_refused(line, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert_refused(monkeypatch, capsys, REFUSED[line], *line.split())
    assert not list(tmp_path.iterdir())


VALUES = {"random_crop_fill": "reflect", "augmentation": "flip", "flip": "True", "alternate_flip": "True"}


@pytest.mark.parametrize("field", OF_TRAINING)
def test_what_is_evaluated_is_not_augmented(field, monkeypatch, capsys, tmp_path):
    save_config(Config(), tmp_path)
    monkeypatch.setattr(machine, "prepare", lambda _: None)  # devices are counted already
    message = f"`data.{field}` would have no effect: it is for images in training; leave it out"
    given = f"--config.data.{field}={VALUES.get(field, '2')}"
    assert_refused(monkeypatch, capsys, message, "evaluate", f"--workdir={tmp_path}", given)
