"""The domains of a run, through the cache or without."""

import dataclasses

import pytest

from rlv2v_fast.data.synthetic import write_figure1
from rlv2v_fast.errors import InputError
from rlv2v_fast.train.clips import open_domains
from rlv2v_fast.train.config import TrainConfig


@pytest.fixture
def config(tmp_path):
    write_figure1(tmp_path, 2, 2, frames=4, size=16)
    return TrainConfig(size=16, frames=4, cache=tmp_path / "cache")


def opened(config, folder):
    return open_domains(config, folder / "source", folder / "target")


def test_both_domains_are_in_the_cache(config, tmp_path):
    first = opened(config, tmp_path)
    assert len(list((tmp_path / "cache").glob("*.rgb"))) == 4
    second = opened(dataclasses.replace(config, cache_gib=0), tmp_path)
    assert {d: domain.fingerprint() for d, domain in first.items()} == {
        d: domain.fingerprint() for d, domain in second.items()
    }


def test_without_a_cache_nothing_is_written(config, tmp_path):
    opened(dataclasses.replace(config, cache_gib=0), tmp_path)
    assert not (tmp_path / "cache").exists()


def test_only_videos_of_the_set_are_decoded(config, tmp_path):
    domains = opened(dataclasses.replace(config, few_shot=1), tmp_path)
    assert len(domains["y"].clips) == 1
    assert len(list((tmp_path / "cache").glob("*.rgb"))) == 3


def test_a_users_own_folder_may_fail_but_not_a_given_one(config, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cache .* cannot be written: Not a directory"):
        opened(dataclasses.replace(config, cache=tmp_path / "file" / "c"), tmp_path)
    monkeypatch.setattr("rlv2v_fast.train.clips.default_folder", lambda: tmp_path / "file" / "c")
    with pytest.warns(UserWarning, match="the videos are decoded again at the next start"):
        assert len(opened(dataclasses.replace(config, cache=None), tmp_path)["x"].clips) == 2


def test_a_missing_folder_is_told_before_anything_is_decoded(config, tmp_path):
    with pytest.raises(InputError, match="target must be an existing video file or folder"):
        open_domains(config, tmp_path / "source", tmp_path / "none")
    assert not list((tmp_path / "cache").glob("*.rgb"))
