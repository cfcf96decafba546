import weakref

import numpy as np
import pytest
import torch

from rlv2v_fast.data.video import probe, read_frames, to_tensor
from rlv2v_fast.data.writer import VideoWriter
from rlv2v_fast.errors import InputError
from rlv2v_fast.metrics import psnr, ssim, temporal_difference, temporal_error
from rlv2v_fast.models.rlv2vgan import RLV2VGAN, ModelConfig
from rlv2v_fast.train.evaluate import evaluate
from rlv2v_fast.train.translate import translate_file

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> RLV2VGAN:
    return RLV2VGAN(ModelConfig(width=2, critics=False)).eval()


def write(path, frames, height=24, width=32, fps=5, seed=0):
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 256, (1, height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    video = np.repeat(np.repeat(video, 8, 1), 8, 2)[:, :height, :width]
    video = np.concatenate([np.roll(video, 2 * t, axis=2) for t in range(frames)])
    with VideoWriter(path, width, height, fps) as writer:
        for frame in video:
            writer.write(frame)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webm", ".webp", ""])
def test_a_file_keeps_its_frames_rate_and_odd_size(tmp_path, model, suffix):
    source = write(tmp_path / "in.mp4", 11, height=23, width=37)
    output = tmp_path / f"out{suffix}"
    assert translate_file(model, source, output, chunk=4) == 11
    info = probe(output)
    assert (info.width, info.height) == (37, 23)
    assert len(list(read_frames(output))) == 11
    assert not suffix or info.fps == 5


def test_a_file_is_translated_as_its_tensor_is(tmp_path, model):
    source = write(tmp_path / "in.mp4", 6, height=16, width=16)
    translate_file(model, source, tmp_path / "out", chunk=4)
    expected = model.translate(to_tensor(np.stack(list(read_frames(source)))))
    got = to_tensor(np.stack(list(read_frames(tmp_path / "out"))))
    assert (got - expected).abs().max() <= 0.6 / 127.5  # rounding to bytes, plus the streamed sums' order


def test_directions_differ(tmp_path, model):
    source = write(tmp_path / "in.mp4", 3, height=16, width=16)
    for direction in ("x2y", "y2x"):
        translate_file(model, source, tmp_path / direction, direction=direction)
    a, b = (np.stack(list(read_frames(tmp_path / d))) for d in ("x2y", "y2x"))
    assert (a != b).any()


def test_a_damaged_source_writes_no_output_and_keeps_an_old_one(tmp_path, model):
    source = write(tmp_path / "in.mp4", 30)
    source.write_bytes(source.read_bytes()[:-400])
    output = tmp_path / "out.mp4"
    output.write_bytes(b"precious")
    with pytest.raises(InputError, match=r"in\.mp4"):
        translate_file(model, source, output)
    assert output.read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_evaluate_scores_against_references_of_the_same_name(tmp_path, model):
    for folder in ("source", "reference"):
        (tmp_path / folder).mkdir()
        for index in range(2):
            write(tmp_path / folder / f"{index}.mp4", 4, seed=index)
    scores = evaluate(model, tmp_path / "source", tmp_path / "reference", device=CPU)
    assert [row["video"] for row in scores["videos"]] == ["0", "1"]
    assert scores["mean"]["identity_psnr"] == float("inf")  # the references are the sources themselves
    assert scores["mean"]["identity_ssim"] == pytest.approx(1)
    assert scores["mean"]["psnr"] < 40
    assert scores["mean"]["psnr"] == pytest.approx(np.mean([row["psnr"] for row in scores["videos"]]))


def test_evaluate_without_references_reports_motion_alone(tmp_path, model):
    source = write(tmp_path / "a.mp4", 4)
    assert set(evaluate(model, source, None, device=CPU)["mean"]) == {"temporal_difference"}


def test_evaluate_holds_a_few_frames_however_many_there_are(tmp_path, model, monkeypatch):
    source = write(tmp_path / "a.mp4", 40)
    alive, most = weakref.WeakSet(), []

    def watched(tensor):
        alive.add(tensor)
        most.append(len(alive))
        return tensor

    monkeypatch.setattr("rlv2v_fast.train.frames.to_tensor", lambda frames: watched(to_tensor(frames)))
    monkeypatch.setattr("rlv2v_fast.train.evaluate.to_tensor", lambda frames: watched(to_tensor(frames)))
    scores = evaluate(model, source, source, device=CPU)
    assert scores["mean"]["identity_temporal_error"] == 0
    assert scores["videos"][0]["frames"] == 40
    assert len(most) == 40 // 8 + 40
    assert max(most) <= 8


def test_streamed_scores_are_those_of_whole_videos(tmp_path, model):
    source, reference = write(tmp_path / "a.mp4", 11), write(tmp_path / "b.mp4", 11, seed=1)
    (row,) = evaluate(model, source, reference, device=CPU)["videos"]
    video, truth = (to_tensor(np.stack(list(read_frames(path)))) for path in (source, reference))
    translated = model.translate(video)
    expected = {
        "temporal_difference": temporal_difference(translated),
        "psnr": psnr(translated, truth).mean(),
        "identity_ssim": ssim(video, truth).mean(),
        "temporal_error": temporal_error(translated, truth),
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value.item(), rel=1e-5), name


def test_evaluate_names_a_reference_that_is_missing_or_unfit(tmp_path, model):
    for name in ("source", "reference"):
        (tmp_path / name).mkdir()
    write(tmp_path / "source" / "a.mp4", 4)
    write(tmp_path / "source" / "b.mp4", 4)
    write(tmp_path / "reference" / "a.mp4", 4)
    write(tmp_path / "reference" / "c.mp4", 4)
    with pytest.raises(InputError, match="reference has no video named 'b'"):
        evaluate(model, tmp_path / "source", tmp_path / "reference", device=CPU)
    write(tmp_path / "reference" / "b.mp4", 5)
    with pytest.raises(InputError, match=r"must have the frames and size of its source.*got \(5, 3, 24, 32\)"):
        evaluate(model, tmp_path / "source", tmp_path / "reference", device=CPU)
