"""convlstm: the fused CPU operator against the reference in float64."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings

import pytest
import torch
from torch import Tensor

from rlv2v_fast import extension
from rlv2v_fast.ops.backends import BackendFallbackWarning
from rlv2v_fast.ops.convlstm import convlstm

needs_cpp = pytest.mark.skipif(extension.why_not_cpu() is not None, reason=str(extension.why_not_cpu()))
pytestmark = needs_cpp

# (B, T, C, H, W, K, kh, kw)
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1, 1),
    (1, 2, 1, 1, 1, 1, 3, 3),
    (2, 3, 2, 5, 7, 3, 3, 3),
    (1, 2, 3, 9, 8, 17, 3, 3),
    (1, 2, 1, 6, 70, 2, 3, 5),
    (2, 2, 3, 4, 4, 16, 1, 1),
    (1, 2, 2, 3, 2, 4, 7, 5),
    (1, 3, 18, 13, 12, 33, 3, 3),
    (1, 3, 3, 7, 10, 17, 5, 5),
]


def arguments(shape: tuple[int, ...], dtype: torch.dtype, state: bool = True, seed: int = 0) -> list[Tensor | None]:
    """x, weight, bias, h0, c0, each requiring gradients."""
    b, t, c, h, w, k, kh, kw = shape
    generator = torch.Generator().manual_seed(seed)

    def random(*size: int, scale: float = 1.0) -> Tensor:
        values = torch.randn(*size, generator=generator, dtype=torch.float64) * scale
        return values.to(dtype).requires_grad_()

    weight = random(4 * k, c + k, kh, kw, scale=((c + k) * kh * kw) ** -0.5)
    states = [random(b, k, h, w), random(b, k, h, w)] if state else [None, None]
    return [random(b, t, c, h, w), weight, random(4 * k), *states]


def widen(inputs: list[Tensor | None]) -> list[Tensor | None]:
    return [None if t is None else t.detach().double().requires_grad_() for t in inputs]


def gradients(outputs: tuple[Tensor, ...], inputs: list[Tensor | None]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(9)
    grads = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.dtype) for o in outputs]
    return list(torch.autograd.grad(outputs, [t for t in inputs if t is not None], grads))


def run(inputs: list[Tensor | None], **options: object) -> list[Tensor]:
    """Outputs, then the gradients of every input."""
    outputs = convlstm(*inputs, **options)
    return [*outputs, *gradients(outputs, inputs)]


def errors(got: list[Tensor], want: list[Tensor]) -> list[float]:
    """Largest absolute error of each, over the largest entry where that exceeds 1."""
    return [
        ((g.double() - w).abs().max() / w.abs().max().clamp_min(1.0)).item() for g, w in zip(got, want, strict=True)
    ]


@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("memory", ["fast", "low"])
@pytest.mark.parametrize("shape", SHAPES)
def test_float64_agrees_with_the_reference(shape: tuple[int, ...], memory: str, state: bool) -> None:
    inputs = arguments(shape, torch.float64, state)
    got, want = run(inputs, backend="cpp", memory=memory), run(inputs, backend="reference")
    assert max(errors(got, want)) < 1e-12


@pytest.mark.parametrize("memory", ["fast", "low"])
@pytest.mark.parametrize("shape", SHAPES)
def test_winograd_stays_within_its_stated_error(shape: tuple[int, ...], memory: str) -> None:
    inputs = arguments(shape, torch.float32)
    found = errors(run(inputs, backend="cpp", memory=memory), run(widen(inputs), backend="reference"))
    assert max(found[:3]) < 1e-5
    assert max(found[3:]) < 3e-5


@pytest.mark.parametrize("shape", [*SHAPES, (2, 4, 8, 16, 16, 32, 3, 3)])
def test_exact_is_as_accurate_as_pytorch(shape: tuple[int, ...]) -> None:
    inputs = arguments(shape, torch.float32)
    want = run(widen(inputs), backend="reference")
    ours, eager = errors(run(inputs, backend="cpp", exact=True), want), errors(run(inputs, backend="reference"), want)
    # A floor for shapes so small that eager happens to round to the exact value.
    assert all(a <= 2 * max(b, 1.5e-7) for a, b in zip(ours, eager, strict=True))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("memory", ["fast", "low"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e20])
@pytest.mark.parametrize("place", [(0, 0), (5, 6), (15, 15)])
def test_odd_values_reach_what_they_reach_in_plain_sums(
    kernel: int, memory: str, value: float, place: tuple[int, int]
) -> None:
    inputs = arguments((1, 3, 3, 16, 16, 9, kernel, kernel), torch.float32)
    x = inputs[0].detach()
    x[0, 1, 1, place[0], place[1]] = value
    got = run(inputs, backend="cpp", memory=memory)
    want = run(widen(inputs), backend="reference")
    for ours, exactly in zip(got, want, strict=True):
        assert torch.equal(ours.isfinite(), exactly.isfinite())
        # Others are sums of the large value, which cancel in any order.
        sees_none = exactly.abs() < 1e3
        torch.testing.assert_close(ours[sees_none], exactly[sees_none].float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e20])
def test_odd_gradients_reach_what_they_reach_in_plain_sums(value: float) -> None:
    inputs = arguments((1, 3, 3, 16, 16, 9, 3, 3), torch.float32)
    found = []
    for given, backend in ((inputs, "cpp"), (widen(inputs), "reference")):
        output, _, _ = convlstm(*given, backend=backend)
        grad = torch.zeros_like(output)
        grad[0, 2] = 1
        grad[0, 2, 4, 9, 9] = value
        found.append(torch.autograd.grad(output, given, grad))
    for ours, exactly in zip(*found, strict=True):
        assert torch.equal(ours.isfinite(), exactly.isfinite())
        # Others are sums of the large value, which cancel in any order.
        sees_none = exactly.abs() < 1e3
        torch.testing.assert_close(ours[sees_none], exactly[sees_none].float(), rtol=1e-4, atol=1e-4)


def test_one_large_tile_leaves_the_others_their_bits() -> None:
    x, weight, bias, h0, c0 = arguments((2, 1, 3, 32, 32, 9, 3, 3), torch.float32)
    clean = convlstm(x, weight, bias, h0, c0, backend="cpp")
    x = x.detach()
    x[..., 2, 2] *= 1e7
    for ours, before in zip(convlstm(x, weight, bias, h0, c0, backend="cpp"), clean, strict=True):
        assert torch.equal(ours[..., 8:], before[..., 8:])


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("magnitude", [1e-6, 1e-2, 255.0, 1e4])
def test_the_error_scales_with_the_input(magnitude: float, kernel: int) -> None:
    inputs = arguments((2, 3, 8, 16, 16, 16, kernel, kernel), torch.float32)
    inputs[0] = (inputs[0].detach() * magnitude).requires_grad_()
    found = errors(run(inputs, backend="cpp"), run(widen(inputs), backend="reference"))
    bound = max(1.0, inputs[0].abs().max().item())
    assert max(found[:3]) < 1e-5 * bound
    assert max(found[3:]) < 3e-5 * bound


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("memory", ["fast", "low"])
def test_gradcheck(exact: bool, memory: str) -> None:
    inputs = arguments((2, 2, 2, 3, 2, 2, 3, 3), torch.float64)
    assert torch.autograd.gradcheck(lambda *a: convlstm(*a, backend="cpp", exact=exact, memory=memory), inputs)


def test_gradgradcheck() -> None:
    inputs = arguments((1, 2, 1, 2, 2, 1, 3, 3), torch.float64)
    assert torch.autograd.gradgradcheck(lambda *a: convlstm(*a, backend="cpp"), inputs)


def test_second_derivative_flows_through_the_state_to_the_input() -> None:
    x, weight, bias, _, _ = arguments((1, 2, 1, 3, 3, 1, 3, 3), torch.float64)

    def penalty(backend: str) -> list[Tensor]:
        h0 = x[:, 0] * 2  # the state depends on the input: no path may be counted twice
        output, _, c = convlstm(x, weight, bias, h0, None, backend=backend)
        (grad,) = torch.autograd.grad(output.square().sum() + c.sum(), x, create_graph=True)
        return list(torch.autograd.grad(grad.square().sum(), [x, weight, bias]))

    assert max(errors(penalty("cpp"), penalty("reference"))) < 1e-12


def test_third_derivative() -> None:
    inputs = arguments((1, 1, 1, 2, 2, 1, 1, 1), torch.float64)

    def third(backend: str) -> Tensor:
        total = convlstm(*inputs, backend=backend)[0].square().sum()
        for _ in range(3):
            (grad,) = torch.autograd.grad(total, inputs[0], create_graph=True)
            total = grad.square().sum()
        return grad

    torch.testing.assert_close(third("cpp"), third("reference"))


@pytest.mark.parametrize("pick", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_unused_outputs(pick: tuple[int, ...]) -> None:
    inputs = arguments((2, 3, 2, 4, 5, 3, 3, 3), torch.float64)

    def grads(backend: str) -> list[Tensor]:
        outputs = convlstm(*inputs, backend=backend)
        return gradients(tuple(outputs[i] for i in pick), inputs)

    assert max(errors(grads("cpp"), grads("reference"))) < 1e-12


def test_expanded_gradient() -> None:
    inputs = arguments((2, 3, 2, 4, 5, 3, 3, 3), torch.float64)
    got, want = (
        torch.autograd.grad(convlstm(*inputs, backend=backend)[0].sum(), inputs) for backend in ("cpp", "reference")
    )
    assert max(errors(list(got), list(want))) < 1e-12


@pytest.mark.parametrize("wanted", range(5))
def test_only_one_input_needs_a_gradient(wanted: int) -> None:
    inputs = [t.detach() for t in arguments((1, 3, 2, 4, 5, 3, 3, 3), torch.float64) if t is not None]
    inputs[wanted].requires_grad_()
    got, want = (gradients(convlstm(*inputs, backend=b), [inputs[wanted]]) for b in ("cpp", "reference"))
    assert max(errors(got, want)) < 1e-12


def test_strided_inputs() -> None:
    b, t, c, h, w, k = 2, 3, 3, 9, 10, 4
    plain = arguments((b, t, c, h, w, k, 3, 3), torch.float32)
    want = run(plain, backend="cpp")
    x, weight, bias, h0, c0 = (t.detach() for t in plain if t is not None)
    last = torch.channels_last
    sliced = torch.randn(b, t, c, h, 2 * w)
    sliced[..., ::2] = x
    variants = [
        x.transpose(0, 1).contiguous().transpose(0, 1),
        x.flatten(0, 1).contiguous(memory_format=last).unflatten(0, (b, t)),
        sliced[..., ::2],
        x.transpose(-1, -2).contiguous().transpose(-1, -2),
    ]
    for variant in variants:
        inputs = [variant, weight.contiguous(memory_format=last), bias, h0.contiguous(memory_format=last), c0]
        inputs = [i.detach().requires_grad_() for i in inputs]
        assert not inputs[0].is_contiguous()
        for got, same in zip(run(inputs, backend="cpp"), want, strict=True):
            assert torch.equal(got, same)


def test_expanded_input() -> None:
    inputs = arguments((1, 2, 2, 4, 5, 3, 3, 3), torch.float64)
    inputs[0] = inputs[0].detach()[:, :1].expand(3, 4, -1, -1, -1).requires_grad_()
    inputs[3:] = [None, None]
    assert max(errors(run(inputs, backend="cpp"), run(inputs, backend="reference"))) < 1e-12


def test_zero_batch() -> None:
    inputs = arguments((0, 2, 3, 5, 5, 4, 3, 3), torch.float32)
    outputs = convlstm(*inputs, backend="cpp")
    assert [tuple(o.shape) for o in outputs] == [(0, 2, 4, 5, 5), (0, 4, 5, 5), (0, 4, 5, 5)]
    grads = gradients(outputs, inputs)
    assert all(g.shape == t.shape and not g.any() for g, t in zip(grads, inputs, strict=True))


def test_two_forwards_before_a_backward() -> None:
    first, second = (arguments((1, 3, 2, 8, 8, 16, 3, 3), torch.float32, seed=s) for s in (1, 2))
    want = [run(first, backend="cpp"), run(second, backend="cpp")]
    outputs = [convlstm(*first, backend="cpp"), convlstm(*second, backend="cpp")]
    for out, inputs, same in zip(outputs, (first, second), want, strict=True):
        for got, expected in zip([*out, *gradients(out, inputs)], same, strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_backward_twice(memory: str) -> None:
    inputs = arguments((1, 3, 2, 8, 8, 16, 3, 3), torch.float32)
    outputs = convlstm(*inputs, backend="cpp", memory=memory)
    once, twice = (torch.autograd.grad(outputs[0].sum(), inputs, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_changed_output_is_noticed() -> None:
    inputs = arguments((1, 2, 2, 4, 4, 3, 3, 3), torch.float32)
    output = convlstm(*inputs, backend="cpp")[0]
    with torch.no_grad():
        output.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_threads() -> None:
    shape = (1, 3, 3, 12, 12, 16, 3, 3)
    inputs = [arguments(shape, torch.float32, seed=s) for s in range(4)]
    want = [run(i, backend="cpp") for i in inputs]
    got: dict[int, list[Tensor]] = {}

    def work(index: int) -> None:
        for _ in range(5):
            got[index] = run(inputs[index], backend="cpp")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, same in enumerate(want):
        assert all(torch.equal(a, b) for a, b in zip(got[index], same, strict=True))


@pytest.mark.parametrize("exact", [True, False])
def test_result_does_not_depend_on_the_number_of_threads(exact: bool) -> None:
    inputs = arguments((2, 3, 3, 18, 14, 20, 3, 3), torch.float32)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(run(inputs, backend="cpp", exact=exact))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_states_fed_back() -> None:
    x, weight, bias, h, c = arguments((2, 4, 3, 8, 8, 16, 3, 3), torch.float32)
    whole = convlstm(x, weight, bias, h, c, backend="cpp")
    outputs = []
    for t in range(4):
        out, h, c = convlstm(x[:, t : t + 1], weight, bias, h, c, backend="cpp")
        outputs.append(out)
    assert torch.equal(torch.cat(outputs, dim=1), whole[0])
    assert torch.equal(h, whole[1])
    assert torch.equal(c, whole[2])


def test_no_gradient_saves_nothing() -> None:
    x, weight, bias, h, c = arguments((1, 2, 2, 4, 4, 3, 3, 3), torch.float32)
    with torch.no_grad():
        output, _, _ = convlstm(x, weight, bias, h, c, backend="cpp")
    assert output.grad_fn is None
    torch.testing.assert_close(output, convlstm(x, weight, bias, h, c, backend="reference")[0])


@pytest.mark.parametrize("where", ["x", "weight", "h0", "c0"])
@pytest.mark.parametrize("exact", [True, False])
def test_nan_reaches_what_depends_on_it(where: str, exact: bool) -> None:
    names = ["x", "weight", "bias", "h0", "c0"]
    inputs = [t.detach() for t in arguments((1, 2, 2, 12, 12, 3, 3, 3), torch.float32) if t is not None]
    inputs[names.index(where)].view(-1)[0] = float("nan")
    got, want = (convlstm(*inputs, backend=backend, exact=exact)[0].isnan() for backend in ("cpp", "reference"))
    assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    inputs = arguments((1, 3, 2, 6, 6, 4, 3, 3), dtype)
    inputs[4] = inputs[4].detach().float().requires_grad_()
    output, h, c = convlstm(*inputs, backend="cpp")
    assert (output.dtype, h.dtype, c.dtype) == (dtype, dtype, torch.float32)
    assert all(g.dtype == t.dtype for g, t in zip(gradients((output, h, c), inputs), inputs, strict=True))
    want = convlstm(*widen(inputs), backend="reference")
    assert max(errors([output, h], list(want[:2]))) < torch.finfo(dtype).eps
    assert max(errors([c], [want[2]])) < 1e-5


def test_autocast() -> None:
    inputs = arguments((1, 2, 2, 6, 6, 4, 3, 3), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got, want = (convlstm(*inputs, backend=backend) for backend in ("cpp", "reference"))
    assert [t.dtype for t in got] == [t.dtype for t in want]
    assert max(errors(list(got), list(want))) < 0.05
    assert gradients(got, inputs)[0].dtype == torch.float32


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_opcheck(memory: str) -> None:
    inputs = arguments((2, 2, 2, 4, 5, 3, 3, 3), torch.float64)
    torch.library.opcheck(
        torch.ops.rlv2v_fast.convlstm_fwd.default, (*inputs, False, True, memory == "fast"), atol=1e-9, rtol=1e-9
    )
    detached = [t.detach() for t in inputs if t is not None]
    output, h, _, cells, gates = torch.ops.rlv2v_fast.convlstm_fwd(*detached, False, True, memory == "fast")
    grads = (torch.ones_like(output), torch.ones_like(h).requires_grad_(), None)
    args = (*grads, *inputs, output, cells, gates, False, True, True, True, True)
    # Not test_aot_dispatch_dynamic: PyTorch's own double backward of a convolution refuses symbolic sizes.
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    op = torch.ops.rlv2v_fast.convlstm_bwd.default
    torch.library.opcheck(op, args, test_utils=tests, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_compile_whole_graph(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    inputs = arguments((2, 2, 2, 4, 5, 3, 3, 3), torch.float64)

    def call(*args: Tensor) -> tuple[Tensor, ...]:
        return convlstm(*args, backend="cpp", memory=memory)

    outputs = torch.compile(call, fullgraph=True)(*inputs)
    got = [*outputs, *gradients(outputs, inputs)]
    assert max(errors(got, run(inputs, backend="reference"))) < 1e-12


def test_export_with_dynamic_batch() -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            _, weight, bias, _, _ = arguments((1, 1, 2, 1, 1, 3, 3, 3), torch.float32)
            self.weight, self.bias = torch.nn.Parameter(weight.detach()), torch.nn.Parameter(bias.detach())

        def forward(self, x: Tensor) -> Tensor:
            return convlstm(x, self.weight, self.bias, backend="cpp")[0]

    layer = Layer()
    dynamic = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    program = torch.export.export(layer, (torch.randn(2, 3, 2, 8, 8),), dynamic_shapes=dynamic)
    x = torch.randn(5, 3, 2, 8, 8)
    assert torch.equal(program.module()(x), layer(x))


ISA_SCRIPT = """
import torch, sys
torch.manual_seed(0)
from rlv2v_fast.ops.convlstm import convlstm
for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 3e-5)):
    for k, size, exact in ((17, 3, False), (17, 3, True), (9, 3, False), (17, 5, False)):
        args = [torch.randn(2, 3, 5, 9, 11), torch.randn(4 * k, 5 + k, size, size) / 5 / size, torch.randn(4 * k)]
        args = [t.to(dtype).requires_grad_() for t in args]
        wide = [t.detach().double().requires_grad_() for t in args]
        out, ref = convlstm(*args, backend="cpp", exact=exact), convlstm(*wide, backend="reference")
        grads = [torch.autograd.grad(o[0].square().sum() + o[2].sum(), a) for o, a in ((out, args), (ref, wide))]
        for got, want in zip([*out, *grads[0]], [*ref, *grads[1]]):
            assert (got - want).abs().max() <= tolerance * want.abs().max().clamp_min(1), (dtype, k, size, exact)
print("agrees")
"""


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa: str) -> None:
    environment = {**os.environ, "RLV2V_FAST_ISA": isa, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run([sys.executable, "-c", ISA_SCRIPT], env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == "agrees", result.stderr


def test_direct_call_without_saved_cells_says_so() -> None:
    inputs = arguments((1, 2, 2, 4, 4, 3, 3, 3), torch.float32)
    output = torch.ops.rlv2v_fast.convlstm_fwd(*inputs, False, False, False)[0]
    with pytest.raises(RuntimeError, match="save_cells=True"):
        output.sum().backward()


def test_auto_declines_peepholes_and_lengths_with_the_reason() -> None:
    x, weight, bias, _, _ = (t.detach() for t in arguments((1, 2, 2, 4, 4, 3, 3, 3), torch.float32) if t is not None)
    with pytest.raises(RuntimeError, match="no peephole weights"):
        convlstm(x, weight, bias, peephole=torch.zeros(3, 3), backend="cpp")
    with pytest.raises(RuntimeError, match="takes no lengths"):
        convlstm(x, weight, bias, lengths=torch.tensor([1]), backend="cpp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BackendFallbackWarning)
        got = convlstm(x, weight, bias, lengths=torch.tensor([1]))
    assert not got[0][:, 1].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 0, 2, 4, 4)}, r"x must hold at least one time step, T >= 1; got T=0"),
        ({"x": torch.zeros(2, 4, 4)}, r"x must have shape \(B, T, C, H, W\); got \(2, 4, 4\)"),
        ({"weight": torch.zeros(12, 4, 3, 3)}, r"weight must have shape .* got \(12, 4, 3, 3\)"),
        ({"weight": torch.zeros(12, 5, 2, 3)}, r"weight must have an odd kernel .* got \(2, 3\)"),
        ({"weight": torch.zeros(12, 5, 3, 3).double()}, r"weight must have the dtype of x"),
        ({"bias": torch.zeros(3)}, r"bias must have shape \(12,\); got \(3,\)"),
        ({"h0": torch.zeros(1, 3, 4, 5)}, r"h0 must have shape \(1, 3, 4, 4\); got \(1, 3, 4, 5\)"),
        ({"c0": torch.zeros(1, 2, 4, 4)}, r"c0 must have shape \(1, 3, 4, 4\); got \(1, 2, 4, 4\)"),
        ({"memory": "little"}, r"memory must be one of fast, low; got 'little'"),
        ({"backend": "cudnn"}, r"backend must be one of .*; got 'cudnn'"),
    ],
)
def test_errors_name_argument_rule_and_value(change: dict[str, object], message: str) -> None:
    arguments_ = {
        "x": torch.zeros(1, 2, 2, 4, 4),
        "weight": torch.zeros(12, 5, 3, 3),
        "bias": torch.zeros(12),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        convlstm(**arguments_)
