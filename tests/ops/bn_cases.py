"""Cases that the tests of the normalization operators share."""

import pytest
import torch

from rlv2v_fast import extension
from rlv2v_fast.ops.bn import Norm

# One pixel a frame, odd sizes, more channels than a vector has lanes, rows longer than a vector, bands with a rest.
SHAPES = [(2, 1, 1, 1, 1), (2, 3, 2, 5, 4), (2, 17, 3, 4, 6), (1, 2, 3, 70, 38), (3, 5, 1, 2, 2)]
LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# (per_frame, frozen); per-frame statistics are always measured.
MODES = [(False, False), (False, True), (True, False)]
needs_cpp = pytest.mark.skipif(extension.why_not_cpu() is not None, reason=str(extension.why_not_cpu()))
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def fused(test):
    """A test of the fused kernels, run on every device."""
    return pytest.mark.usefixtures("device")(needs_cpp(test))


class Place:
    """Where clip and norm make their tensors: the fixture `device` runs a module's tests on every device."""

    device = "cpu"


def clip(shape, layout=torch.contiguous_format, dtype=torch.float64):
    x = 3 + 2 * torch.randn(shape, dtype=dtype, device=Place.device)
    return x.contiguous(memory_format=layout).requires_grad_()


def norm(channels, mode=(False, False), dtype=torch.float64):
    per_frame, frozen = mode
    weight, bias, mean = (torch.randn(channels, dtype=dtype, device=Place.device) for _ in range(3))
    var = torch.rand(channels, dtype=dtype, device=Place.device) + 0.5
    given = (mean, var) if frozen else (None, None)
    return Norm(weight.requires_grad_(), bias.requires_grad_(), *given, 1e-3, per_frame)


def leaves(*arguments):
    """The tensors among clips and norms that a gradient can be asked for."""
    found = []
    for argument in arguments:
        if isinstance(argument, Norm):
            found += [argument.weight, argument.bias]
        elif argument is not None:
            found.append(argument)
    return found


def with_leaves(arguments, tensors):
    """The arguments with `tensors` in the places of `leaves(*arguments)`."""
    rest = iter(tensors)
    return [
        a._replace(weight=next(rest), bias=next(rest)) if isinstance(a, Norm) else None if a is None else next(rest)
        for a in arguments
    ]


def results(op, arguments, backend):
    """Outputs and gradients; the gradient of the output is the same for every backend and layout."""
    outputs = op(*arguments, backend=backend)
    torch.manual_seed(1)
    grad = torch.randn(outputs[0].shape, dtype=outputs[0].dtype, device=outputs[0].device)
    return outputs, torch.autograd.grad(outputs[0], leaves(*arguments), grad)


def check_against_reference(op, arguments):
    ours, wanted = (results(op, arguments, backend) for backend in ("cpp", "reference"))
    torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-9)


def check_derivatives(op, arguments):
    """First and second, by finite differences."""

    def function(*tensors):
        return op(*with_leaves(arguments, tensors), backend="cpp")[0]

    inputs = tuple(leaves(*arguments))
    torch.autograd.gradcheck(function, inputs)
    torch.autograd.gradgradcheck(function, inputs)


def check_error(op, arguments, dtype):
    """Against float64, our error is at most twice PyTorch's own, or a few units where that happens to be smaller."""

    def cast(wanted):
        # The same numbers, which have as few digits as the type.
        tensors = [t.detach().to(dtype).to(wanted).requires_grad_() for t in leaves(*arguments)]
        return with_leaves(arguments, tensors)

    exact = results(op, cast(torch.float64), "reference")
    ours, pytorch = (results(op, cast(dtype), backend) for backend in ("cpp", "reference"))
    for a, b, truth in zip((ours[0][0], *ours[1]), (pytorch[0][0], *pytorch[1]), (exact[0][0], *exact[1]), strict=True):
        assert a.dtype == b.dtype
        unit = torch.finfo(dtype).eps * truth.abs().max()
        assert (a - truth).abs().max() <= 2 * max((b - truth).abs().max(), unit)
