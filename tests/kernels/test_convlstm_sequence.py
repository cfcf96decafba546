"""The sequence by Triton kernels, forward and through autograd, against the reference in float64."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from rlv2v_fast.kernels.convlstm_sequence import chunk_steps, convlstm_sequence_fwd
from rlv2v_fast.kernels.layer_inputs import LayerInputs, padded_channels
from rlv2v_fast.ops.convlstm_triton import convlstm_sequence_triton, triton_refusal
from rlv2v_fast.reference.convlstm import convlstm_gates_reference, convlstm_reference, run_steps
from rlv2v_fast.reference.precision import accumulation_dtype

NAMES = ("x", "weight", "bias", "h0", "c0", "peephole")


@dataclass(frozen=True)
class Size:
    batch: int
    steps: int
    channels: int
    hidden: int
    height: int
    width: int
    kernel: tuple[int, int] = (3, 3)


SMALL = Size(2, 3, 3, 4, 5, 7)
SIZES = [
    Size(1, 1, 1, 1, 1, 1),
    SMALL,
    # Slots with and without padding, several chunks, and rectangular kernels.
    Size(3, 5, 8, 8, 6, 5, (5, 1)),
    Size(2, 5, 2, 17, 3, 7, (1, 3)),
    Size(1, 2, 5, 40, 4, 4, (1, 1)),
]


def sequence(*inputs: Tensor | None, **options) -> tuple[Tensor, Tensor, Tensor]:
    """convlstm_sequence_triton with the signature of the reference."""
    return convlstm_sequence_triton(LayerInputs(*inputs), **options)


class Problem:
    """Inputs, upstream gradients, and results and gradients of the reference in a given dtype."""

    def __init__(self, size: Size, dtype, device, *, bias=True, peephole=True, lengths=True, seed=0):
        self.size, self.dtype = size, dtype
        random = torch.Generator().manual_seed(seed)

        def draw(*shape, dtype=dtype, scale=1.0):
            return (scale * torch.randn(shape, generator=random)).to(device, dtype)

        b, t, c, k, h, w = size.batch, size.steps, size.channels, size.hidden, size.height, size.width
        fan_in = (c + k) * size.kernel[0] * size.kernel[1]
        self.inputs: dict[str, Tensor | None] = {
            "x": draw(b, t, c, h, w),
            "weight": draw(4 * k, c + k, *size.kernel, scale=fan_in**-0.5),
            "bias": draw(4 * k) if bias else None,
            "h0": draw(b, k, h, w, scale=0.5),
            "c0": draw(b, k, h, w, dtype=accumulation_dtype(dtype)),
            "peephole": draw(3, k) if peephole else None,
        }
        # One sample of no steps where there are several, and one of all.
        ends = torch.tensor([t, 0, (t + 1) // 2], device=device)
        self.lengths = ends[torch.arange(b, device=device) % 3] if lengths else None
        self.upstream = [draw(b, t, k, h, w), draw(b, k, h, w), draw(b, k, h, w, dtype=accumulation_dtype(dtype))]

    def leaves(self, dtype=None) -> dict[str, Tensor | None]:
        return {
            name: None if t is None else t.detach().to(dtype or t.dtype).clone().requires_grad_()
            for name, t in self.inputs.items()
        }

    def run(self, function, dtype=None, **options) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Outputs, and gradients by input name, of a function with the signature of the reference."""
        leaves = self.leaves(dtype)
        outputs = function(*leaves.values(), self.lengths, **options)
        present = {name: t for name, t in leaves.items() if t is not None}
        upstream = [grad.to(output.dtype) for grad, output in zip(self.upstream, outputs, strict=True)]
        grads = torch.autograd.grad(outputs, list(present.values()), upstream)
        return [t.detach() for t in outputs], dict(zip(present, grads, strict=True))


def error(actual: Tensor, exact: Tensor) -> float:
    return (actual.double() - exact).abs().max().item() if exact.numel() else 0.0


def weight_gradient_in_one_call(problem: Problem) -> Tensor:
    """The reference's weight gradient, but by one convolution of PyTorch over the frames of all steps."""
    x, weight, bias, h, c, peephole = problem.leaves().values()
    padding = tuple(side // 2 for side in weight.shape[2:])
    frames, gates = [], []

    def step(frame, h, c):
        frames.append(torch.cat([frame, h], dim=1))
        gates.append(torch.nn.functional.conv2d(frames[-1], weight, bias, padding=padding))
        return convlstm_gates_reference(gates[-1], c, peephole)

    outputs = run_steps(step, x, h, c, problem.lengths)
    grads = torch.autograd.grad(outputs, gates, problem.upstream)
    all_frames, all_grads = (
        torch.cat(parts).detach().contiguous(memory_format=torch.channels_last) for parts in (frames, grads)
    )
    return torch.nn.grad.conv2d_weight(all_frames, weight.shape, all_grads, padding=padding)


def assert_as_exact_as_reference(problem: Problem, **options) -> None:
    """At most twice the reference's own error against float64 in this dtype, plus a rounding of the largest entry.

    The rounding is there because the reference's error may be zero by luck, as at one pixel and one channel. For the
    weight the reference's is the larger of two errors, of one convolution a step and of one over all steps, which ours
    is: on a GPU the longer sum, by another of cuDNN's algorithms, was measured to be up to 3.3 times less exact.
    """
    exact_outputs, exact_grads = problem.run(convlstm_reference, torch.float64)
    eager_outputs, eager_grads = problem.run(convlstm_reference)
    outputs, grads = problem.run(sequence, **options)
    names = ["output", "h", "c", *exact_grads]
    exact, eager, ours = (
        [*o, *g.values()] for o, g in ((exact_outputs, exact_grads), (eager_outputs, eager_grads), (outputs, grads))
    )
    for name, truth, theirs, mine in zip(names, exact, eager, ours, strict=True):
        rounding = 2 * torch.finfo(problem.dtype).eps * (1 + truth.abs().max().item())
        assert mine.dtype == theirs.dtype, name
        assert mine.is_contiguous(), name
        allowed = error(theirs, truth)
        if name == "weight":
            allowed = max(allowed, error(weight_gradient_in_one_call(problem), truth))
        assert error(mine, truth) <= 2 * allowed + rounding, name


@pytest.mark.parametrize("memory", ["fast", "low"])
@pytest.mark.parametrize("options", [{"bias": False, "peephole": False, "lengths": False}, {}], ids=["plain", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_outputs_and_gradients(size, dtype, options, memory, device):
    assert_as_exact_as_reference(Problem(size, dtype, device, **options), memory=memory)


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_lengths_without_peephole_and_peephole_without_bias(memory, device):
    assert_as_exact_as_reference(Problem(SMALL, torch.float32, device, peephole=False), memory=memory)
    assert_as_exact_as_reference(Problem(SMALL, torch.float32, device, bias=False, lengths=False), memory=memory)


@pytest.mark.parametrize("steps", [1, 3, 5, 9, 17])
def test_inference_reuses_conv_inputs_and_agrees_bit_for_bit(steps, device):
    """Without gradients a few conv_inputs go round; what comes out does not change."""
    problem = Problem(Size(2, steps, 3, 4, 3, 5), torch.float32, device)
    kept = convlstm_sequence_fwd(LayerInputs(*problem.inputs.values(), problem.lengths), memory="fast")
    bare = convlstm_sequence_fwd(LayerInputs(*problem.inputs.values(), problem.lengths), memory="none")
    for a, b in zip(kept[:3], bare[:3], strict=True):
        assert torch.equal(a, b)
    assert bare.conv_inputs.numel() == len(bare.gates) == bare.cells.numel() == 0
    assert chunk_steps(steps) <= max(1, steps // 2)


def test_conv_inputs_hold_x_padding_and_h(device):
    problem = Problem(SMALL, torch.float16, device, lengths=False)
    result = convlstm_sequence_fwd(LayerInputs(*problem.inputs.values()), memory="fast")
    channels, hidden = SMALL.channels, SMALL.hidden
    padded = padded_channels(channels, hidden, 2)
    assert result.conv_inputs.shape[-1] == padded + hidden == 8
    x, h = problem.inputs["x"], result.output
    assert torch.equal(result.conv_inputs[..., :channels], x.permute(1, 0, 3, 4, 2))
    assert not result.conv_inputs[..., channels:padded].any()
    assert torch.equal(result.conv_inputs[0, ..., padded:], problem.inputs["h0"].permute(0, 2, 3, 1))
    assert torch.equal(result.conv_inputs[1:, ..., padded:], h[:, :-1].permute(1, 0, 3, 4, 2))
    assert torch.equal(result.h, h[:, -1])


@pytest.mark.parametrize(("channels", "hidden", "itemsize", "expected"), [(3, 32, 2, 8), (64, 64, 2, 64), (1, 1, 4, 3)])
def test_padded_channels(channels, hidden, itemsize, expected):
    assert padded_channels(channels, hidden, itemsize) == expected


def test_memory_low_keeps_neither_conv_inputs_nor_gates(device):
    problem = Problem(SMALL, torch.float32, device)
    result = convlstm_sequence_fwd(LayerInputs(*problem.inputs.values(), problem.lengths), memory="low")
    assert result.conv_inputs.numel() == len(result.gates) == 0
    assert result.cells.shape[0] == SMALL.steps + 1


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_backward_runs_again_and_gives_the_same(memory, device):
    problem = Problem(SMALL, torch.float32, device)
    leaves = problem.leaves()
    outputs = sequence(*leaves.values(), problem.lengths, memory=memory)
    first, again = (
        torch.autograd.grad(outputs, list(leaves.values()), problem.upstream, retain_graph=True) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_two_forwards_before_a_backward(device):
    problem = Problem(SMALL, torch.float32, device)
    expected = problem.run(sequence)[1]
    leaves = problem.leaves()
    outputs = sequence(*leaves.values(), problem.lengths)
    Problem(SMALL, torch.float32, device, seed=1).run(sequence)
    grads = torch.autograd.grad(outputs, list(leaves.values()), problem.upstream)
    assert all(torch.equal(a, b) for a, b in zip(grads, expected.values(), strict=True))


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_unused_outputs_and_frozen_inputs(memory, device):
    problem = Problem(Size(2, 2, 2, 3, 3, 2), torch.float32, device)
    for wanted in NAMES:
        for used in range(3):
            results = []
            for function, options in ((convlstm_reference, {}), (sequence, {"memory": memory})):
                leaves = {n: t.requires_grad_(n == wanted) for n, t in problem.leaves().items()}
                output = function(*leaves.values(), problem.lengths, **options)[used]
                results.append(torch.autograd.grad(output.square().sum(), leaves[wanted])[0])
            torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("view", ["channels_last", "time_first", "sliced", "expanded"])
def test_awkward_inputs(view, device):
    problem = Problem(SMALL, torch.float32, device)
    x = problem.inputs["x"]
    if view == "channels_last":
        x = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    elif view == "time_first":
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    elif view == "sliced":
        x = torch.cat([x, x], dim=4)[..., ::2][..., : SMALL.width]
    else:
        x = x[:, :1].expand_as(x)
    gradient = problem.upstream[0][..., :1].expand_as(problem.upstream[0])
    others = [problem.inputs[name] for name in NAMES[1:]]
    results = []
    for function in (convlstm_reference, sequence):
        leaf = x.detach().requires_grad_()
        output, h, c = function(leaf, *others, problem.lengths)
        results.append([output, h, c, *torch.autograd.grad(output, leaf, gradient)])
    for mine, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_cropped_gradient_is_copied_to_one_pixel_axis(device):
    problem = Problem(SMALL, torch.float32, device)
    expected = problem.run(sequence)[1]
    wide = torch.nn.functional.pad(problem.upstream[0], (1, 1))
    problem.upstream[0] = wide[..., 1:-1]
    grads = problem.run(sequence)[1]
    assert all(torch.equal(grads[name], expected[name]) for name in expected)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("memory", ["fast", "low"])
@pytest.mark.parametrize("lengths", [False, True])
def test_nothing_is_read_before_it_is_written(lengths, memory, device):
    problem = Problem(Size(2, 6, 3, 5, 3, 5), torch.float32, device, lengths=lengths)
    outputs, grads = problem.run(sequence, memory=memory)
    for tensor in (*outputs, *grads.values()):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_zero_batch(memory, device):
    problem = Problem(Size(0, 3, 2, 4, 3, 3), torch.float32, device)
    outputs, grads = problem.run(sequence, memory=memory)
    assert outputs[0].shape == (0, 3, 4, 3, 3)
    assert grads["x"].shape == (0, 3, 2, 3, 3)
    assert not grads["weight"].any()
    assert not grads["bias"].any()


def test_nan_in_one_sample_stays_there(device):
    problem = Problem(SMALL, torch.float32, device, lengths=False)
    problem.inputs["x"][0, 1, 0, 2, 3] = float("nan")
    output, _, _ = sequence(*problem.inputs.values())
    assert output[0, 0].isfinite().all()
    assert output[0, 1].isnan().any()
    assert output[1].isfinite().all()


def test_state_can_be_fed_back(device):
    problem = Problem(Size(2, 4, 3, 4, 3, 5), torch.float32, device, lengths=False)
    x, weight, bias, h0, c0, peephole = problem.inputs.values()
    whole = sequence(x, weight, bias, h0, c0, peephole)
    first = sequence(x[:, :2], weight, bias, h0, c0, peephole)
    second = sequence(x[:, 2:], weight, bias, *first[1:], peephole)
    assert torch.equal(torch.cat([first[0], second[0]], dim=1), whole[0])
    assert torch.equal(second[1], whole[1])
    assert torch.equal(second[2], whole[2])


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_second_derivatives(memory, device):
    problem = Problem(Size(2, 2, 2, 3, 3, 2), torch.float32, device)
    results = []
    for function, options in ((convlstm_reference, {}), (sequence, {"memory": memory})):
        leaves = problem.leaves()
        upstream = [grad.clone().requires_grad_() for grad in problem.upstream]
        outputs = function(*leaves.values(), problem.lengths, **options)
        first = torch.autograd.grad(outputs, list(leaves.values()), upstream, create_graph=True)
        penalty = sum(grad.square().sum() for grad in first)
        results.append(torch.autograd.grad(penalty, [*leaves.values(), *upstream]))
    for mine, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize("memory", ["fast", "low", "none"])
def test_operator_registration(memory, device):
    problem = Problem(Size(2, 2, 2, 3, 3, 2), torch.float32, device)
    leaves = problem.leaves() if memory != "none" else problem.inputs
    arguments = (*leaves.values(), problem.lengths, memory)
    torch.library.opcheck(torch.ops.rlv2v_fast.convlstm_triton_fwd.default, arguments)
    if memory == "none":
        return
    output, _, _, *kept = torch.ops.rlv2v_fast.convlstm_triton_fwd(*problem.inputs.values(), problem.lengths, memory)
    arguments = (*problem.upstream, *problem.inputs.values(), problem.lengths, output, *kept, True, True, True)
    torch.library.opcheck(torch.ops.rlv2v_fast.convlstm_triton_bwd.default, arguments)


def test_triton_refusal_is_traced(device):
    compiled = torch.compile(lambda x: x + (triton_refusal(x) is None), fullgraph=True, backend="eager")
    assert compiled(torch.zeros(1, device=device)).item() == 1


def test_compiles_whole(device):
    problem = Problem(SMALL, torch.float32, device)
    compiled = torch.compile(sequence, fullgraph=True, backend="aot_eager")
    expected, expected_grads = problem.run(sequence)
    outputs, grads = problem.run(compiled)
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
    assert all(torch.equal(grads[name], expected_grads[name]) for name in grads)


def test_autocast_convolves_in_half_and_keeps_the_state_wide(device):
    problem = Problem(SMALL, torch.float32, device)
    leaves = problem.leaves()
    with torch.autocast(device.type, dtype=torch.float16):
        output, h, c = sequence(*leaves.values(), problem.lengths)
    assert output.dtype == h.dtype == torch.float16
    assert c.dtype == torch.float32
    exact, exact_grads = problem.run(convlstm_reference, torch.float64)
    grads = torch.autograd.grad(
        (output, h, c),
        list(leaves.values()),
        [g.to(t.dtype) for g, t in zip(problem.upstream, (output, h, c), strict=True)],
    )
    assert error(output, exact[0]) < 4e-3
    for name, grad in zip(leaves, grads, strict=True):
        assert grad.dtype == torch.float32
        assert error(grad, exact_grads[name]) < 4e-3 * (1 + exact_grads[name].abs().max().item()), name


def test_refusals(monkeypatch, device):
    assert triton_refusal(torch.zeros(1, device=device)) is None
    assert "float64" in triton_refusal(torch.zeros(1, device=device, dtype=torch.float64))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "bfloat16" in triton_refusal(torch.zeros(1, dtype=torch.bfloat16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "bfloat16" in triton_refusal(torch.zeros(1))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "run on a GPU" in triton_refusal(torch.zeros(1))


def test_arguments_of_its_own_are_checked(device):
    problem = Problem(SMALL, torch.float32, device)
    with pytest.raises(ValueError, match="memory must be 'fast' or 'low'; got 'none'"):
        sequence(*problem.inputs.values(), memory="none")
    with pytest.raises(ValueError, match="cuda_graph must be False where a gradient is recorded"):
        sequence(*problem.leaves().values(), cuda_graph=True)
    with pytest.raises(ValueError, match="cuda_graph must be False where x is on cpu"):
        sequence(*(None if t is None else t.cpu() for t in problem.inputs.values()), cuda_graph=True)


GPU_SIZES = [*SIZES, Size(2, 10, 16, 64, 64, 64), Size(4, 4, 3, 32, 65, 63), Size(2, 3, 1, 64, 32, 32, (5, 5))]


@pytest.mark.gpu
@pytest.mark.parametrize("memory", ["fast", "low"])
@pytest.mark.parametrize("options", [{"bias": False, "peephole": False, "lengths": False}, {}], ids=["plain", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", GPU_SIZES, ids=str)
def test_on_gpu(size, dtype, options, memory, gpu):
    assert_as_exact_as_reference(Problem(size, dtype, gpu, **options), memory=memory)


@pytest.mark.gpu
def test_tf32_on_gpu(gpu, monkeypatch):
    """Where convolutions run in TF32, ours do too, and err as the reference's do."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    problem = Problem(Size(2, 5, 16, 64, 32, 32), torch.float32, gpu)
    exact, _ = problem.run(convlstm_reference, torch.float64)
    eager, _ = problem.run(convlstm_reference)
    outputs, _ = problem.run(sequence)
    assert error(outputs[0], exact[0]) <= 2 * error(eager[0], exact[0]) + 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_cuda_graph(dtype, gpu):
    """A replay gives what a plain run gives, for new inputs and weights too, and leaves earlier results alone."""
    earlier = None
    for seed in range(3):
        problem = Problem(Size(2, 6, 16, 32, 32, 32), dtype, gpu, seed=seed)
        plain = sequence(*problem.inputs.values(), problem.lengths)
        replayed = sequence(*problem.inputs.values(), problem.lengths, cuda_graph=True)
        copies = [t.clone() for t in replayed]
        for a, b in zip(plain, replayed, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2 * torch.finfo(dtype).eps)
        if earlier is not None:
            assert all(torch.equal(a, b) for a, b in zip(*earlier, strict=True))
        earlier = (replayed, copies)


@pytest.mark.gpu
def test_a_cuda_graph_of_inference_mode_replays_outside_it(gpu):
    problem = Problem(Size(1, 3, 8, 8, 16, 16), torch.float32, gpu)
    with torch.inference_mode():
        captured = sequence(*problem.inputs.values(), cuda_graph=True)
    with torch.no_grad():
        replayed = sequence(*problem.inputs.values(), cuda_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(captured, replayed, strict=True))


@pytest.mark.gpu
def test_memory_low_takes_less(gpu):
    """Per pixel-step here: 1.7 kB of conv_inputs, gates, their gradients, states and output, against 0.7 kB."""
    problem = Problem(Size(2, 16, 16, 64, 64, 64), torch.float16, gpu)
    peaks = {}
    for memory in ("fast", "low"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        problem.run(sequence, memory=memory)
        peaks[memory] = torch.cuda.max_memory_allocated() - before
    assert peaks["low"] < 0.6 * peaks["fast"]


@pytest.mark.gpu
def test_compiles_with_inductor_on_gpu(gpu):
    problem = Problem(SMALL, torch.float32, gpu)
    compiled = torch.compile(sequence, fullgraph=True)
    expected, expected_grads = problem.run(sequence)
    outputs, grads = problem.run(compiled)
    for mine, theirs in zip([*outputs, *grads.values()], [*expected, *expected_grads.values()], strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("transform", ["grad", "jvp", "gradients of each sample", "hessian"])
def test_under_function_transforms(transform, device):
    problem = Problem(Size(2, 2, 2, 2, 2, 3), torch.float32, device, lengths=False)
    x, weight, *rest = problem.inputs.values()

    def applied(function):
        def total(x, weight):
            return sum(result.square().sum() for result in function(x, weight, *rest))

        if transform == "grad":
            return torch.func.grad(total, (0, 1))(x, weight)
        if transform == "jvp":
            return torch.func.jvp(total, (x, weight), (torch.ones_like(x), torch.ones_like(weight)))[1]
        if transform == "hessian":
            return torch.func.hessian(lambda x: total(x, weight))(x)
        samples = torch.stack([x, -x])
        return torch.vmap(torch.func.grad(total, (0, 1)), (0, None))(samples, weight)

    torch.testing.assert_close(applied(sequence), applied(convlstm_reference), rtol=1e-3, atol=1e-3)
