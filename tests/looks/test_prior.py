"""The shipped look prior, on looks that it has not seen."""

import pytest
import torch

from rlv2v_fast.looks import prior
from rlv2v_fast.looks.look import Look


def clips(seed, count=4):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count * 2, 3, 7, 7, generator=generator) * 0.8 + 0.1
    smooth = torch.nn.functional.interpolate(coarse, 48, mode="bicubic").clamp(0, 1)
    return smooth.unflatten(0, (count, 2)) * 2 - 1


def dark(video):
    return (((video + 1) / 2) ** 1.8 * torch.tensor([0.95, 0.8, 0.7])[:, None, None]) * 2 - 1


def test_a_look_is_recognised_on_other_scenes():
    found = prior.estimate(clips(0, 6), dark(clips(1, 6)))
    test = clips(2)
    error = (found.look.apply(test) - dark(test)).square().mean()
    assert error < (test - dark(test)).square().mean() / 3
    assert found.spread > 0


def test_sizes_lengths_and_counts_may_differ():
    source, target = clips(0, 14), torch.nn.functional.interpolate(dark(clips(1, 1))[0], (40, 90))[None]
    first, again = prior.estimate(source, target), prior.estimate(source, target)
    assert torch.equal(first.look.table, again.look.table)
    assert torch.isfinite(first.look.table).all()


def test_one_grey_clip_a_side_is_borne():
    grey = torch.zeros(1, 1, 3, 8, 8)
    assert torch.isfinite(prior.estimate(grey, grey).look.apply(grey)).all()


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3, 8, 8), torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8)])
def test_other_clips_are_refused(wrong):
    with pytest.raises(ValueError, match=r"target must be floating point of shape \(N, T, 3, H, W\)"):
        prior.estimate(clips(0), wrong)


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    damaged = tmp_path / "prior.safetensors"
    data = bytearray(prior.WEIGHTS.read_bytes())
    data[-100] ^= 1
    damaged.write_bytes(data)
    monkeypatch.setattr(prior, "WEIGHTS", damaged)
    with pytest.raises(ValueError, match="must have the SHA-256"):
        prior.load(damaged)


def test_the_mixture_lies_between_its_parts():
    closed = prior.estimate(clips(0), dark(clips(1))).closed
    parts = torch.stack([Look.identity().table, *closed.tables()[:2]])
    assert (closed.mixture().table <= parts.amax(0) + 1e-6).all()
    assert (closed.mixture().table >= parts.amin(0) - 1e-6).all()
