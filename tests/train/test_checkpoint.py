import math
import os
import pickle
import re
import resource
import shutil
import subprocess
from contextlib import contextmanager

import pytest
import torch

from rlv2v_fast.errors import InputError
from rlv2v_fast.models.rlv2vgan import RLV2VGAN, ModelConfig
from rlv2v_fast.train.checkpoint import (
    best_distance,
    checkpoints,
    load_state,
    model_folder,
    newest_whole,
    remove_unfinished,
    save_best,
    save_checkpoint,
)


@pytest.fixture
def model() -> RLV2VGAN:
    return RLV2VGAN(ModelConfig(width=1, critics=False))


def test_the_newest_are_kept(tmp_path, model):
    for step in (1, 5, 10):
        save_checkpoint(tmp_path, step, model, {"a": 1}, keep=2)
    assert [p.name for p in checkpoints(tmp_path)] == ["step_00000005", "step_00000010"]
    assert load_state(checkpoints(tmp_path)[-1])["step"] == 10


def test_a_failed_write_leaves_nothing_and_the_older_one_whole(tmp_path, model, monkeypatch):
    save_checkpoint(tmp_path, 1, model, {}, keep=1)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(InputError, match=r"checkpoint .* cannot be written: No space left on device"):
        save_checkpoint(tmp_path, 2, model, {}, keep=1)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]


@contextmanager
def files_of_at_most(count):
    """What a full disk does to a process that writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_is_told_in_a_sentence(tmp_path, model):
    save_checkpoint(tmp_path, 1, model, {}, keep=1)
    size = (checkpoints(tmp_path)[0] / "model.safetensors").stat().st_size
    for room, state in (
        (size // 2, 1),
        (2 * size, 2 * size),
    ):  # for half of the model; for the model and half its state
        with (
            files_of_at_most(room),
            pytest.raises(InputError, match=r"checkpoint .*step_00000002 cannot be written: ."),
        ):
            save_checkpoint(tmp_path, 2, model, {"x": torch.zeros(state)}, keep=1)
        assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]
    with files_of_at_most(size // 2), pytest.raises(InputError, match=r"model .*step_00000002 cannot be written: ."):
        save_best(tmp_path, 2, model, 0.5)


def test_unfinished_checkpoints_are_not_seen_and_can_be_removed(tmp_path, model):
    kept = [save_checkpoint(tmp_path, 1, model, {}, keep=1), save_best(tmp_path, 1, model, 0.5)]
    for folder in kept:
        (folder.parent / ".step_00000009.1a2b").mkdir()
    (tmp_path / "checkpoints" / "step_old").mkdir()
    assert checkpoints(tmp_path) == kept[:1]
    remove_unfinished(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("*/*")) == ["step_00000001", "step_00000001", "step_old"]


def test_a_best_model_that_cannot_be_written_leaves_the_old_one(tmp_path, model, monkeypatch):
    assert best_distance(tmp_path) == math.inf
    kept = save_best(tmp_path, 3, model, 0.5)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", fail)
    with pytest.raises(InputError, match=r"model .* cannot be written: No space left on device"):
        save_best(tmp_path, 4, model, 0.25)
    assert list((tmp_path / "best").iterdir()) == [kept]
    assert best_distance(tmp_path) == 0.5
    (kept / "best.json").write_text("{}")
    with pytest.raises(InputError, match=r"best\.json cannot be read"):
        best_distance(tmp_path)


def test_damaged_missing_and_future_states_are_named(tmp_path, model):
    folder = save_checkpoint(tmp_path, 1, model, {"x": torch.zeros(100)}, keep=1)
    (folder / "SHA256SUMS").unlink()
    state = folder / "state.pt"
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        load_state(folder)
    state.write_bytes(b"random bytes")
    with pytest.raises(InputError, match="cannot be read"):
        load_state(folder)
    torch.save({"format": 99}, state)
    with pytest.raises(InputError, match="format 99; this version of rlv2v_fast reads format 1"):
        load_state(folder)
    state.unlink()
    with pytest.raises(InputError, match=r"has no state\.pt"):
        load_state(folder)


def flip(path, at=-1):
    """Change one bit of one byte, by default of the one in the middle."""
    data = bytearray(path.read_bytes())
    data[at if at >= 0 else len(data) // 2] ^= 1
    path.write_bytes(data)


FILES = ["README.md", "SHA256SUMS", "config.json", "model.safetensors", "state.pt"]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_any_file_of_a_checkpoint_is_named(tmp_path, model, name):
    folders = [save_checkpoint(tmp_path, step, model, {"a": 1}, keep=2) for step in (1, 2)]
    assert sorted(p.name for p in folders[1].iterdir()) == FILES
    assert newest_whole(tmp_path) == (folders[1], [])
    flip(folders[1] / name)
    found, errors = newest_whole(tmp_path)
    assert found == folders[0]
    assert re.fullmatch(rf"file '.*step_00000002/{re.escape(name)}' is damaged: .*", str(errors[0]))
    flip(folders[0] / name)
    with pytest.raises(InputError, match=f"step_00000002/{re.escape(name)}' is damaged"):
        newest_whole(tmp_path)


def test_hashes_are_what_sha256sum_checks_and_may_be_missing(tmp_path, model):
    folder = save_checkpoint(tmp_path, 1, model, {"a": 1}, keep=1)
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    (folder / "SHA256SUMS").unlink()
    flip(folder / "README.md")
    assert newest_whole(tmp_path) == (folder, [])
    assert load_state(folder)["a"] == 1


def test_a_damaged_model_is_not_loaded_to_translate(tmp_path, model):
    best = save_best(tmp_path, 3, model, 0.5)
    for name in ("model.safetensors", "config.json"):
        flip(best / name)
        with pytest.raises(InputError, match=rf"{name}' is damaged: its SHA-256"):
            RLV2VGAN.from_pretrained(model_folder(tmp_path))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_no_file_of_a_checkpoint_runs_code(tmp_path, model):
    folder = save_checkpoint(tmp_path, 1, model, {"a": 1}, keep=1)
    (folder / "SHA256SUMS").unlink()
    evil = Evil(tmp_path / "executed")
    for name in ("state.pt", "model.safetensors", "config.json"):
        whole = (folder / name).read_bytes()
        torch.save({"format": 1, "x": evil}, folder / name)
        zipped = (folder / name).read_bytes()
        for data in (zipped, *(pickle.dumps({"format": 1, "x": evil}, protocol) for protocol in (0, 2, 5))):
            (folder / name).write_bytes(data)
            with pytest.raises(InputError, match=re.escape(name)):
                load_state(folder) if name == "state.pt" else RLV2VGAN.from_pretrained(folder)
        (folder / name).write_bytes(whole)
    assert not (tmp_path / "executed").exists()


def test_model_folder_finds_runs_checkpoints_and_saved_models(tmp_path, model):
    saved = save_checkpoint(tmp_path / "run", 3, model, {}, keep=1)
    model.save_pretrained(tmp_path / "saved")
    assert model_folder(tmp_path / "run") == saved
    assert model_folder(saved) == saved
    assert model_folder(tmp_path / "saved") == tmp_path / "saved"
    save_checkpoint(tmp_path / "run", 9, model, {}, keep=1)
    save_best(tmp_path / "run", 2, model, 0.5)
    best = save_best(tmp_path / "run", 5, model, 0.25)
    assert list((tmp_path / "run" / "best").iterdir()) == [best]
    assert model_folder(tmp_path / "run") == best
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds neither a config\.json nor a checkpoint"):
        model_folder(tmp_path / "empty")
    with pytest.raises(InputError, match="is not a folder"):
        model_folder(tmp_path / "missing")


def test_the_card_of_a_checkpoint_tells_settings_but_no_paths(tmp_path):
    model = RLV2VGAN(ModelConfig(width=1, critics=False))
    (tmp_path / "config.yaml").write_text("source: /home/me/day\nseed: 5\n")
    folders = [save_checkpoint(tmp_path, 3, model, {}, keep=1), save_best(tmp_path, 3, model, 0.0261)]
    cards = [(folder / "README.md").read_text() for folder in folders]
    assert all("seed: 5" in card and "/home/me" not in card for card in cards)
    assert "- unpaired distance: 0.0261" in cards[1]
