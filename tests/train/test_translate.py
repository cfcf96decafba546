import warnings
import weakref
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from rlv2v_fast.data.video import probe, read_frames, read_timed, to_tensor
from rlv2v_fast.data.writer import VideoWriter
from rlv2v_fast.errors import InputError
from rlv2v_fast.metrics import psnr, ssim, temporal_difference, temporal_error
from rlv2v_fast.models.rlv2vgan import RLV2VGAN, ModelConfig
from rlv2v_fast.train.evaluate import evaluate
from rlv2v_fast.train.translate import translate_file
from tests.data.helpers import UNEVEN, beeps, clicks, flashes, flashing, gray, make

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


class Same:
    """A model that changes nothing, and counts the frames that it saw."""

    device = CPU

    def __init__(self):
        self.frames = 0

    def translate_stream(self, pieces, direction):
        for piece in pieces:
            self.frames += piece.shape[1]
            yield piece


def translated(source, output, **settings):
    """Translate by Same; the frames translated, and what was told."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        count = translate_file(Same(), source, output, **settings)
    return count, [str(warning.message) for warning in told]


@pytest.mark.parametrize(
    ("source", "output"),
    [
        *(("s.mp4", output) for output in ("o.mp4", "o.mov", "o.mkv", "o.webm", "o.avi")),
        *((source, "o.mp4") for source in ("s.mkv", "s.ts", "s.mov")),
    ],
)
def test_thirty_then_five_frames_a_second_stay_in_time(tmp_path, source, output):
    audio = [("aac", 48000, "mono", clicks(5), 0)]
    make(tmp_path / source, flashing(UNEVEN), UNEVEN, Fraction(5), audio=audio)
    count, told = translated(tmp_path / source, tmp_path / output)
    assert count == 75
    shown, heard = flashes(tmp_path / output)[0], beeps(tmp_path / output)[0]
    assert shown == pytest.approx([0, 1, 2, 3, 4], abs=0.04)
    assert heard == pytest.approx([0, 1, 2, 3, 4], abs=0.04)
    assert beeps(tmp_path / output)[1] >= beeps(tmp_path / source)[1] - 0.03
    assert bool(told) == (output == "o.avi")


@pytest.mark.parametrize("output", ["o.gif", "o.webp", "frames"])
def test_flashes_stay_in_time_without_sound(tmp_path, output):
    source = make(tmp_path / "s.mp4", flashing(UNEVEN), UNEVEN, Fraction(5))
    _, told = translated(source, tmp_path / output)
    white = [(frame.start, frame.pixels.mean() > 128) for frame in read_timed(tmp_path / output, Fraction(30))]
    assert [start for i, (start, is_) in enumerate(white) if is_ and not (i and white[i - 1][1])] == [0, 1, 2, 3, 4]
    at = "it shows 30 frames a second at a constant rate: 75 frames are repeats, and 0 of the source are left out"
    assert told == ([f"{tmp_path / output}: {at}"] if output == "frames" else [])


@pytest.mark.parametrize("output", ["o.mp4", "o.webm", "o.avi", "o.gif", "frames"])
@pytest.mark.parametrize(("fps", "seen"), [(Fraction(10), 35), (Fraction(50), 75)])
def test_a_rate_that_is_asked_for_is_constant(tmp_path, output, fps, seen):
    source = make(tmp_path / "s.mp4", flashing(UNEVEN), UNEVEN, Fraction(5))
    count, told = translated(source, tmp_path / output, fps=fps)
    # Frames that nobody sees are not translated.
    assert count == seen
    assert told == []
    starts = [frame.start for frame in read_timed(tmp_path / output, fps)]
    assert starts == [i / fps for i in range(int(5 * fps))]


def test_a_rate_of_a_folder_is_that_of_its_pictures(tmp_path):
    for index in range(4):
        Image.new("RGB", (16, 16), (index, 0, 0)).save(tmp_path / f"{index}.png")
    assert translated(tmp_path, tmp_path / "o.mp4", fps=Fraction(10)) == (4, [])
    assert probe(tmp_path / "o.mp4").fps == 10


def test_more_frames_than_a_gif_can_show_are_thinned_and_told(tmp_path):
    starts = [Fraction(i, 60) for i in range(60)]
    source = make(tmp_path / "s.mp4", [gray(4 * i) for i in range(60)], starts, Fraction(1), rate=60)
    count, (told,) = translated(source, tmp_path / "o.gif")
    assert count == 50
    assert "it shows 50 frames a second at a constant rate: 0 frames are repeats, and 10 of the source" in told


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".webp", ".avi"])
def test_gif_delays_are_kept(tmp_path, suffix):
    delays = [100, 500, 40, 260, 100]
    pictures = [Image.new("RGB", (16, 16), (50 * i, 0, 0)) for i in range(5)]
    pictures[0].save(tmp_path / "s.gif", save_all=True, append_images=pictures[1:], duration=delays)
    translated(tmp_path / "s.gif", tmp_path / f"o{suffix}")
    changes, before = [], -99
    for frame in read_timed(tmp_path / f"o{suffix}"):
        if abs(int(frame.pixels[8, 8, 0]) - before) > 20:
            changes.append(float(frame.start))
        before = int(frame.pixels[8, 8, 0])
    assert changes == pytest.approx([0, 0.1, 0.6, 0.64, 0.9], abs=0.011 if suffix != ".avi" else 0.03)


@pytest.mark.parametrize("kind", ["s.mp4", "frames"])
def test_the_source_is_never_replaced(tmp_path, kind):
    source = make(tmp_path / "s.mp4", [gray(90)] * 3)
    if kind == "frames":
        source = tmp_path / "frames"
        translated(tmp_path / "s.mp4", source)
    before = list(read_frames(source))
    (tmp_path / f"link{source.suffix}").symlink_to(source)
    for output in (source, tmp_path / f"link{source.suffix}"):
        with pytest.raises(InputError, match="must not be the input"):
            translated(source, output)
    assert np.array_equal(list(read_frames(source)), before)


def test_what_reading_changes_is_told(tmp_path):
    rgba = np.full((32, 32, 4), (255, 0, 0, 128), np.uint8)
    source = make(tmp_path / "s.mov", [rgba] * 2, codec="png", pixels="rgba", given="rgba")
    _, told = translated(source, tmp_path / "o.mp4")
    assert told == [f"{source}: it is transparent in part: it is put on black"]
    assert np.abs(next(read_frames(tmp_path / "o.mp4"))[8, 8].astype(int) - (128, 0, 0)).max() < 5


@pytest.mark.parametrize(("size", "matrix"), [((1280, 720), 1), ((640, 480), 5)])
@pytest.mark.parametrize("output", ["frames", "o.mkv"])
def test_untagged_colours_are_kept(tmp_path, size, matrix, output):
    red = np.full((size[1], size[0], 3), (198, 28, 28), np.uint8)
    source = make(tmp_path / "s.mkv", [red], codec="ffv1", matrix=matrix)
    translated(source, tmp_path / output)
    assert np.abs(next(read_frames(tmp_path / output))[8, 8].astype(int) - (198, 28, 28)).max() <= 3


@pytest.mark.parametrize("generator", ["unet", "local", "look"])
def test_a_file_is_the_same_whatever_memory_is_allowed(tmp_path, generator):
    model = RLV2VGAN(ModelConfig(width=2, critics=0, generator=generator)).eval()
    source, told = write(tmp_path / "in.mp4", 5), []
    for name, memory in (("few", 0.001), ("many", 100)):
        translate_file(model, source, tmp_path / name, memory=memory, tell=told.append)
    few, many = (np.stack(list(read_frames(tmp_path / name))) for name in ("few", "many"))
    assert (few == many).all()
    assert [sentence.partition(" in ")[0] for sentence in told] == ["a frame of 32x24 pixels cannot be divided"]


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
