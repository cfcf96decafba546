import pytest
import torch

from rlv2v_fast.models.discriminator import Discriminator
from rlv2v_fast.models.local import LocalGenerator, PatchDiscriminator
from rlv2v_fast.nn.pixel_map import FourierFeatures


def video(batch=2, frames=3, channels=3, height=16, width=12, dtype=torch.float32):
    return torch.rand(batch, frames, channels, height, width, dtype=dtype) * 2 - 1


def test_fourier_features_keep_colour_and_place_and_add_sines():
    features = FourierFeatures(3, 5, 8.0)
    frames = video()[0]
    out = features(frames)
    assert out.shape == (3, 10, 16, 12)
    assert torch.equal(out[:, :3], frames)
    assert out[0, 3, :, 0].tolist() == pytest.approx(torch.linspace(-1, 1, 16).tolist(), abs=2e-7)
    assert out[0, 4, 0].tolist() == pytest.approx(torch.linspace(-1, 1, 12).tolist(), abs=2e-7)
    assert out[:, 5:].abs().max() <= 1


def test_fourier_features_are_fast_in_colour_and_slow_in_place():
    weight = FourierFeatures(3, 2000, 8.0).project.weight
    assert weight[:, :3].std().item() == pytest.approx(8, rel=0.1)
    assert weight[:, 3:].std().item() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("autocast", [False, True])
def test_low_precision_clips_are_translated_by_precise_weights(autocast):
    generator, clip = LocalGenerator(4).eval(), video(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found, expected = generator(clip), generator(clip.float())
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(1, 1, 3, 1, 1), (2, 3, 3, 7, 5), (1, 2, 3, 16, 24)])
def test_in_eval_mode_clips_of_any_size_are_translated_in_range(shape):
    generator = LocalGenerator(4).eval()
    with torch.no_grad():
        generator.head.bias.copy_(torch.tensor([3.0, -3.0, 0.0, 0.0, 0.0, 0.0]))
    clip = torch.rand(shape) * 2 - 1
    output = generator(clip)
    assert output.shape == clip.shape
    assert output.abs().max() == 1
    assert generator.train()(clip).abs().max() > 1 or clip.max() < -0.9


def test_frames_are_translated_alone_and_streams_equal_clips(settled):
    generator = settled(LocalGenerator(4).double())
    clip = video(dtype=torch.float64)
    parts, state = [], None
    for frame in clip.split(1, dim=1):
        part, state = generator.stream(frame) if state is None else generator.stream(frame, state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), generator(clip), rtol=0, atol=1e-12)


def test_the_gain_scales_a_pixel_and_the_emission_adds_to_it():
    generator = LocalGenerator(4).eval()
    with torch.no_grad():
        generator.head.weight.zero_()
        generator.head.bias.copy_(torch.tensor([-0.05, -0.3, -0.3, 0.0, 0.5, 0.0]))
    clip = video()
    output = generator(clip)
    torch.testing.assert_close(output[:, :, 0], (clip[:, :, 0] + 1) * 0.25 - 1)
    assert torch.allclose(output[:, :, 1], torch.tensor(-0.5))
    assert torch.allclose(output[:, :, 2], torch.tensor(-1.0))


def test_the_table_adds_to_the_colours_near_its_entry_alone():
    generator = LocalGenerator(4)  # in training mode nothing is clamped
    clip = torch.full((1, 1, 3, 1, 2), -0.5)
    clip[..., 1] = 0.5
    before = generator(clip)
    with torch.no_grad():
        # Entry i is the colour -1 + i / 8; the axes of the table are blue, green, red.
        generator.table[0, :, 4, 4, 4] = 0.1
    change = generator(clip) - before
    torch.testing.assert_close(change[..., 0], torch.full((1, 1, 3, 1), 0.3))
    assert change[..., 1].abs().max() == 0


def test_frames_of_other_channel_counts_have_no_table():
    assert LocalGenerator(4, channels=1).eval()(video(channels=1)).shape == (2, 3, 1, 16, 12)


def test_a_local_generator_learns_to_tell_near_colours_apart():
    # Dark slits must light up and equally dark shadows must not, which a plain network takes long to learn.
    colours = torch.tensor([[38.0, 43, 58], [38, 43, 38], [120, 130, 90]]) / 127.5 - 1
    wanted = torch.tensor([[255.0, 231, 110], [12, 12, 16], [40, 40, 44]]) / 127.5 - 1
    clip, goal = (rows.T.reshape(1, 1, 3, 1, 3).expand(1, 1, 3, 8, 3) for rows in (colours, wanted))
    generator = LocalGenerator(16)
    optimizer = torch.optim.Adam(generator.parameters(), 2e-3)
    for _ in range(100):
        optimizer.zero_grad()
        (generator(clip) - goal).abs().mean().backward()
        optimizer.step()
    assert (generator(clip) - goal).abs().max() < 0.2


def test_patch_logits_are_quarter_size_by_frame_and_one_by_clip():
    verdict = PatchDiscriminator(4)(video(2, 3, 3, 16, 12))
    assert verdict.authenticity.shape == verdict.style.shape == (2, 3, 4, 3)
    assert verdict.video.shape == (2,)


def test_a_patch_logit_sees_twenty_six_pixels(settled):
    discriminator = settled(PatchDiscriminator(4).double())
    clip = video(1, 1, 3, 40, 40, torch.float64).requires_grad_()
    discriminator(clip).authenticity[0, 0, 5, 5].backward()
    assert clip.grad is not None
    rows = clip.grad.abs().sum((0, 1, 2, 4)).nonzero().flatten()
    assert rows.max() - rows.min() + 1 == 26


def test_frame_logits_see_one_frame_and_clip_logits_their_order(settled):
    discriminator = settled(PatchDiscriminator(4).double())
    clip = video(1, 4, dtype=torch.float64)
    forward, backward = discriminator(clip), discriminator(clip.flip(1))
    torch.testing.assert_close(forward.style, backward.style.flip(1), rtol=0, atol=1e-12)
    assert (forward.video - backward.video).abs().item() > 1e-6


@pytest.mark.parametrize("network", [LocalGenerator, PatchDiscriminator, Discriminator])
@pytest.mark.parametrize("shape", [(1, 2, 4, 16, 16), (2, 3, 16, 16)])
def test_other_shapes_are_refused(network, shape):
    with pytest.raises(ValueError, match="video must have shape"):
        network(4)(torch.zeros(shape))
