"""convlstm_gates in Triton against the reference in float64."""

import pytest
import torch
from torch import Tensor

from rlv2v_fast.kernels.convlstm_gates import convlstm_gates_bwd, convlstm_gates_fwd, empty_sums, pixel_strides
from rlv2v_fast.ops.convlstm_gates import convlstm_gates
from rlv2v_fast.reference.convlstm import convlstm_gates_reference

# (B, K, H, W): smallest, odd everything, one channel over several tiles, channels beyond a tile, and whole tiles.
SIZES = [(1, 1, 1, 1), (3, 17, 3, 7), (2, 1, 33, 35), (1, 40, 5, 9), (3, 64, 4, 8)]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = [torch.float32, torch.float16]
# Largest error beside the largest entry. A half type rounds once on the way out, by 2^-11 or 2^-8 of the entry;
# float32 leaves a few 2^-24 from exp and the polynomial of tanh.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}
STEP = 3


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=TOLERANCE[dtype] * scale)


class Step:
    """One step's inputs, launched by forward() and backward(), and its results by the reference in float64."""

    def __init__(self, size, dtype, layout, device, *, bias=False, peephole=False, lengths=False):
        self.size, self.dtype, self.layout, self.device = size, dtype, layout, device
        self.random = torch.Generator().manual_seed(0)
        batch, hidden, height, width = size
        self.wide = (batch, 4 * hidden, height, width)
        self.gates = 2 * self.draw(self.wide, dtype)
        self.c, self.grad_c_next = self.draw(size), self.draw(size)
        self.h_prev, self.grad_output, self.grad_h, self.grad_last = (self.draw(size, dtype) for _ in range(4))
        self.bias = torch.randn(4 * hidden, generator=self.random).to(device, dtype) if bias else None
        self.peephole = torch.randn(3, hidden, generator=self.random).to(device, dtype) if peephole else None
        # Of the samples, one is at its last step, one has ended, one goes on.
        ends = torch.tensor([STEP + 1, STEP, STEP + 5], device=device)
        self.lengths = ends[torch.arange(batch, device=device) % 3] if lengths else None
        self._expect()

    def draw(self, shape, dtype=torch.float32) -> Tensor:
        values = torch.randn(shape, generator=self.random).to(self.device, dtype)
        return values.contiguous(memory_format=LAYOUTS[self.layout])

    def poison(self, shape, dtype=torch.float32) -> Tensor:
        """An output that shows every element not written."""
        return torch.full_like(self.draw(shape, dtype), float("nan"))

    def _expect(self) -> None:
        inputs = {"gates": self.gates, "c": self.c, "bias": self.bias, "peephole": self.peephole}
        leaves = {name: t.double().requires_grad_() for name, t in inputs.items() if t is not None}
        gates = leaves["gates"] + (leaves["bias"][:, None, None] if "bias" in leaves else 0)
        h, c_next = convlstm_gates_reference(gates, leaves["c"], leaves.get("peephole"))
        output, grad_output = h, self.grad_output.double() + self.grad_h
        if self.lengths is not None:
            active, ends = ((test)[:, None, None, None] for test in (self.lengths > STEP, self.lengths == STEP + 1))
            grad_output = grad_output + torch.where(ends, self.grad_last, 0)
            output, h = torch.where(active, h, 0), torch.where(active, h, self.h_prev.double())
            c_next = torch.where(active, c_next, leaves["c"])
        self.output, self.h, self.c_next = output.detach(), h.detach(), c_next.detach()
        grads = torch.autograd.grad((output, c_next), list(leaves.values()), (grad_output, self.grad_c_next.double()))
        self.grads = dict(zip(leaves, grads, strict=True))

    def forward(self, h: Tensor, c_next: Tensor, **optional: Tensor) -> None:
        options = {"bias": self.bias, "peephole": self.peephole, "lengths": self.lengths, "step": STEP}
        convlstm_gates_fwd(self.gates, self.c, h, c_next, h_prev=self.h_prev, **options, **optional)

    def backward(self, sums: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c_next = self.c_next.float().contiguous(memory_format=LAYOUTS[self.layout])
        grad_gates, grad_c = self.poison(self.wide, self.dtype), self.poison(self.size)
        convlstm_gates_bwd(
            self.gates,
            self.c,
            c_next,
            self.grad_c_next,
            grad_gates,
            grad_c,
            grad_output=self.grad_output,
            grad_h=self.grad_h,
            grad_last=None if self.lengths is None else self.grad_last,
            bias=self.bias,
            peephole=self.peephole,
            lengths=self.lengths,
            step=STEP,
            sums=sums,
        )
        return grad_gates, grad_c


@pytest.mark.parametrize("options", [{}, {"bias": True, "peephole": True, "lengths": True}], ids=["plain", "all"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_forward_and_backward(size, dtype, layout, options, device):
    step = Step(size, dtype, layout, device, **options)
    h, c_next, output = step.poison(size, dtype), step.poison(size), step.poison(size, dtype)
    step.forward(h, c_next, output=output)
    assert_close(h, step.h, dtype)
    assert_close(output, step.output, dtype)
    assert_close(c_next, step.c_next, torch.float32)

    sums = empty_sums(step.c, peephole=step.peephole is not None)
    grad_gates, grad_c = step.backward(sums)
    assert_close(grad_gates, step.grads["gates"], dtype)
    assert_close(grad_c, step.grads["c"], torch.float32)
    if options:
        totals = sums.sum(dim=0)
        assert_close(totals[:4].flatten(), step.grads["bias"], torch.float32)
        assert_close(totals[4:], step.grads["peephole"], torch.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_place(layout, device):
    """A state, and gradients, may overwrite what they come from: the sequence does so."""
    step = Step((2, 17, 3, 7), torch.float32, layout, device)
    h, c = step.poison(step.size), step.c.clone()
    convlstm_gates_fwd(step.gates, c, h, c)
    assert_close(c, step.c_next, torch.float32)
    grads, grad_c = step.gates.clone(), step.grad_c_next.clone()
    convlstm_gates_bwd(grads, step.c, c, grad_c, grads, grad_c, grad_output=step.grad_output, grad_h=step.grad_h)
    assert_close(grads, step.grads["gates"], torch.float32)
    assert_close(grad_c, step.grads["c"], torch.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("hidden", [1, 17, 32])
def test_h_goes_into_a_wider_buffer_and_nowhere_else(hidden, layout, device):
    size = (2, hidden, 5, 7)
    step = Step(size, torch.float16, layout, device)
    conv_input = torch.full((2, 5, 7, 3 + hidden + 2), float("nan"), dtype=torch.float16, device=device)
    sequence = torch.full((2, 3, hidden, 5, 7), float("nan"), dtype=torch.float16, device=device)
    inside = conv_input[..., 3 : 3 + hidden]
    step.forward(inside.permute(0, 3, 1, 2), step.poison(size), output=sequence[:, 1])
    assert_close(inside.permute(0, 3, 1, 2), step.h, torch.float16)
    assert_close(sequence[:, 1], step.h, torch.float16)
    assert conv_input[..., :3].isnan().all()
    assert conv_input[..., 3 + hidden :].isnan().all()
    assert sequence[:, 0].isnan().all()
    assert sequence[:, 2].isnan().all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_stays_where_it_is(layout, device):
    step = Step((2, 17, 3, 7), torch.float32, layout, device)
    hit = torch.zeros(step.size, dtype=torch.bool, device=device)
    for gate in range(4):
        at = (1, gate, 2, gate)
        step.gates[at[0], gate * 17 + gate, at[2], at[3]] = float("nan")
        hit[at] = True
    h, c_next = step.poison(step.size), step.poison(step.size)
    step.forward(h, c_next)
    assert torch.equal(h.isnan(), hit)
    # The output gate (2) does not touch the cell state.
    hit[1, 2, 2, 2] = False
    assert torch.equal(c_next.isnan(), hit)


@pytest.mark.parametrize("value", [float("inf"), 1e30, 200.0])
def test_saturated_gates_are_finite(value, device):
    step = Step((1, 2, 2, 2), torch.float32, "contiguous", device)
    h, c_next = step.poison(step.size), step.poison(step.size)
    for sign in (1, -1):
        step.gates.fill_(sign * value)
        step.forward(h, c_next)
        expected = convlstm_gates_reference(step.gates.double(), step.c.double())
        assert_close(h, expected[0], torch.float32)
        assert_close(c_next, expected[1], torch.float32)


def test_gradients_expanded_with_stride_zero(device):
    step = Step((2, 17, 3, 7), torch.float32, "channels_last", device)
    step.grad_output = step.grad_output[:1, :1, :1, :1].expand(step.size)
    step._expect()
    grad_gates, grad_c = step.backward()
    assert_close(grad_gates, step.grads["gates"], torch.float32)
    assert_close(grad_c, step.grads["c"], torch.float32)


def test_small_tanh_keeps_relative_precision(device):
    """2 sigmoid(2x) - 1 would lose all digits of a small x."""
    g = torch.logspace(-7, 1, 64, device=device)
    gates = torch.zeros(1, 4, 8, 8, device=device)
    gates[:, 0], gates[:, 3] = 100.0, torch.cat([g[:32], -g[32:]]).reshape(8, 8)
    c = torch.zeros(1, 1, 8, 8, device=device)
    c_next = torch.empty_like(c)
    convlstm_gates_fwd(gates, c, torch.empty_like(c), c_next)
    torch.testing.assert_close(c_next[0, 0].double(), gates[0, 3].double().tanh(), rtol=6e-7, atol=0)


def test_zero_batch_launches_nothing(device):
    empty = torch.empty(0, 2, 3, 3, device=device)
    wide = torch.empty(0, 8, 3, 3, device=device)
    convlstm_gates_fwd(wide, empty, empty, empty)
    convlstm_gates_bwd(wide, empty, empty, empty, wide, empty)


def test_layouts_that_do_not_fit_are_named():
    image = torch.empty(2, 3, 8, 8)
    with pytest.raises(ValueError, match="h must have H and W that form one axis of pixels"):
        pixel_strides("h", image[..., :4, :4])
    gates, c = torch.empty(2, 12, 8, 8), image
    with pytest.raises(ValueError, match="c_next must have the strides"):
        convlstm_gates_fwd(gates, c, c, c.contiguous(memory_format=torch.channels_last))
    with pytest.raises(ValueError, match="h_prev must be given with lengths"):
        convlstm_gates_fwd(gates, c, c, c, lengths=torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="grad_last must come with lengths"):
        convlstm_gates_bwd(gates, c, c, c, gates, c, grad_last=c)
    with pytest.raises(ValueError, match="peephole must be contiguous"):
        convlstm_gates_fwd(gates, c, c, c, peephole=torch.empty(3, 3).t())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (2, 5, 3, 7), (0, 2, 3, 3)], ids=str)
def test_operator_and_its_gradients(size, layout, device):
    step = Step(size, torch.float32, layout, device)
    gates, c = step.gates.requires_grad_(), step.c.requires_grad_()
    h, c_next = convlstm_gates(gates, c, backend="triton")
    assert_close(h, step.h, torch.float32)
    assert_close(c_next, step.c_next, torch.float32)
    grads = torch.autograd.grad(
        (h, c_next), (gates, c), (step.grad_output + step.grad_h, step.grad_c_next), create_graph=True
    )
    assert_close(grads[0], step.grads["gates"], torch.float32)
    assert_close(grads[1], step.grads["c"], torch.float32)
    # Second derivatives, against those of the reference.
    expected_h, expected_c = convlstm_gates_reference(gates, c)
    first = torch.autograd.grad(
        (expected_h, expected_c), (gates, c), (step.grad_output + step.grad_h, step.grad_c_next), create_graph=True
    )
    second = torch.autograd.grad([g.square().sum() for g in grads], (gates, c))
    expected = torch.autograd.grad([g.square().sum() for g in first], (gates, c))
    for actual, reference in zip(second, expected, strict=True):
        torch.testing.assert_close(actual, reference, rtol=1e-4, atol=1e-4)


def test_operator_registration(device):
    step = Step((2, 3, 4, 5), torch.float32, "channels_last", device)
    ops = torch.ops.rlv2v_fast
    arguments = (step.gates.requires_grad_(), step.c.requires_grad_())
    torch.library.opcheck(ops.convlstm_gates_triton_fwd.default, arguments)
    states = (step.grad_output, step.grad_c_next, *(t.detach() for t in arguments), step.grad_c_next)
    torch.library.opcheck(ops.convlstm_gates_triton_bwd.default, states)


def test_explicit_backend_refuses_with_its_reason(monkeypatch):
    gates, c = torch.zeros(1, 4, 2, 2), torch.zeros(1, 1, 2, 2)
    with pytest.raises(RuntimeError, match="not torch\\.float64"):
        convlstm_gates(gates.double(), c.double(), backend="triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="run on a GPU, not on cpu"):
        convlstm_gates(gates, c, backend="triton")


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [*SIZES, (2, 64, 64, 64), (1, 256, 129, 127)], ids=str)
def test_on_gpu(size, dtype, layout, gpu):
    test_forward_and_backward(size, dtype, layout, {"bias": True, "peephole": True, "lengths": True}, gpu)


@pytest.mark.gpu
def test_more_than_2_to_the_31_elements(gpu):
    """Offsets are 64-bit: the last pixel of the last sample is right, at 4 GB of gates and as much output."""
    batch, hidden, side = 2, 64, 2049
    gates = torch.zeros((batch, 4 * hidden, side, side), dtype=torch.float16, device=gpu)
    assert gates.numel() > 2**31
    gates[-1, :, -1, -1] = 1.0
    c = torch.zeros((batch, hidden, side, side), device=gpu)
    h = torch.empty_like(c, dtype=torch.float16)
    convlstm_gates_fwd(gates, c, h, c)
    expected, _ = convlstm_gates_reference(torch.ones(1, 4, 1, 1), torch.zeros(1, 1, 1, 1))
    torch.testing.assert_close(
        h[-1, :, -1, -1].cpu().float(), expected.expand(1, hidden, 1, 1).flatten(), rtol=0, atol=1e-3
    )
    assert h.count_nonzero() == hidden
