"""A translation pixel by pixel, forward and with gradients, against PyTorch's convolutions, sines and sampling.

python -m bench run --op pixel_map
python -m bench run --op pixel_map --dtype float32 bfloat16

In bfloat16 the tensors are float32, as in training under autocast. naive is one PyTorch call a layer, with grid_sample
for the table, as a network without the operator does it; reference is the specification.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.bench_blocks import calls_of, memory_format
from bench.cases import PIXEL_MAP, Calls, Case, Operation, Setting, Work
from rlv2v_fast.ops.pixel_map import PixelMapConstants, PixelMapParameters, located_reference, pixel_map

BACKENDS = ("naive", "reference", "cpp", "triton")
# As in LocalGenerator.
CONSTANTS = PixelMapConstants(gain=0.3, speed=3.0, slope=0.2, clamp=False)


def naive(frames: Tensor, p: PixelMapParameters) -> Tensor:
    """pixel_map by one PyTorch call a layer, channels last, which was measured to suit the convolutions."""
    located = located_reference(frames).contiguous(memory_format=torch.channels_last)
    with torch.autocast(frames.device.type, enabled=False):
        waves = torch.sin(F.conv2d(located, p.project, p.project_bias))
    x = torch.cat([located, waves], dim=1)
    for weight, bias in ((p.weight1, p.bias1), (p.weight2, p.bias2), (p.weight3, p.bias3)):
        x = F.leaky_relu(F.conv2d(x, weight, bias), CONSTANTS.slope)
    gain, emission = F.conv2d(x, p.head, p.head_bias).to(frames.dtype).chunk(2, dim=1)
    assert p.table is not None
    table = p.table.expand(len(frames), -1, -1, -1, -1)
    colours = frames.clamp(-1, 1).permute(0, 2, 3, 1).unsqueeze(1)
    looked_up = F.grid_sample(table, colours, padding_mode="border", align_corners=True).squeeze(2)
    return (frames + 1) * (gain + CONSTANTS.gain) + emission - 1 + CONSTANTS.speed * looked_up


def prepare(case: Case, backend: str, setting: Setting) -> Calls:
    """Calls with the gradients of the frames and of every parameter."""
    torch.manual_seed(0)
    s = case.shape
    inputs = s["C"] + 2 + s["F"]

    def draw(*size: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(size, device=setting.device)).requires_grad_()

    frames = draw(s["N"], s["C"], s["H"], s["W"]).detach().tanh()
    frames = frames.contiguous(memory_format=memory_format(setting)).requires_grad_()
    layers = [(s["F"], s["C"] + 2, 8.0), (s["K"], inputs, inputs**-0.5), *2 * [(s["K"], s["K"], s["K"] ** -0.5)]]
    layers.append((2 * s["C"], s["K"], s["K"] ** -0.5))
    matrices = [t for rows, columns, scale in layers for t in (draw(rows, columns, 1, 1, scale=scale), draw(rows))]
    table = draw(s["C"], s["L"], s["L"], s["L"], scale=0.1)
    parameters = PixelMapParameters(*matrices, table)  # type: ignore[call-arg]
    rounds = setting.dtype == torch.bfloat16

    def run() -> tuple[Tensor, ...]:
        with torch.autocast(setting.device.type, torch.bfloat16) if rounds else nullcontext():
            if backend == "naive":
                return (naive(frames, parameters),)
            return (pixel_map(frames, parameters, CONSTANTS, backend=backend),)

    return calls_of(run, [frames, *(t for t in parameters if t is not None)])


def count(case: Case, phase: str, dtype: torch.dtype) -> Work:
    """Multiplications and additions of the layers; frames, parameters and result, or their gradients, once."""
    s = case.shape
    inputs = s["C"] + 2 + s["F"]
    weights = s["F"] * (s["C"] + 2) + s["K"] * (inputs + 2 * s["K"] + 2 * s["C"])
    pixels = s["N"] * s["H"] * s["W"]
    read, written = pixels * s["C"] + weights + s["C"] * s["L"] ** 3, pixels * s["C"]
    if phase == "fwd":
        return Work(2 * pixels * weights, 4 * (read + written))
    return Work(3 * 2 * pixels * weights, 4 * (3 * read + 2 * written))


OPERATIONS = (Operation("pixel_map", PIXEL_MAP, BACKENDS, prepare, count=count),)
