import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlv2v_fast.losses.adversarial import r1_penalty
from rlv2v_fast.models.discriminator import Discriminator

# For sums in another order; what is tested changes logits by 1e-3 and more.
CLOSE = {"rtol": 0, "atol": 1e-10}


def video(batch=1, frames=4, channels=3, height=16, width=16, dtype=torch.float64):
    return torch.rand(batch, frames, channels, height, width, dtype=dtype) * 2 - 1


@pytest.fixture
def discriminator(settled):
    return settled(Discriminator(2).double())


@pytest.fixture
def frame_by_frame(discriminator):
    """A discriminator whose convolutions see one frame at a time, so that only the clip head relates frames.

    Its hidden units switch on or off within a clip: where none does, the mean over time cannot tell an order.
    """
    with torch.no_grad():
        discriminator.clip_hidden.weight.copy_(torch.randn(discriminator.clip_hidden.weight.shape))
        discriminator.clip_hidden.bias.copy_(-0.5 * discriminator.clip_hidden.weight[:, -1].flatten())
        for module in discriminator.modules():
            if isinstance(module, torch.nn.Conv3d) and module.kernel_size[0] > 1:
                module.weight[:, :, :-1] = 0
    return discriminator


@given(
    batch=st.integers(1, 2),
    frames=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    height=st.integers(8, 33),
    width=st.integers(8, 20),
)
@settings(max_examples=10, deadline=None)
def test_logits_are_per_frame_and_patch_and_per_clip(batch, frames, channels, height, width):
    verdict = Discriminator(2, channels).eval()(video(batch, frames, channels, height, width, torch.float32))
    assert verdict.authenticity.shape == (batch, frames, height // 8, width // 8)
    assert verdict.style.shape == (batch, frames, height // 8, width // 8)
    assert verdict.video.shape == (batch,)


@pytest.mark.parametrize("height", [8, 16])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_the_smallest_frame_is_eight_by_eight(norm, height):
    verdict = Discriminator(2, norm=norm).eval()(video(height=height, width=8, dtype=torch.float32))
    assert verdict.style.shape == (1, 4, height // 8, 1)


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("batch", [1, 2])
def test_frame_logits_depend_on_no_later_frame_in_eval_mode(settled, batch, norm):
    discriminator, clip = settled(Discriminator(2, norm=norm)), video(batch, 5, dtype=torch.float32)
    verdict = discriminator(clip)
    for t in range(5):
        changed = clip.clone()
        changed[:, t] *= -1
        perturbed = discriminator(changed)
        for name in ("authenticity", "style"):
            assert torch.equal(getattr(perturbed, name)[:, :t], getattr(verdict, name)[:, :t])
            assert not torch.equal(getattr(perturbed, name)[:, t], getattr(verdict, name)[:, t])


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_the_clip_logit_depends_on_every_frame(settled, norm):
    discriminator, clip = settled(Discriminator(2, norm=norm).double()), video()
    logit = discriminator(clip).video
    for t in range(4):
        changed = clip.clone()
        changed[:, t] *= -1
        # Rounding alone changes it by 1e-16.
        assert (discriminator(changed).video - logit).abs().item() > 1e-6


def test_frame_logits_see_motion(discriminator):
    clip = video()
    still = clip[:, -1:].expand_as(clip)
    difference = discriminator(clip).authenticity[:, -1] - discriminator(still).authenticity[:, -1]
    assert difference.abs().max().item() > 1e-3


def test_authenticity_and_style_are_two_different_heads(discriminator):
    with torch.no_grad():
        discriminator.patch_head.weight.zero_()
        discriminator.patch_head.bias.copy_(torch.tensor([3.0, -5.0]))
    verdict = discriminator(video())
    assert (verdict.authenticity == 3).all()
    assert (verdict.style == -5).all()


@pytest.mark.parametrize("bias", [-7.0, 7.0])
def test_logits_are_not_squashed(discriminator, bias):
    with torch.no_grad():
        for head in (discriminator.patch_head, discriminator.clip_head):
            head.weight.zero_()
            head.bias.fill_(bias)
    for logits in discriminator(video(2)):
        assert (logits == bias).all()


def test_the_clip_head_is_linear(discriminator):
    clip = video(2)
    with torch.no_grad():
        before = discriminator(clip).video
        discriminator.clip_head.weight.mul_(-2)
        discriminator.clip_head.bias.mul_(-2)
        after = discriminator(clip).video
    torch.testing.assert_close(after, -2 * before, **CLOSE)


def test_the_clip_logit_changes_when_the_clip_is_reversed(discriminator):
    clip = video(2)
    assert (discriminator(clip).video - discriminator(clip.flip(1)).video).abs().min().item() > 1e-4


def test_the_clip_logit_knows_where_in_the_clip_a_frame_is(frame_by_frame):
    # Figure 1: blue then red is the target's style, red then blue is not. No convolution sees two frames here.
    clip = torch.full((1, 4, 3, 16, 16), -1.0, dtype=torch.float64)
    clip[:, :2, 2] = 1
    clip[:, 2:, 0] = 1
    assert (frame_by_frame(clip).video - frame_by_frame(clip.flip(1)).video).abs().item() > 1e-4


def test_the_clip_logit_without_its_position_input_does_not_know(frame_by_frame):
    with torch.no_grad():
        frame_by_frame.clip_hidden.weight[:, -1] = 0
    clip = video()
    torch.testing.assert_close(frame_by_frame(clip).video, frame_by_frame(clip.flip(1)).video, **CLOSE)


def test_the_clip_logit_averages_over_time(frame_by_frame):
    with torch.no_grad():
        frame_by_frame.clip_hidden.weight[:, -1] = 0
    still = video(frames=1)
    longer = frame_by_frame(still.expand(-1, 5, -1, -1, -1)).video
    torch.testing.assert_close(longer, frame_by_frame(still).video, **CLOSE)


def test_clips_of_a_batch_are_judged_alone_in_eval_mode(discriminator):
    clip = video(3)
    for together, alone in zip(discriminator(clip), discriminator(clip[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone, **CLOSE)


def test_r1_trains_every_weight_that_the_logits_use(discriminator):
    clip = video(2).requires_grad_()
    verdict = discriminator(clip)
    per_clip = verdict.authenticity.flatten(1).mean(1) + verdict.style.flatten(1).mean(1) + verdict.video
    r1_penalty(per_clip, clip).backward()
    for name, parameter in discriminator.named_parameters():
        if name.endswith("weight") and parameter.dim() > 1:
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    "shape", [(4, 3, 16, 16), (1, 4, 1, 16, 16), (1, 4, 3, 7, 16), (1, 4, 3, 16, 7), (1, 3, 4, 16, 16)]
)
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"video must have shape \(B, T, 3, H >= 8, W >= 8\); got \("):
        Discriminator(2)(torch.zeros(shape))


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("training", [True, False])
def test_r1_penalty_and_its_gradients_are_the_references(training, norm):
    clip = video(batch=2).requires_grad_()
    results = []
    for backend in ("auto", "reference"):
        torch.manual_seed(5)
        judge = Discriminator(2, norm=norm, backend=backend).double().train(training)
        verdict = judge(clip)
        penalty = r1_penalty(verdict.authenticity.square(), clip) + r1_penalty(verdict.video, clip)
        results.append((penalty, torch.autograd.grad(penalty, list(judge.parameters()), allow_unused=True)))
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-10)
