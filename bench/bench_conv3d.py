"""The causal convolution, forward and each gradient alone, against PyTorch's own.

python -m bench run --op conv3d --layout contiguous channels_last

PyTorch's convolution is fastest in one layout for one shape and in the other for another. naive-other is naive in the
layout that is not the row's, so that the faster of the two is PyTorch's best. reference is PyTorch's fastest route for
the shape, which the operator takes where it does not fuse.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.bench_blocks import calls_of, memory_format
from bench.cases import CONV3D, GRADIENT_PHASES, PHASES, Call, Calls, Case, Operation, Setting, Work
from bench.peers import past
from rlv2v_fast.ops.causal_conv3d import causal_conv3d

BACKENDS = ("naive", "naive-other", "reference", "cpp")


def prepare(case: Case, backend: str, setting: Setting) -> Calls:
    """Calls of the convolution, and of its gradients by x and by the weight after one forward."""
    torch.manual_seed(0)
    if backend == "naive-other":
        other = "contiguous" if setting.layout == "channels_last" else "channels_last"
        setting = Setting(setting.device, setting.dtype, other)
    s, layout = case.shape, memory_format(setting)

    def draw(*size: int) -> Tensor:
        values = torch.randn(size, device=setting.device).to(setting.dtype)
        return values.contiguous(memory_format=layout).requires_grad_()

    x = draw(s["B"], s["C"], s["T"], s["H"], s["W"])
    weight = draw(s["O"], s["C"], 3, 3, 3)

    def run(x: Tensor, weight: Tensor) -> Tensor:
        if backend.startswith("naive"):
            return F.conv3d(past(x), weight, padding=(0, 1, 1))
        return causal_conv3d(x, weight, backend=backend)[0]

    def gradient(y: Tensor, leaf: Tensor) -> Call:
        grad = torch.randn(y.shape, device=y.device).to(y.dtype).contiguous(memory_format=layout)
        return lambda: torch.autograd.grad(y, leaf, grad, retain_graph=True)

    # Only one of the two has a gradient, for an operator computes all that somebody may want.
    ys = run(x, weight.detach()), run(x.detach(), weight)
    gradients = {name: gradient(y, leaf) for name, y, leaf in zip(GRADIENT_PHASES, ys, (x, weight), strict=True)}
    return {**calls_of(lambda: (run(x, weight),), [x, weight]), **gradients}


def count(case: Case, phase: str, dtype: torch.dtype) -> Work:
    """Multiplications and additions of a plain convolution; x, the weight and the result, or their gradients, once."""
    s = case.shape
    pixels, weights = s["B"] * s["T"] * s["H"] * s["W"], 27 * s["C"] * s["O"]
    once = Work(2 * pixels * weights, (pixels * (s["C"] + s["O"]) + weights) * dtype.itemsize)
    return Work(3 * once.flops, 3 * once.bytes) if phase == "fwd_bwd" else once


OPERATIONS = (Operation("conv3d", CONV3D, BACKENDS, prepare, phases=(*PHASES, *GRADIENT_PHASES), count=count),)
