import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlv2v_fast.models.generator import START, Generator
from rlv2v_fast.models.predictor import Predictor


def video(batch=1, frames=5, dtype=torch.float64):
    return torch.rand(batch, frames, 3, 16, 16, dtype=dtype) * 2 - 1


def test_architecture_is_the_generators():
    predictor, generator = Predictor(3, norm="instance").state_dict(), Generator(3, norm="instance").state_dict()
    assert {name: tensor.shape for name, tensor in predictor.items()} == {
        name: tensor.shape for name, tensor in generator.items()
    }


def test_with_the_generators_weights_it_is_the_generator():
    predictor, generator = Predictor(2).eval(), Generator(2).eval()
    predictor.load_state_dict(generator.state_dict())
    clip = video(dtype=torch.float32)
    assert torch.equal(predictor(clip), generator(clip))


@given(batch=st.integers(1, 2), frames=st.integers(2, 5), norm=st.sampled_from(["batch", "instance"]))
@settings(max_examples=6, deadline=None)
def test_one_pass_gives_the_forecast_of_every_prefix(settled, batch, frames, norm):
    predictor, clip = settled(Predictor(2, norm=norm).double()), video(batch, frames)
    forecasts = predictor(clip)
    for t in range(1, frames):
        # Other lengths, other orders of summation: float64 keeps them to 1e-10.
        torch.testing.assert_close(predictor(clip[:, :t])[:, -1], forecasts[:, t - 1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_forecast_does_not_see_the_frame_it_forecasts(settled, norm):
    predictor, clip = settled(Predictor(2, norm=norm)), video(dtype=torch.float32)
    forecasts = predictor(clip)
    for t in range(1, 5):
        changed = clip.clone()
        changed[:, t:] *= -1
        # Frame t is forecast at index t - 1.
        assert torch.equal(predictor(changed)[:, t - 1], forecasts[:, t - 1])


def test_a_stream_can_be_forecast_frame_by_frame(settled):
    predictor, clip = settled(Predictor(2).double()), video()
    state, parts = START, []
    for frame in clip.split(1, dim=1):
        part, state = predictor.stream(frame, state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), predictor(clip), rtol=0, atol=1e-10)
