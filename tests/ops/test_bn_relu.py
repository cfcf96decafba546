import pytest
import torch
from torch.library import opcheck

from rlv2v_fast.ops.bn import Norm
from rlv2v_fast.ops.bn_relu import bn_relu
from tests.ops.bn_cases import (
    DTYPES,
    LAYOUTS,
    MODES,
    SHAPES,
    check_against_reference,
    check_derivatives,
    check_error,
    clip,
    fused,
    norm,
)


@pytest.mark.parametrize("mode", MODES)
def test_reference_is_the_formula(mode):
    x, n = clip((2, 3, 2, 5, 4)), norm(3, mode)
    dims = (3, 4) if n.per_frame else (0, 2, 3, 4)
    mean, var = x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
    if n.mean is not None:
        mean, var = (t.view(3, 1, 1, 1) for t in (n.mean, n.var))
    wanted = (x - mean) / (var + n.eps).sqrt() * n.weight.view(3, 1, 1, 1) + n.bias.view(3, 1, 1, 1)
    torch.testing.assert_close(bn_relu(x, n, backend="reference")[0], wanted.clamp(min=0))


@fused
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_reference_with_gradients_and_statistics(shape, layout, mode):
    check_against_reference(bn_relu, (clip(shape, layout), norm(shape[1], mode)))


@fused
@pytest.mark.parametrize("mode", MODES)
def test_first_and_second_derivatives(mode):
    check_derivatives(bn_relu, (clip((2, 2, 2, 3, 2)), norm(2, mode)))


@fused
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_error_is_within_twice_pytorchs_own(layout, dtype):
    check_error(bn_relu, (clip((2, 20, 4, 31, 33), layout), norm(20)), dtype)


@fused
@pytest.mark.parametrize("layout", LAYOUTS)
def test_output_keeps_the_layout(layout):
    x = clip((2, 3, 2, 5, 4), layout)
    assert bn_relu(x, norm(3), backend="cpp")[0].stride() == x.stride()


@fused
def test_expanded_gradients_and_sliced_inputs():
    x, n = clip((2, 3, 2, 6, 10)), norm(3)
    grads = []
    for backend in ("cpp", "reference"):
        y = bn_relu(x[..., ::2], n, backend=backend)[0]
        grads.append(torch.autograd.grad(y.sum(), (x, n.weight, n.bias)))  # the gradient of sum() has stride 0
    torch.testing.assert_close(*grads)


@fused
def test_zero_batch():
    x, n = clip((0, 3, 2, 4, 4), dtype=torch.float32), norm(3, dtype=torch.float32)
    y = bn_relu(x, n, backend="cpp")[0]
    grads = torch.autograd.grad(y.sum(), (x, n.weight, n.bias))
    assert y.shape == grads[0].shape == (0, 3, 2, 4, 4)
    assert not grads[1].any()
    assert not grads[2].any()


@fused
@pytest.mark.parametrize("frozen", [False, True])
def test_nan_passes_as_in_pytorch(frozen):
    x, n = clip((2, 3, 2, 4, 4)).detach(), norm(3, (False, frozen))
    x[0, 1, 0, 2, 3] = float("nan")
    ours, wanted = (bn_relu(x, n, backend=backend)[0] for backend in ("cpp", "reference"))
    torch.testing.assert_close(ours, wanted, equal_nan=True)
    assert ours.isnan().any()


@fused
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout, mode):
    x, n = clip((2, 3, 2, 5, 4), layout), norm(3, mode)
    opcheck(torch.ops.rlv2v_fast.bn_relu_fwd, (x, *n))
    of_frames = torch.rand((2, 3, 2) if n.per_frame else 3, dtype=x.dtype, device=x.device)
    statistics = (of_frames, of_frames + 1) if n.mean is None else (n.mean, n.var)
    arguments = (torch.randn_like(x), x, n.weight, n.bias, *statistics, n.eps, n.per_frame, mode[1])
    # The statistics are functions of x, of which the second derivative takes its own.
    opcheck(torch.ops.rlv2v_fast.bn_relu_bwd, arguments, test_utils=("test_schema", "test_faketensor"))


@fused
def test_compiles_as_one_graph_with_its_gradient():
    x, n = clip((2, 3, 2, 5, 4)), norm(3)
    grads = []
    for backend, wrap in (("cpp", lambda f: torch.compile(f, fullgraph=True)), ("reference", lambda f: f)):
        y = wrap(lambda x, n, backend=backend: bn_relu(x, n, backend=backend)[0])(x, n)
        grads.append(torch.autograd.grad(y.square().sum(), (x, n.weight, n.bias)))
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weight": torch.zeros(4)}, r"norm.weight must have shape \(3,\); got \(4,\)"),
        ({"bias": torch.zeros(3).double()}, "norm.bias must be torch.float32 on cpu like x; got torch.float64 on cpu"),
        ({"mean": torch.zeros(3)}, "norm must have both mean and var or neither"),
        ({"mean": torch.zeros(3), "var": torch.ones(3), "per_frame": True}, "norm must measure its statistics per"),
    ],
)
def test_arguments_that_do_not_fit_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        bn_relu(torch.zeros(1, 3, 1, 2, 2), Norm(torch.ones(3), torch.zeros(3))._replace(**changed))
