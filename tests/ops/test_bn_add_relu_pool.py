import pytest
import torch
from torch.library import opcheck

from rlv2v_fast.ops.bn_add_relu import bn_add_relu
from rlv2v_fast.ops.bn_add_relu_pool import bn_add_relu_pool
from tests.ops.bn_cases import (
    DTYPES,
    LAYOUTS,
    MODES,
    Place,
    check_against_reference,
    check_derivatives,
    check_error,
    clip,
    fused,
    norm,
)

SHAPES = [(2, 1, 1, 2, 2), (2, 3, 2, 5, 4), (2, 17, 3, 4, 7), (1, 2, 3, 71, 39), (3, 5, 1, 2, 3)]


def test_reference_is_a_pooling_between_two_known_operators():
    x, skip, n, post_norm = clip((2, 3, 2, 5, 6)), clip((2, 3, 2, 5, 6)), norm(3), norm(3, (False, True))
    y = bn_add_relu(x, skip, n, backend="reference")[0]
    pooled = torch.stack([y[..., i:4:2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0)
    wanted = (pooled - post_norm.mean.view(3, 1, 1, 1)) / (post_norm.var + post_norm.eps).sqrt().view(3, 1, 1, 1)
    wanted = wanted * post_norm.weight.view(3, 1, 1, 1) + post_norm.bias.view(3, 1, 1, 1)
    torch.testing.assert_close(bn_add_relu_pool(x, skip, n, post_norm, backend="reference")[0], wanted)


@fused
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_reference_with_gradients_and_statistics(shape, layout, mode):
    norms = norm(shape[1], mode), norm(shape[1], mode)
    check_against_reference(bn_add_relu_pool, (clip(shape, layout), clip(shape), *norms))


@fused
@pytest.mark.parametrize("frozen", [(False, True), (True, False)])
def test_either_normalization_can_be_frozen_alone(frozen):
    norms = (norm(3, (False, each)) for each in frozen)
    check_against_reference(bn_add_relu_pool, (clip((2, 3, 2, 4, 4)), clip((2, 3, 2, 4, 4)), *norms))


@fused
@pytest.mark.parametrize("mode", MODES)
def test_first_and_second_derivatives(mode):
    check_derivatives(bn_add_relu_pool, (clip((2, 2, 1, 5, 4)), clip((2, 2, 1, 5, 4)), norm(2, mode), norm(2, mode)))


@fused
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_error_is_within_twice_pytorchs_own(layout, dtype):
    shape = (2, 20, 4, 31, 33)
    check_error(bn_add_relu_pool, (clip(shape, layout), clip(shape, layout), norm(20), norm(20)), dtype)


@fused
@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_equal_maxima_the_first_gets_the_gradient(layout):
    x = (
        torch.randint(0, 3, (2, 3, 2, 8, 40), device=Place.device)
        .double()
        .contiguous(memory_format=layout)
        .requires_grad_()
    )
    n, post_norm = norm(3), norm(3)
    check_against_reference(bn_add_relu_pool, (x, x.detach().clone().requires_grad_(), n, post_norm))


@fused
def test_expanded_gradients_and_a_sliced_input():
    x, skip, n, post_norm = clip((2, 3, 2, 5, 12)), clip((2, 3, 2, 5, 6)), norm(3), norm(3)
    grads = []
    for backend in ("cpp", "reference"):
        z = bn_add_relu_pool(x[..., ::2], skip, n, post_norm, backend=backend)[0]
        grads.append(torch.autograd.grad(z[..., :1].sum(), (x, skip, n.weight, post_norm.weight)))
    torch.testing.assert_close(*grads)


@fused
def test_zero_batch():
    x, skip, n, post_norm = clip((0, 3, 2, 5, 4)), clip((0, 3, 2, 5, 4)), norm(3), norm(3)
    z = bn_add_relu_pool(x, skip, n, post_norm, backend="cpp")[0]
    grads = torch.autograd.grad(z.sum(), (x, skip, n.weight, post_norm.bias))
    assert z.shape == (0, 3, 2, 2, 2)
    assert not any(g.any() for g in grads[2:])


@fused
def test_nan_passes_as_in_pytorch():
    x, skip, n, post_norm = (
        clip((2, 3, 2, 4, 4)).detach(),
        clip((2, 3, 2, 4, 4)).detach(),
        norm(3),
        norm(3, (False, True)),
    )
    skip[0, 1, 0, 2, 3] = float("nan")
    ours, wanted = (bn_add_relu_pool(x, skip, n, post_norm, backend=backend)[0] for backend in ("cpp", "reference"))
    torch.testing.assert_close(ours, wanted, equal_nan=True)
    assert ours.isnan().sum() == 1


@fused
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout):
    x, skip, n = clip((2, 3, 2, 5, 4), layout), clip((2, 3, 2, 5, 4), layout), norm(3)
    weight, bias, _, _, eps, per_frame = n
    opcheck(torch.ops.rlv2v_fast.bn_add_relu_pool_fwd, (x, skip, *n[:5], *n[:5], per_frame))
    z, largest, index, *found = torch.ops.rlv2v_fast.bn_add_relu_pool_fwd(x, skip, *n[:5], *n[:5], per_frame)
    found = [t.detach() for t in found]
    norms = (weight, bias, *found[:2], eps, False), (weight, bias, *found[2:], eps, False)
    opcheck(
        torch.ops.rlv2v_fast.bn_add_relu_pool_bwd,
        (torch.randn_like(z), x, largest.detach(), index, *norms[0], *norms[1], per_frame),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_arguments_that_do_not_fit_are_named():
    n = norm(3)
    with pytest.raises(ValueError, match=r"x must have H and W of at least 2; got \(1, 3, 1, 1, 4\)"):
        bn_add_relu_pool(clip((1, 3, 1, 1, 4)), clip((1, 3, 1, 1, 4)), n, n)
    with pytest.raises(ValueError, match=r"skip must have shape \(1, 3, 1, 4, 4\); got \(1, 3, 1, 2, 2\)"):
        bn_add_relu_pool(clip((1, 3, 1, 4, 4)), clip((1, 3, 1, 2, 2)), n, n)
