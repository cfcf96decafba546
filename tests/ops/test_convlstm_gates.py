import os
import subprocess
import sys

import pytest
import torch
from torch.library import opcheck

from rlv2v_fast import extension
from rlv2v_fast.ops.convlstm_gates import convlstm_gates

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 3), (1, 17, 2, 2), (1, 2, 4, 4)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
needs_cpp = pytest.mark.skipif(extension.why_not_cpu() is not None, reason=str(extension.why_not_cpu()))


def make(shape, dtype=torch.float64, layout=torch.contiguous_format, device="cpu"):
    b, k, h, w = shape
    gates = (2 * torch.randn(b, 4 * k, h, w, dtype=dtype, device=device)).contiguous(memory_format=layout)
    c = torch.randn(shape, dtype=dtype, device=device).contiguous(memory_format=layout)
    return gates, c


def by_hand(gates, c):
    """The cell written out with torch.lstm-free scalar formulas, in float64."""
    i, f, o, g = gates.double().chunk(4, 1)
    c_next = c.double() / (1 + (-f).exp()) + ((2 * g).exp() - 1) / ((2 * g).exp() + 1) / (1 + (-i).exp())
    return ((2 * c_next).exp() - 1) / ((2 * c_next).exp() + 1) / (1 + (-o).exp()), c_next


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpp", marks=needs_cpp)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_cell_written_out(shape, layout, backend):
    gates, c = make(shape, layout=layout)
    for got, wanted in zip(convlstm_gates(gates, c, backend=backend), by_hand(gates, c), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@needs_cpp
def test_float32_error_is_within_twice_pytorchs_own():
    gates, c = make((2, 32, 31, 33), torch.float32)
    exact = by_hand(gates, c)
    ours = convlstm_gates(gates, c, backend="cpp")
    pytorch = convlstm_gates(gates, c, backend="reference")
    for a, b, truth in zip(ours, pytorch, exact, strict=True):
        assert (a - truth).abs().max() <= 2 * (b - truth).abs().max()


@needs_cpp
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_first_and_second_derivatives(shape, layout):
    inputs = tuple(t.requires_grad_() for t in make(shape, layout=layout))
    torch.autograd.gradcheck(lambda g, c: convlstm_gates(g, c, backend="cpp"), inputs)
    torch.autograd.gradgradcheck(lambda g, c: convlstm_gates(g, c, backend="cpp"), inputs)


@needs_cpp
@pytest.mark.parametrize("unused", [0, 1])
def test_an_unused_output_contributes_nothing(unused):
    grads = []
    for backend in ("cpp", "reference"):
        torch.manual_seed(1)
        gates, c = (t.requires_grad_() for t in make((2, 3, 4, 5)))
        convlstm_gates(gates, c, backend=backend)[1 - unused].square().sum().backward()
        grads.append((gates.grad, c.grad))
    torch.testing.assert_close(*grads)


@needs_cpp
def test_expanded_gradients_and_sliced_inputs():
    gates, c = make((2, 4, 6, 10))
    gates, c = gates[..., ::2].requires_grad_(), c[..., ::2].requires_grad_()
    h, c_next = convlstm_gates(gates, c, backend="cpp")
    (h.sum() + c_next.sum()).backward()  # the gradient of sum() arrives with stride 0
    expected = [t.detach().clone().requires_grad_() for t in (gates, c)]
    h, c_next = convlstm_gates(*expected, backend="reference")
    (h.sum() + c_next.sum()).backward()
    torch.testing.assert_close(gates.grad, expected[0].grad)
    torch.testing.assert_close(c.grad, expected[1].grad)


@needs_cpp
def test_zero_batch():
    gates, c = (t.requires_grad_() for t in make((0, 3, 4, 5), torch.float32))
    h, c_next = convlstm_gates(gates, c, backend="cpp")
    (h.sum() + c_next.sum()).backward()
    assert h.shape == c_next.shape == (0, 3, 4, 5)
    assert gates.grad.shape == (0, 12, 4, 5)


@needs_cpp
def test_nan_and_infinity_act_as_in_pytorch():
    gates, c = make((1, 4, 4, 8), torch.float32)
    gates[0, 0, 0, :4] = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30])
    c[0, 2, 3, 3] = float("nan")
    for got, wanted in zip(
        convlstm_gates(gates, c, backend="cpp"), convlstm_gates(gates, c, backend="reference"), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6, equal_nan=True)
        assert got.isnan().any()


@needs_cpp
def test_opcheck():
    gates, c = (t.requires_grad_() for t in make((2, 3, 5, 7)))
    opcheck(torch.ops.rlv2v_fast.convlstm_gates_fwd, (gates, c))
    h, c_next = convlstm_gates(gates, c, backend="cpp")
    opcheck(
        torch.ops.rlv2v_fast.convlstm_gates_bwd,
        tuple(t.detach().requires_grad_() for t in (h, c_next, gates, c, c_next)),
    )


@needs_cpp
def test_compiles_as_one_graph_with_its_gradient():
    gates, c = (t.requires_grad_() for t in make((2, 3, 5, 7)))
    compiled = torch.compile(lambda g, c: convlstm_gates(g, c, backend="cpp")[0].square().sum(), fullgraph=True)
    compiled(gates, c).backward()
    got = gates.grad.clone(), c.grad.clone()
    gates.grad = c.grad = None
    convlstm_gates(gates, c, backend="reference")[0].square().sum().backward()
    torch.testing.assert_close(got, (gates.grad, c.grad))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_gates_keep_a_float32_cell(dtype):
    gates, c = make((2, 3, 5, 7), torch.float32)
    h, c_next = convlstm_gates(gates.to(dtype), c, backend="reference")
    exact = by_hand(gates.to(dtype), c)
    assert (h.dtype, c_next.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(c_next.double(), exact[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(h.double(), exact[0], rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


@needs_cpp
@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_every_instruction_set_agrees(isa):
    code = (
        "import torch; from rlv2v_fast.ops.convlstm_gates import convlstm_gates as f;"
        "torch.manual_seed(0); g, c = 2 * torch.randn(2, 68, 5, 7), torch.randn(2, 17, 5, 7);"
        "a, b = f(g, c, backend='cpp'), f(g, c, backend='reference');"
        "print(max((x - y).abs().max().item() for x, y in zip(a, b)))"
    )
    environment = {**os.environ, "RLV2V_FAST_ISA": isa}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert float(done.stdout) < 1e-6


@pytest.mark.parametrize(
    ("gates", "c", "message"),
    [
        (torch.zeros(1, 8, 2, 2), torch.zeros(2, 2, 2), r"c must have shape \(B, K, H, W\); got \(2, 2, 2\)"),
        (torch.zeros(1, 7, 2, 2), torch.zeros(1, 2, 2, 2), r"gates must have shape \(1, 8, 2, 2\).*got \(1, 7, 2, 2\)"),
        (torch.zeros(1, 8, 2, 2), torch.zeros(1, 2, 2, 2).double(), "c must be torch.float32 beside torch.float32"),
        (torch.zeros(1, 8, 2, 2), torch.zeros(1, 2, 2, 2, device="meta"), "c must be on the device of gates, cpu"),
    ],
)
def test_input_that_does_not_fit_is_named(gates, c, message):
    with pytest.raises(ValueError, match=message):
        convlstm_gates(gates, c)


def test_a_backend_that_cannot_run_says_why():
    with pytest.raises(RuntimeError, match="backend='cpp' cannot run convlstm_gates: the C\\+\\+ kernel takes float32"):
        convlstm_gates(torch.zeros(1, 8, 2, 2).half(), torch.zeros(1, 2, 2, 2), backend="cpp")


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_cuda_matches_the_reference_with_gradients(shape, layout):
    results = []
    for backend in ("cpp", "reference"):
        torch.manual_seed(2)
        gates, c = (t.requires_grad_() for t in make(shape, layout=layout, device="cuda"))
        h, c_next = convlstm_gates(gates, c, backend=backend)
        (h.square().sum() + c_next.sum()).backward()
        results.append((h, c_next, gates.grad, c.grad))
    torch.testing.assert_close(*results)
