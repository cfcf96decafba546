import dataclasses
from pathlib import Path

from rlv2v_fast.train.config import LossConfig, TrainConfig
from rlv2v_fast.train.report.settings import settings


def test_what_differs_comes_first_and_everything_has_a_meaning():
    loss = LossConfig(cycle=1.0, augment=("cutout", "translation"))
    config = dataclasses.replace(TrainConfig(source=Path("/home/me/day"), flip=True), loss=loss)
    found = settings(config)
    changed = {each.name: each.value for each in found if each.is_changed}
    assert changed == {"source": "day", "flip": "yes", "loss.cycle": "1", "loss.augment": "cutout, translation"}
    assert [each.is_changed for each in found] == sorted((each.is_changed for each in found), reverse=True)
    assert all(each.meaning for each in found)
    assert len(found) > 60
