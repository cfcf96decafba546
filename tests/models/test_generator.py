import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rlv2v_fast.models.generator import START, Generator

# Streaming adds the same numbers in another order: float64 keeps that to 1e-15 an operation, and a lost or doubled
# frame of history changes outputs by 1e-3 and more.
STREAMING = {"rtol": 0, "atol": 1e-10}


def video(batch=1, frames=4, channels=3, height=16, width=16, dtype=torch.float32):
    return torch.rand(batch, frames, channels, height, width, dtype=dtype) * 2 - 1


def streamed(generator, clip, pieces):
    state, parts = START, []
    for piece in clip.split(pieces, dim=1):
        part, state = generator.stream(piece, state)
        parts.append(part)
    return torch.cat(parts, dim=1)


@given(
    batch=st.integers(1, 2),
    frames=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    height=st.sampled_from([8, 16, 24]),
    width=st.sampled_from([8, 16]),
)
@settings(max_examples=10, deadline=None)
def test_output_has_the_shape_of_the_input_and_is_in_range(batch, frames, channels, height, width):
    clip = video(batch, frames, channels, height, width)
    output = Generator(2, channels).eval()(clip)
    assert output.shape == clip.shape
    assert output.abs().max().item() < 1


@pytest.mark.parametrize("height", [8, 16])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_the_smallest_frame_is_eight_by_eight(norm, height):
    assert Generator(2, norm=norm).eval()(video(height=height, width=8)).shape == (1, 4, 3, height, 8)


def test_output_ends_in_a_tanh(settled):
    generator = settled(Generator(2))
    with torch.no_grad():
        generator.head.weight.zero_()
        generator.head.bias.copy_(torch.tensor([0.0, 2.0, -0.5]))
    output = generator(video())
    for channel, bias in enumerate([0.0, 2.0, -0.5]):
        expected = torch.tanh(torch.tensor(bias)).expand(1, 4, 16, 16)
        torch.testing.assert_close(output[:, :, channel], expected)


def test_with_output_gain_the_head_gives_gain_and_emission(settled):
    generator = settled(Generator(2, output="gain"))
    with torch.no_grad():
        generator.head.weight.zero_()
        generator.head.bias.copy_(torch.tensor([0.0, 1.0, -0.5, 0.0, -0.25, 3.0]))
    clip = video()
    red, green, blue = (clip[:, :, i] for i in range(3))
    wanted = [red, (red * 0 + 2 * (green + 1) - 0.25 - 1).clamp(-1, 1), (0.5 * (blue + 1) + 3 - 1).clamp(-1, 1)]
    torch.testing.assert_close(generator(clip), torch.stack(wanted, dim=2))


def test_output_gain_starts_near_the_input_and_streams_the_same():
    generator = Generator(4, output="gain").double().eval()
    clip = video(frames=5, dtype=torch.float64)
    output = generator(clip)
    assert (output - clip).abs().mean() < 0.5 * clip.abs().mean()
    assert output.abs().max() <= 1
    torch.testing.assert_close(streamed(generator, clip, 2), output, **STREAMING)


def test_an_unknown_output_is_named():
    with pytest.raises(ValueError, match="output must be one of tanh, gain; got 'relu'"):
        Generator(2, output="relu")


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("batch", [1, 2])
def test_in_eval_mode_no_output_frame_depends_on_a_later_input(settled, batch, norm):
    generator, clip = settled(Generator(2, norm=norm)), video(batch, 5)
    output = generator(clip)
    for t in range(5):
        changed = clip.clone()
        changed[:, t] *= -1
        perturbed = generator(changed)
        assert torch.equal(perturbed[:, :t], output[:, :t])
        # The frame itself and, through the histories and the ConvLSTM, every later one.
        for later in range(t, 5):
            assert not torch.equal(perturbed[:, later], output[:, later])


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("pieces", [[1] * 7, [3, 1, 2, 1], [7], [6, 1]])
def test_streaming_in_pieces_equals_the_whole_clip(settled, pieces, batch, norm):
    generator, clip = settled(Generator(2, norm=norm).double()), video(batch, 7, dtype=torch.float64)
    torch.testing.assert_close(streamed(generator, clip, pieces), generator(clip), **STREAMING)


@given(pieces=st.lists(st.integers(1, 3), min_size=1, max_size=4))
@settings(max_examples=8, deadline=None)
def test_streaming_in_any_pieces_equals_the_whole_float32_clip(settled, pieces):
    generator, clip = settled(Generator(2)), video(1, sum(pieces))
    # About a hundred rounded sums between input and tanh: 100 * 2^-24 = 6e-6; a lost history changes 1e-3 and more.
    torch.testing.assert_close(streamed(generator, clip, pieces), generator(clip), rtol=0, atol=2e-5)


def test_streams_do_not_disturb_each_other(settled):
    generator = settled(Generator(2).double())
    clips = [video(1, 4, dtype=torch.float64) for _ in range(2)]
    states, parts = [START, START], [[], []]
    for t in range(4):
        for i in range(2):
            part, states[i] = generator.stream(clips[i][:, t : t + 1], states[i])
            parts[i].append(part)
    for i in range(2):
        torch.testing.assert_close(torch.cat(parts[i], dim=1), generator(clips[i]), **STREAMING)


def test_a_state_can_be_continued_twice(settled):
    generator = settled(Generator(2))
    _, state = generator.stream(video(1, 2))
    clip = video(1, 2)
    assert torch.equal(generator.stream(clip, state)[0], generator.stream(clip, state)[0])


def test_items_of_a_batch_are_translated_alone_in_eval_mode(settled):
    generator, clip = settled(Generator(2).double()), video(2, 3, dtype=torch.float64)
    torch.testing.assert_close(generator(clip)[1:], generator(clip[1:]), **STREAMING)


def test_training_mode_alone_updates_batch_statistics():
    generator = Generator(2)
    means = [m.running_mean for m in generator.modules() if isinstance(m, nn.BatchNorm3d)]
    generator.eval()(video())
    assert all((mean == 0).all() for mean in means)
    generator.train()(video())
    assert all((mean != 0).any() for mean in means)


def test_levels_have_widths_w_w_2w_4w_and_back():
    sizes, generator = {}, Generator(3)

    def note(name):
        return lambda module, inputs, output: sizes.update({name: tuple(output.shape[1:])})

    generator.bn.register_forward_hook(note("bn"))
    for side in ("encoder", "decoder"):
        for index, block in enumerate(getattr(generator, side)):
            block.bn3.register_forward_hook(note(f"{side}.{index}"))
    generator(video(1, 2))
    assert sizes == {
        "encoder.0": (3, 2, 8, 8),
        "encoder.1": (6, 2, 4, 4),
        "encoder.2": (12, 2, 2, 2),
        "bn": (12, 2, 2, 2),
        "decoder.0": (6, 2, 4, 4),
        "decoder.1": (3, 2, 8, 8),
        "decoder.2": (3, 2, 16, 16),
    }
    assert generator.stem.weight.shape == (3, 3, 3, 3, 3)
    assert generator.head.weight.shape == (3, 3, 3, 3, 3)
    cells = generator.convlstm.cell_list
    assert [(cell.input_dim, cell.hidden_dim) for cell in cells] == [(12, 12)]


@pytest.mark.parametrize(("width", "channels"), [(2, 3), (3, 1)])
def test_parameter_count_is_that_of_the_architecture(width, channels):
    def block(a, b):
        # Two convolutions without bias, three norms, and a 1x1x1 convolution where channels change.
        return 27 * a * b + 27 * b * b + 3 * 2 * b + (a * b if a != b else 0)

    w, c = width, channels
    expected = (27 * c * w + w) + block(w, w) + block(w, 2 * w) + block(2 * w, 4 * w)
    # Four gates of a 3x3 convolution with bias over the input and the hidden state, then a norm.
    expected += 4 * (4 * w) * (9 * 8 * w + 1) + 2 * 4 * w
    # Additive skips take no parameters: the decoder's inputs are as wide as the level above leaves them.
    expected += block(4 * w, 2 * w) + block(2 * w, w) + block(w, w) + (27 * w * c + c)
    assert sum(p.numel() for p in Generator(w, c).parameters()) == expected


@pytest.mark.parametrize(("level", "decoder"), [("stem", 2), (0, 1), (1, 0)])
def test_each_level_is_added_to_the_decoder_at_its_resolution(settled, level, decoder):
    generator, clip = settled(Generator(2).double()), video(1, 2, dtype=torch.float64)
    taken = {}

    def keep(name):
        return lambda module, inputs, output: taken.update({name: output})

    generator.decoder[decoder].bn3.register_forward_hook(keep("decoded"))
    if level == "stem":
        taken["skip"] = generator.stem(clip.transpose(1, 2))
    else:
        generator.encoder[level].bn3.register_forward_hook(keep("skip"))
    # What enters the next block: the next URB's upsampling, or the head.
    following = generator.head if decoder == 2 else generator.decoder[decoder + 1]
    stream = following.stream
    following.stream = lambda x, state: (taken.update(entered=x), stream(x, state))[1]
    generator(clip)
    torch.testing.assert_close(taken["entered"], taken["decoded"] + taken["skip"], **STREAMING)


def test_gradient_reaches_every_parameter_and_the_input():
    generator, clip = Generator(2), video(2, 3).requires_grad_()
    generator(clip).square().sum().backward()
    assert clip.grad.abs().sum() > 0
    # A convolution's weight, unlike a bias before a norm, always matters.
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("height", "width"), [(12, 16), (16, 17), (4, 8)])
def test_sizes_that_three_poolings_do_not_divide_are_refused(height, width):
    with pytest.raises(ValueError, match=rf"H and W divisible by 8; got \({height}, {width}\)"):
        Generator(2)(video(height=height, width=width))


@pytest.mark.parametrize("shape", [(4, 3, 16, 16), (1, 4, 1, 16, 16), (1, 3, 4, 16, 16)])
def test_another_rank_or_channel_count_is_refused(shape):
    with pytest.raises(ValueError, match=r"video must have shape \(B, T, 3, H, W\); got \("):
        Generator(2)(torch.zeros(shape))


def test_an_unknown_norm_or_backend_is_refused():
    with pytest.raises(ValueError, match="norm must be one of batch, instance; got 'layer'"):
        Generator(2, norm="layer")
    with pytest.raises(ValueError, match="backend must be one of"):
        Generator(2, backend="metal")


def test_fused_generator_translates_alike(settled):
    generator = settled(Generator(2).double())
    video = torch.rand(1, 3, 3, 16, 16, dtype=torch.float64) * 2 - 1
    wanted = generator(video)
    torch.testing.assert_close(copy.deepcopy(generator).fuse()(video), wanted, rtol=1e-10, atol=1e-10)


def test_a_hook_of_a_whole_block_is_run_and_streams():
    torch.manual_seed(0)
    generator = Generator(2, norm="instance").eval()
    clip = torch.randn(1, 4, 3, 16, 16)
    generator.encoder[0].register_forward_hook(lambda module, inputs, output: output + 1)
    generator.decoder[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    changed = generator(clip)
    pieces, state = [], START
    for piece in clip.split(1, dim=1):
        output, state = generator.stream(piece, state)
        pieces.append(output)
    torch.testing.assert_close(torch.cat(pieces, 1), changed, rtol=1e-4, atol=1e-5)
    for block in (generator.encoder[0], generator.decoder[2]):
        block._forward_hooks.clear()
        block._forward_pre_hooks.clear()
    assert (generator(clip) - changed).abs().max() > 1e-3


def test_a_replaced_block_is_called():
    generator = Generator(2)
    generator.encoder[0] = torch.nn.AvgPool3d((1, 2, 2))
    assert generator(torch.randn(1, 2, 3, 16, 16)).shape == (1, 2, 3, 16, 16)
