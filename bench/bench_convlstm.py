"""The ConvLSTM layer: the naive one, torch.compile, our backends, and its convolutions alone.

python -m bench run --op convlstm                      time of every case, forward and with backward
python -m bench run --op convlstm --threads 1 --clock cpu --memory    on a machine that others use too
python -m bench.bench_convlstm                         accuracy of every case against float64 (CPU)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.cases import CONVLSTM, FLOOR, Calls, Case, ForwardBackward, Operation, Setting, UnavailableError, Work
from bench.peers import NaiveConvLSTM
from rlv2v_fast.nn.convlstm import ConvLSTM

OURS: dict[str, dict[str, object]] = {
    "reference": {"backend": "reference"},
    "cpp": {"backend": "cpp"},
    "cpp-exact": {"backend": "cpp", "exact": True},
    "cpp-low": {"backend": "cpp", "memory": "low"},
    "triton": {"backend": "triton"},
    "triton-low": {"backend": "triton", "memory": "low"},
}
BACKENDS = ("naive", "compile", *OURS, "triton-fused", FLOOR)
Layer = Callable[[Tensor], Tensor]


def example(case: Case, setting: Setting) -> Tensor:
    """A random input x, (B, T, C, H, W). In channels_last each frame has that layout."""
    s = case.shape
    x = torch.randn(s["B"], s["T"], s["C"], s["H"], s["W"], device=setting.device).to(setting.dtype)
    return x if setting.layout == "contiguous" else x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


def naive_layer(case: Case, setting: Setting) -> NaiveConvLSTM:
    """The naive peer, whose weights all backends share."""
    s = case.shape
    torch.manual_seed(0)
    layer = NaiveConvLSTM(s["C"], s["K"], (s["k"], s["k"])).to(setting.device, setting.dtype)
    return layer.to(memory_format=torch.channels_last) if setting.layout == "channels_last" else layer  # type: ignore[call-overload]


def our_layer(case: Case, setting: Setting, backend: str) -> ConvLSTM:
    """Our layer with the naive one's weights."""
    s = case.shape
    layer = ConvLSTM(s["C"], s["K"], s["k"], 1, batch_first=True, **OURS[backend])  # type: ignore[arg-type]
    layer.load_state_dict(naive_layer(case, setting).state_dict(), strict=True)
    return layer.to(setting.device, setting.dtype)


class Floor(nn.Module):
    """The layer's floor: its T convolutions over cat[x, h], one after the other on one given frame, and no more."""

    def __init__(self, case: Case, setting: Setting) -> None:
        super().__init__()
        self.conv = naive_layer(case, setting).cell_list[0].conv
        s = case.shape
        frame = torch.randn(s["B"], s["C"] + s["K"], s["H"], s["W"], device=setting.device).to(setting.dtype)
        self.register_buffer("frame", frame.contiguous(memory_format=_memory_format(setting)))

    def forward(self, x: Tensor) -> Tensor:
        """The last step, or with gradients the sum of every step. x sets the number of steps and gets a gradient."""
        assert isinstance(self.conv, nn.Conv2d)
        # Without a path to x autograd would skip the gradient of the data, which every ConvLSTM has to compute.
        assert isinstance(self.frame, Tensor)
        frame = self.frame + 0 * x[0, 0, 0, 0, 0] if torch.is_grad_enabled() else self.frame
        conv = self.conv
        steps = [F.conv2d(frame, conv.weight, conv.bias, padding=conv.padding) for _ in range(x.shape[1])]
        return torch.stack([step.sum() for step in steps]) if torch.is_grad_enabled() else steps[-1]


def _memory_format(setting: Setting) -> torch.memory_format:
    return torch.channels_last if setting.layout == "channels_last" else torch.contiguous_format


def fused_calls(case: Case, setting: Setting) -> Calls:
    """Calls of the step in one kernel, which has neither gradients nor an operator."""
    if setting.device.type != "cuda" or setting.dtype == torch.float32:
        raise UnavailableError("the fused Triton step takes float16 and bfloat16 on a GPU")
    from rlv2v_fast.kernels.convlstm_fused import convlstm_fused_fwd
    from rlv2v_fast.kernels.layer_inputs import LayerInputs

    s, x = case.shape, example(case, setting)
    conv = naive_layer(case, setting).cell_list[0].conv
    assert isinstance(conv, nn.Conv2d)
    h = torch.zeros(s["B"], s["K"], s["H"], s["W"], dtype=setting.dtype, device=setting.device)
    c = torch.zeros_like(h, dtype=torch.float32)

    @torch.no_grad()
    def forward() -> object:
        return convlstm_fused_fwd(LayerInputs(x, conv.weight, conv.bias, h, c))

    return {"fwd": forward}


def prepare(case: Case, backend: str, setting: Setting) -> Calls:
    """Calls of one backend."""
    if backend == "triton-fused":
        return fused_calls(case, setting)
    module: nn.Module
    layer: Layer
    if backend == FLOOR:
        layer = module = Floor(case, setting)
    else:
        module = naive_layer(case, setting) if backend in ("naive", "compile") else our_layer(case, setting, backend)
        sequence = torch.compile(module) if backend == "compile" else module

        def layer(x: Tensor) -> Tensor:
            return sequence(x)[0][0]

    return phases_of(layer, list(module.parameters()), example(case, setting))


def phases_of(layer: Layer, parameters: list[nn.Parameter], x: Tensor) -> Calls:
    """Forward without gradients, and forward with the gradients of x and of every parameter."""
    leaf = x.detach().requires_grad_()

    @torch.no_grad()
    def forward() -> object:
        return layer(x)

    return {"fwd": forward, "fwd_bwd": ForwardBackward(lambda: (layer(leaf).sum(),), [leaf, *parameters])}


def count(case: Case, phase: str, dtype: torch.dtype) -> Work:
    """The work of a phase: multiplications and additions of the convolutions; every input and result once.

    The backward does the forward's work twice, for the gradients of data and of weights. It moves the forward's bytes
    again, the gradient of the output, and the gradients of input and weights.
    """
    s = case.shape
    pixels = s["B"] * s["T"] * s["H"] * s["W"]
    weights = 4 * s["K"] * ((s["C"] + s["K"]) * s["k"] ** 2 + 1)
    flops = 2 * pixels * 4 * s["K"] * (s["C"] + s["K"]) * s["k"] ** 2
    read, written = pixels * s["C"] + weights, pixels * s["K"]
    if phase == "fwd":
        return Work(flops, (read + written) * dtype.itemsize)
    return Work(3 * flops, (3 * read + 3 * written) * dtype.itemsize)


OPERATIONS = (Operation("convlstm", CONVLSTM, BACKENDS, prepare, count=count),)


def accuracy(case: Case) -> None:
    """Print the largest error of the output, absolute, and of each gradient over its largest entry (float64)."""
    setting = Setting(torch.device("cpu"))
    x = example(case, setting)
    want = outputs_and_gradients(naive_layer(case, setting).double(), x.double())
    for backend in ("naive", "cpp", "cpp-exact"):
        layer = naive_layer(case, setting) if backend == "naive" else our_layer(case, setting, backend)
        got = outputs_and_gradients(layer, x)
        output = (got[0] - want[0]).abs().max().item()
        grads = [((g - w).abs().max() / w.abs().max()).item() for g, w in zip(got[1:], want[1:], strict=True)]
        shown = " ".join(f"{error:.1e}" for error in grads)
        print(f"{case.name:9} {backend:10} output {output:.1e}  grad x, weight, bias {shown}", flush=True)


def outputs_and_gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of x and of the parameters, in float64."""
    x = x.detach().requires_grad_()
    output = module(x)[0][0]
    grads = torch.autograd.grad(output.square().sum(), [x, *module.parameters()])
    return [output.detach().double(), *(g.double() for g in grads)]


def main() -> None:
    """Print the accuracy of the named cases."""
    cases = {case.name: case for case in CONVLSTM if "cpu" in case.devices}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=["A", "B", "C", "D"], choices=list(cases))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.cases:
        accuracy(cases[name])


if __name__ == "__main__":
    main()
