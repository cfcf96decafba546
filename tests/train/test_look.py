"""Looks from files, true pairs, and runs that a look settles."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from rlv2v_fast import cli
from rlv2v_fast.data.clips import Domain
from rlv2v_fast.data.video import read_frames
from rlv2v_fast.data.writer import VideoWriter
from rlv2v_fast.errors import InputError
from rlv2v_fast.looks.evidence import ENOUGH, lights_in_the_dark
from rlv2v_fast.looks.look import Look
from rlv2v_fast.models.rlv2vgan import RLV2VGAN
from rlv2v_fast.train.config import OptimConfig
from rlv2v_fast.train.look import model_of, settle
from rlv2v_fast.train.pairs import read_pairs
from rlv2v_fast.train.trainer import Trainer
from tests.train.helpers import small


def scenes(count, frames=4, size=32, seed=0):
    """uint8 (count, frames, size, size, 3), smooth pictures that move."""
    rng = np.random.default_rng(seed)
    clips = []
    for _ in range(count):
        coarse = rng.integers(30, 220, (6, 6, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize((size + frames, size), Image.Resampling.BICUBIC))
        clips.append([picture[:, t : t + size] for t in range(frames)])
    return np.array(clips)


def graded(clips):
    """Darker and warmer."""
    return ((clips / 255) ** 1.5 * [0.95, 0.8, 0.6] * 255).astype(np.uint8)


def lit(clips):
    """Dark, with small lights."""
    dark = clips // 6
    dark[:, :, 4::12, 4::12] = 255
    dark[:, :, 5::12, 4::12] = 255
    return dark


def domains(source, target):
    return {
        name: Domain.from_arrays(list(clips), frames=clips.shape[1], size=clips.shape[2])
        for name, clips in (("x", source), ("y", target))
    }


def write(folder, clips):
    folder.mkdir(parents=True)
    for index, clip in enumerate(clips):
        with VideoWriter(folder / f"{index}.mp4", clip.shape[2], clip.shape[1], 5) as writer:
            for frame in clip:
                writer.write(frame)
    return folder


def test_a_look_settles_what_it_explains():
    found = settle(domains(scenes(6), graded(scenes(4, seed=1))))
    assert found.alone
    assert "a look alone" in str(found)
    video = torch.rand(2, 3, 32, 32) * 2 - 1
    translated = model_of(found).translate(video)
    assert translated[:, 2].mean() < video[:, 2].mean() - 0.1


def test_lights_in_the_dark_ask_for_a_game():
    found = settle(domains(scenes(6), lit(scenes(4, seed=1))))
    assert not found.alone
    assert found.evidence > ENOUGH
    assert "a look and a game" in str(found)


def test_lights_that_the_source_shows_too_are_no_evidence():
    source, target = (torch.from_numpy(lit(scenes(3, seed=s))).movedim(-1, 2) / 127.5 - 1 for s in (0, 1))
    assert lights_in_the_dark(Look.identity(), source, target) < ENOUGH


def test_true_pairs_are_fitted(tmp_path):
    source = scenes(2, seed=2, size=48)
    write(tmp_path / "source", source)
    write(tmp_path / "target", graded(source))
    both = domains(scenes(6), graded(scenes(4, seed=1)))
    test = torch.from_numpy(scenes(2, seed=5)).movedim(-1, 2) / 127.5 - 1
    truth = torch.from_numpy(graded(scenes(2, seed=5))).movedim(-1, 2) / 127.5 - 1
    errors = [
        (settle(both, pairs).estimates["x2y"].look.apply(test) - truth).square().mean() for pairs in (None, tmp_path)
    ]
    assert errors[1] < errors[0] / 4


def test_a_game_learns_from_true_pairs(tmp_path, config):
    source = scenes(2, seed=2)
    write(tmp_path / "source", source[:1])
    write(tmp_path / "target", graded(source[:1]))
    both = domains(scenes(6), lit(scenes(4, seed=1)))
    video = torch.from_numpy(source[1:]).movedim(-1, 2) / 127.5 - 1
    truth = torch.from_numpy(graded(source[1:])).movedim(-1, 2) / 127.5 - 1
    errors = []
    for pairs in (None, tmp_path):
        run = dataclasses.replace(small(config), size=32, window=1, pairs=pairs, optim=OptimConfig(lr=0.01, ema=0.5))
        trainer = Trainer(run, both)
        losses = [trainer.iterate() for _ in range(30)][-1]
        assert ("pairs_y" in losses) == (pairs is not None)
        errors.append((trainer.model.eval().translate(video) - truth).square().mean())
    assert errors[1] < errors[0] / 2


def test_pairs_may_be_pictures(tmp_path):
    clip = scenes(1, size=24)[0]
    for side, frames in (("source", clip), ("target", graded(clip))):
        (tmp_path / side).mkdir()
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(tmp_path / side / f"{index}.png")
    source, target = read_pairs(tmp_path)
    assert len(source) == len(target) == 4
    assert source[0].shape == target[0].shape == (3, 24, 24)


def test_pairs_that_do_not_match_are_refused(tmp_path):
    write(tmp_path / "a" / "source", scenes(2))
    with pytest.raises(InputError, match="pairs/target must be an existing"):
        read_pairs(tmp_path / "a")
    write(tmp_path / "a" / "target", scenes(3))
    with pytest.raises(InputError, match="same names in source and target; '2' is in one alone"):
        read_pairs(tmp_path / "a")
    write(tmp_path / "b" / "source", scenes(1))
    write(tmp_path / "b" / "target", scenes(1, frames=3))
    with pytest.raises(InputError, match="must have the frames and size of its source"):
        read_pairs(tmp_path / "b")


def test_the_command_writes_and_applies_a_look(tmp_path, capsys):
    source, target = write(tmp_path / "x", scenes(3)), write(tmp_path / "y", graded(scenes(2, seed=1)))
    cube = tmp_path / "look.cube"
    cli.main(["look", "--source", str(source), "--target", str(target), "--out", str(cube)])
    assert "LUT_3D_SIZE" in cube.read_text()
    cli.main(["translate", "--model", str(cube), str(source / "0.mp4"), str(tmp_path / "out"), "--quiet"])
    before, after = (np.stack(list(read_frames(path))) for path in (source / "0.mp4", tmp_path / "out"))
    assert after.shape == before.shape
    assert after[..., 2].mean() < before[..., 2].mean() - 10
    with pytest.raises(SystemExit):
        cli.main(["look", "--source", str(source), "--target", str(target), "--out", str(tmp_path / "look.txt")])
    assert "out must end in .cube" in capsys.readouterr().err


def test_a_settled_run_translates_and_cannot_be_run_twice(tmp_path, capsys):
    source, target = write(tmp_path / "x", scenes(3)), write(tmp_path / "y", graded(scenes(2, seed=1)))
    run = tmp_path / "run"
    arguments = ["train", "--source", str(source), "--target", str(target), "--out", str(run), "--look", "auto"]
    arguments += ["--size", "32", "--frames", "4", "--device", "cpu", "--quiet"]
    cli.main(arguments)
    said = capsys.readouterr()
    assert "a look alone" in said.err
    assert "nothing to train" in said.out
    assert json.loads((run / "look.json").read_text())["alone"]
    assert (run / "previews" / "step_00000000.png").is_file()
    cli.main(["translate", "--model", str(run), str(source / "0.mp4"), str(tmp_path / "out"), "--quiet"])
    with pytest.raises(SystemExit):
        cli.main(arguments)
    assert "already holds the best model" in capsys.readouterr().err


def test_a_saved_look_is_loaded_again(tmp_path):
    model = model_of(settle(domains(scenes(6), graded(scenes(4, seed=1)))))
    model.save_pretrained(tmp_path)
    video = torch.rand(2, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(RLV2VGAN.from_pretrained(tmp_path).translate(video), model.translate(video))
