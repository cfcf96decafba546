import pytest
import torch
from torch.library import opcheck

from rlv2v_fast.ops.bn_add_relu import bn_add_relu
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

LOW_SHAPES = [(2, 3, 2, 2, 4), (2, 17, 3, 4, 6), (1, 2, 3, 70, 38), (3, 5, 1, 2, 2)]


def low(shape):
    return (*shape[:3], shape[3] // 2, shape[4] // 2)


@pytest.mark.parametrize("mode", MODES)
def test_reference_is_the_formula(mode):
    x, skip, n = clip((2, 3, 2, 4, 6)), clip((2, 3, 2, 2, 3)), norm(3, mode)
    z = bn_add_relu(x, skip, n, backend="reference")[0]
    post_norm = n._replace(mean=torch.zeros(3).double(), var=torch.ones(3).double() - n.eps, per_frame=False)
    # With its sum in place of x, statistics 0 and 1, and no skip, the formula is an affine map and a ReLU.
    normalized = bn_add_relu(x, torch.full_like(skip, 1e6), n, backend="reference")[0] - 1e6
    wanted = (normalized + skip.repeat_interleave(2, 3).repeat_interleave(2, 4)).clamp(min=0)
    torch.testing.assert_close(z, wanted, rtol=1e-6, atol=1e-6)
    if not n.per_frame:
        z_normed = bn_add_relu(x, skip, n, post_norm, backend="reference")[0]
        torch.testing.assert_close(z_normed, z * n.weight.view(3, 1, 1, 1) + n.bias.view(3, 1, 1, 1))


@fused
@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_reference_with_gradients_and_statistics(shape, layout, mode, renormalize):
    post_norm = norm(shape[1], mode) if renormalize else None
    check_against_reference(bn_add_relu, (clip(shape, layout), clip(shape), norm(shape[1], mode), post_norm))


@fused
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", LOW_SHAPES)
def test_a_skip_of_half_the_size_is_repeated(shape, layout, mode):
    arguments = clip(shape, layout), clip(low(shape), layout), norm(shape[1], mode), norm(shape[1], mode)
    check_against_reference(bn_add_relu, arguments)


@fused
@pytest.mark.parametrize("frozen", [(False, True), (True, False)])
def test_either_normalization_can_be_frozen_alone(frozen):
    norms = (norm(3, (False, each)) for each in frozen)
    check_against_reference(bn_add_relu, (clip((2, 3, 2, 4, 4)), clip((2, 3, 2, 4, 4)), *norms))


@fused
@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("skip_shape", [(2, 2, 1, 4, 2), (2, 2, 1, 2, 1)])
def test_first_and_second_derivatives(skip_shape, mode, renormalize):
    post_norm = norm(2, mode) if renormalize else None
    check_derivatives(bn_add_relu, (clip((2, 2, 1, 4, 2)), clip(skip_shape), norm(2, mode), post_norm))


@fused
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_error_is_within_twice_pytorchs_own(layout, dtype):
    shape = (2, 20, 4, 30, 34)
    check_error(bn_add_relu, (clip(shape, layout), clip(low(shape), layout), norm(20), norm(20)), dtype)


@fused
def test_expanded_gradients_and_a_skip_in_another_layout():
    x, skip, n = clip((2, 3, 2, 4, 6)), clip((2, 3, 2, 4, 6), torch.channels_last_3d), norm(3)
    grads = [
        torch.autograd.grad(bn_add_relu(x, skip, n, backend=backend)[0].sum(), (x, skip, n.weight, n.bias))
        for backend in ("cpp", "reference")
    ]
    torch.testing.assert_close(*grads)


@fused
def test_zero_batch():
    x, skip, n, post_norm = clip((0, 3, 2, 4, 4)), clip((0, 3, 2, 2, 2)), norm(3), norm(3)
    z = bn_add_relu(x, skip, n, post_norm, backend="cpp")[0]
    grads = torch.autograd.grad(z.sum(), (x, skip, n.weight, post_norm.bias))
    assert [tuple(g.shape) for g in grads] == [(0, 3, 2, 4, 4), (0, 3, 2, 2, 2), (3,), (3,)]
    assert not any(g.any() for g in grads[2:])


@fused
def test_nan_passes_as_in_pytorch():
    x, skip, n = clip((2, 3, 2, 4, 4)).detach(), clip((2, 3, 2, 4, 4)).detach(), norm(3)
    skip[0, 1, 0, 2, 3] = float("nan")
    for post_norm in (None, norm(3)):
        ours, wanted = (bn_add_relu(x, skip, n, post_norm, backend=backend)[0] for backend in ("cpp", "reference"))
        torch.testing.assert_close(ours, wanted, equal_nan=True)
        assert ours.isnan().any()


@fused
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout):
    x, skip, n = clip((2, 3, 2, 4, 4), layout), clip((2, 3, 2, 2, 2), layout), norm(3)
    weight, bias, _, _, eps, per_frame = n
    opcheck(torch.ops.rlv2v_fast.bn_add_relu_fwd, (x, skip, *n[:5], *n[:5], per_frame))
    opcheck(torch.ops.rlv2v_fast.bn_add_relu_fwd, (x, skip, *n[:5], None, None, None, None, 0.0, per_frame))
    of_x = x.detach().mean((0, 2, 3, 4)), x.detach().var((0, 2, 3, 4))
    post_norm = weight, bias, *of_x, eps, False
    opcheck(
        torch.ops.rlv2v_fast.bn_add_relu_bwd,
        (torch.randn_like(x), x, skip, weight, bias, *of_x, eps, False, *post_norm, per_frame),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize(
    ("skip", "post_norm", "message"),
    [
        (torch.zeros(1, 3, 1, 2, 2), None, r"skip must have shape \(1, 3, 1, 5, 4\); got \(1, 3, 1, 2, 2\)"),
        (torch.zeros(1, 3, 1, 5, 4), None, "skip must be torch.float64 on cpu like x; got torch.float32 on cpu"),
        (
            torch.zeros(1, 3, 1, 5, 4).double(),
            (True, False),
            "post_norm.per_frame must be that of norm, False; got",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named(skip, post_norm, message):
    with pytest.raises(ValueError, match=message):
        bn_add_relu(clip((1, 3, 1, 5, 4)), skip, norm(3), norm(3, post_norm) if post_norm else None)
