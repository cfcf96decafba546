"""Frames one by one."""

import numpy as np
import pytest
import torch

from rlv2v_fast.models.rlv2vgan import RLV2VGAN, ModelConfig


@pytest.fixture(scope="module")
def model():
    return RLV2VGAN(ModelConfig(width=2, critics=0)).eval()


@pytest.fixture
def video():
    return torch.randint(256, (5, 3, 19, 21), dtype=torch.uint8)


def test_a_stream_is_the_translation_of_its_video(model, video):
    streamed = torch.stack(list(model.stream(video)))
    assert streamed.dtype == torch.uint8
    assert (streamed.int() - model.translate(video).int()).abs().max() <= 1  # the order of sums, before rounding
    floats = video / 127.5 - 1
    torch.testing.assert_close(torch.stack(list(model.stream(floats, "y2x"))), model.translate(floats, "y2x"))


def test_arrays_come_back_as_arrays(model, video):
    frames = [frame.movedim(0, -1).numpy() for frame in video]
    for frame, expected in zip(model.stream(iter(frames)), model.stream(video), strict=True):
        assert isinstance(frame, np.ndarray)
        assert np.array_equal(frame, expected.movedim(0, -1).numpy())


def test_no_frame_waits_for_the_next(model, video):
    given = []

    def camera():
        for frame in video:
            given.append(frame)
            yield frame

    for count, _ in enumerate(model.stream(camera()), start=1):
        assert len(given) == count


def test_a_camera_may_write_into_the_same_memory(model, video):
    memory = np.empty((19, 21, 3), np.uint8)

    def camera():
        for frame in video:
            memory[:] = frame.movedim(0, -1).numpy()
            yield memory

    for frame, expected in zip(model.stream(camera()), model.stream(video), strict=True):
        assert np.array_equal(frame, expected.movedim(0, -1).numpy())


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (
            [torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)],
            r"frame 1 must be like the first, Tensor of torch.float32 \(3, 8,",
        ),
        ([torch.zeros(3, 8, 8), np.zeros((8, 8, 3), np.uint8)], "got ndarray of uint8"),
        ([torch.zeros(8, 8)], r"frames must have shape \(C, H, W\); got \(8, 8\)"),
        ([np.zeros((8, 8), np.uint8)], r"frames must have shape \(H, W, C\); got \(8, 8\)"),
        ([np.zeros((8, 8, 3))], "frames that are arrays must be uint8; got float64"),
        ([torch.full((3, 8, 8), 255.0)], r"video must be floats in \[-1, 1\] or uint8"),
    ],
)
def test_frames_that_do_not_fit_are_named(model, frames, message):
    with pytest.raises(ValueError, match=message):
        list(model.stream(frames))
