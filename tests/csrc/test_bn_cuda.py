"""The CUDA kernels of the normalization operators against the CPU's, on a GPU or simulated block by block."""

import pytest
import torch

from rlv2v_fast.reference.bn import bn_add_relu_pool_reference, bn_add_relu_reference, bn_relu_reference
from tests.ops.bn_cases import LAYOUTS, MODES, clip, needs_cpp, norm

pytestmark = needs_cpp
# Sizes that do and do not divide into vectors, few and many channels, columns, rows, chunks.
SHAPES = [(2, 1, 1, 2, 2), (2, 3, 2, 6, 4), (2, 17, 3, 4, 6), (1, 8, 2, 34, 24), (3, 24, 2, 2, 8), (2, 40, 1, 16, 16)]
ODD = [(2, 3, 2, 5, 4), (2, 16, 1, 3, 9), (1, 4, 3, 7, 16)]
EXACT = {"rtol": 1e-10, "atol": 1e-10}
HALVES = [torch.bfloat16, torch.float16]


def detached(*tensors):
    return [None if t is None else t.detach() for t in tensors]


def statistics(norm, found):
    return (norm.mean, norm.var) if norm.mean is not None else found


def both(cuda_ops, op, arguments, **tolerance):
    """The outputs, after checking that the two implementations give the same."""
    ours = cuda_ops(op, *arguments)
    wanted = getattr(torch.ops.rlv2v_fast, op)(*arguments)
    torch.testing.assert_close(ours, wanted, **tolerance)
    return wanted


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES + ODD)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bn_stats(cuda_ops, shape, layout, per_frame, dtype):
    x = clip(shape, layout, dtype).detach()
    both(cuda_ops, "bn_stats", (x, per_frame), **(EXACT if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES + ODD)
def test_bn_relu(cuda_ops, shape, layout, mode):
    x, n = clip(shape, layout).detach(), norm(shape[1], mode)
    weight, bias, mean, var = detached(*n[:4])
    _, *found = both(cuda_ops, "bn_relu_fwd", (x, weight, bias, mean, var, n.eps, n.per_frame), **EXACT)
    grad = torch.randn_like(x)
    arguments = (grad, x, weight, bias, *statistics(n, found), n.eps, n.per_frame, mode[1])
    both(cuda_ops, "bn_relu_bwd", arguments, **EXACT)


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bn_add_relu(cuda_ops, shape, layout, mode, low, renormalize):
    x, n, m = clip(shape, layout).detach(), norm(shape[1], mode), norm(shape[1], mode)
    skip = clip((*shape[:3], shape[3] // 2, shape[4] // 2) if low else shape, layout).detach()
    first, second = detached(*n[:4]), detached(*m[:4]) if renormalize else [None] * 4
    fwd = (x, skip, *first, n.eps, *second, m.eps, n.per_frame)
    _, *found = both(cuda_ops, "bn_add_relu_fwd", fwd, **EXACT)
    again = (*second[:2], *statistics(m, found[2:])) if renormalize else second
    bwd = (torch.randn_like(x), x, skip, *first[:2], *statistics(n, found[:2]), n.eps, mode[1])
    both(cuda_ops, "bn_add_relu_bwd", (*bwd, *again, m.eps, mode[1], n.per_frame), **EXACT)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES + ODD)
def test_bn_add_relu_pool(cuda_ops, shape, layout, mode):
    x, skip = clip(shape, layout).detach(), clip(shape, layout).detach()
    n, m = norm(shape[1], mode), norm(shape[1], mode)
    first, second = detached(*n[:4]), detached(*m[:4])
    fwd = (x, skip, *first, n.eps, *second, m.eps, n.per_frame)
    z, largest, index, *found = both(cuda_ops, "bn_add_relu_pool_fwd", fwd, **EXACT)
    norms = (*first[:2], *statistics(n, found[:2]), n.eps, mode[1])
    norms += (*second[:2], *statistics(m, found[2:]), m.eps, mode[1])
    bwd = (torch.randn_like(z), x, largest, index, *norms, n.per_frame)
    both(cuda_ops, "bn_add_relu_pool_bwd", bwd, **EXACT)


def half_case(op, dtype, layout):
    """Arguments of op's forward in a 16-bit dtype, its reference in float64, and a gradient."""
    shape = (2, 24, 2, 8, 16)
    x, skip = clip(shape, layout, dtype).detach(), clip(shape, layout, dtype).detach()
    n, m = norm(24, dtype=torch.float32), norm(24, dtype=torch.float32)
    first, second = detached(*n[:4]), detached(*m[:4])
    wide = [t.double().requires_grad_() for t in (x, skip, *first[:2], *second[:2])]
    norms = (*wide[2:4], None, None, n.eps, False), (*wide[4:], None, None, m.eps, False)
    if op == "bn_relu":
        return (x, *first, n.eps, False), bn_relu_reference(wide[0], *norms[0]), (wide[0], *wide[2:4])
    reference = bn_add_relu_reference if op == "bn_add_relu" else bn_add_relu_pool_reference
    return (x, skip, *first, n.eps, *second, m.eps, False), reference(*wide[:2], *norms), wide


@pytest.mark.parametrize("op", ["bn_relu", "bn_add_relu", "bn_add_relu_pool"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", HALVES)
def test_16_bit_results_are_rounded_once_from_float32_statistics(cuda_ops, op, dtype, layout):
    arguments, wanted, wide = half_case(op, dtype, layout)
    z, *rest = cuda_ops(f"{op}_fwd", *arguments)
    unit = torch.finfo(dtype).eps
    assert z.dtype == dtype
    found = [t for t in rest if t.dtype == torch.float32]
    rounded = wanted.abs()
    if op == "bn_add_relu_pool":
        # What the pooling gave is rounded, too, before it is normalized.
        scale = arguments[7] / (found[3] + 1e-3).sqrt()
        rounded = rounded + scale.abs().view(-1, 1, 1, 1) * rest[0].double()
    assert ((z - wanted).abs() <= 0.51 * unit * rounded + 1e-5).all()
    assert len(found) == (2 if op == "bn_relu" else 4)
    torch.testing.assert_close(found[0], arguments[0].float().mean((0, 2, 3, 4)), rtol=1e-5, atol=1e-5)

    grad = torch.randn_like(z)
    gradients = torch.autograd.grad(wanted, wide, grad.double())
    if op == "bn_relu":
        ours = cuda_ops("bn_relu_bwd", grad, arguments[0], *arguments[1:3], *found, 1e-3, False, False)
    else:
        norms = (*arguments[2:4], *found[:2], 1e-3, False, *arguments[7:9], *found[2:], 1e-3, False)
        saved = arguments[:2] if op == "bn_add_relu" else (arguments[0], *rest[:2])
        ours = cuda_ops(f"{op}_bwd", grad, *saved, *norms, False)
    for a, b in zip(ours, gradients, strict=True):
        assert a.dtype == (dtype if a.dim() == 5 else torch.float32)
        assert (a - b).norm() <= 4 * unit * b.norm()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_mean_costs_the_variance_only_its_rounding(cuda_ops, layout):
    x = (1000 + torch.randn(2, 8, 2, 16, 16)).contiguous(memory_format=layout)
    mean, var = cuda_ops("bn_stats", x, False)
    torch.testing.assert_close(mean.double(), x.double().mean((0, 2, 3, 4)), rtol=1e-7, atol=0)
    # Of means near 1000, rounded; sums of squares would err by 1000^2 units.
    bound = 1000 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(var.double(), x.double().var((0, 2, 3, 4), correction=0), rtol=bound, atol=0)


def test_tensors_that_are_not_aligned_to_vectors(cuda_ops):
    storage = torch.randn(1 + 2 * 8 * 2 * 8 * 8).to(cuda_ops.device)
    x, one, zero = storage[1:].view(2, 8, 2, 8, 8), *(f(8, device=storage.device) for f in (torch.ones, torch.zeros))
    assert x.data_ptr() % 16 != 0
    ours, wanted = (cuda_ops.namespace.bn_relu_fwd(t, one, zero, None, None, 1e-5, False) for t in (x, x.clone()))
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


def test_nan_reaches_its_channel_and_no_other(cuda_ops):
    x, one, zero = torch.randn(2, 8, 2, 4, 4), torch.ones(8), torch.zeros(8)
    x[1, 3, 0, 2, 1] = float("nan")
    y = cuda_ops("bn_relu_fwd", x, one, zero, None, None, 1e-5, False)[0]
    assert y[:, 3].isnan().all()
    assert not y[:, :3].isnan().any()
    no_second = (None, None, None, None, 0.0)
    frozen = cuda_ops("bn_add_relu_fwd", x, x, one, zero, zero, one, 1e-5, *no_second, False)[0]
    assert frozen.isnan().sum() == 1


def test_results_do_not_depend_on_chance(cuda_ops):
    x = torch.randn(4, 8, 4, 32, 32)
    first, second = (cuda_ops("bn_stats", x, False) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_zero_batch(cuda_ops):
    x, one = torch.zeros(0, 4, 2, 4, 4), torch.ones(4)
    y, mean, _ = cuda_ops("bn_relu_fwd", x, one, one, None, None, 1e-5, False)
    assert y.shape == x.shape
    assert mean.isnan().all()
    assert not cuda_ops("bn_relu_bwd", x, x, one, one, mean, mean, 1e-5, False, False)[1].any()
