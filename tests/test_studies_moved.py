"""A kept study goes on where its images lie in another folder."""

import pytest

from resnet.config import replaced
from resnet.studies.launch import launch
from resnet.studies.pages.report import write_report
from resnet.studies.study import load_study, with_base
from tests.folder_cases import two_classes
from tests.test_studies_kept import STUDY, fill


@pytest.mark.thorough
def test_a_study_goes_on_from_its_page_with_images_elsewhere(tmp_path):
    file = tmp_path / "study.py"
    file.write_text(STUDY, encoding="utf-8")
    of_files = {"data.name": "image_folder", "data.train_limit": 0, "train.batch_size": 4}
    there, here = (of_files | {"data.dir": str(two_classes(tmp_path / name))} for name in ("there", "here"))
    command = " ".join(f"--config.{name}={value}" for name, value in there.items())
    write_report(fill(file, tmp_path / "kept", changes=there, command=command))
    study = load_study(file, "small")
    study = with_base(study, replaced(study.base, here))
    assert launch(study, tmp_path / "new", kept=tmp_path / "kept", dry_run=True)["not started"] == 0
