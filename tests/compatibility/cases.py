"""Every public module, one line each: what makes it with one tensor in and one out, and for which input.

A line here gives a module every feature of test_modules.py and a column in docs/compatibility.md.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rlv2v_fast
import rlv2v_fast.nn
from rlv2v_fast.models.rlv2vgan import RLV2VGAN, ModelConfig
from rlv2v_fast.nn.blocks import RPB, URB, CausalConv3d, R
from rlv2v_fast.nn.convlstm import ConvLSTM, ConvLSTMCell
from rlv2v_fast.nn.norm import FrameInstanceNorm, SyncBatchNorm
from rlv2v_fast.nn.pixel_map import FourierFeatures, PixelMap
from rlv2v_fast.ops.sizes import BLOCK_ELEMENTS, UPSAMPLE_PIXELS, UPSAMPLE_PRODUCTS


@dataclass(frozen=True)
class Case:
    """A module to be tried.

    make: the module, from a backend; for "reference" its specification in PyTorch, with the same state dict.
    shape: of an input, batch first, smaller than every rule by size.
    dynamic: the dimensions that may change after an export, beside the batch.
    backends: those it can be made for, beside "reference".
    growth: numbers between its convolutions for each of its input, where few of them are left to PyTorch in eager mode.
    """

    make: Callable[[str], nn.Module]
    shape: tuple[int, ...]
    dynamic: Sequence[int] = ()
    backends: tuple[str, ...] = ("auto", "cpp")
    growth: float | None = None
    # It is made of modules of the table: features that would take it many seconds are tried on those alone.
    composed: bool = False

    def shape_above(self) -> tuple[int, ...]:
        """A shape above every rule by size: that of a larger batch."""
        assert self.growth is not None
        # URB's growth is the number of its output channels, too.
        products = UPSAMPLE_PRODUCTS / self.growth
        numbers = max(BLOCK_ELEMENTS["cpu"] / self.growth, products, UPSAMPLE_PIXELS * self.shape[1])
        return ceil(numbers / prod(self.shape[1:])), *self.shape[1:]


class Output(nn.Module):
    """The output of a ConvLSTM."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.layer = ConvLSTM(3, [8, 4], 3, 2, batch_first=True, backend=backend)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0][0]


class Step(nn.Module):
    """The first h of a ConvLSTMCell."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.layer = ConvLSTMCell(3, 8, 3, backend=backend)

    def forward(self, x: Tensor) -> Tensor:
        zeros = x.new_zeros(x.shape[0], 8, *x.shape[2:])
        return self.layer(x, (zeros, zeros))[0]


class Judged(nn.Module):
    """What a discriminator of RLV2VGAN makes of a generator's translation."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        model = RLV2VGAN(ModelConfig(width=2, critics=0), backend=backend)
        self.generator, self.discriminator = model.generators["y"], model.discriminators["y"]

    def forward(self, x: Tensor) -> Tensor:
        verdict = self.discriminator(self.generator(x))
        return verdict.authenticity + verdict.video[:, None, None, None]


class Causal(nn.Conv3d):
    """CausalConv3d's specification."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv3d(F.pad(x, (1, 1, 1, 1, 2, 0)), self.weight, self.bias)


class PerFrame(nn.Module):
    """FrameInstanceNorm's specification."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        frames = F.instance_norm(x.transpose(1, 2).flatten(0, 1), None, None, self.weight, self.bias)
        return frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


class Waves(FourierFeatures):
    """FourierFeatures's specification."""

    def forward(self, frames: Tensor) -> Tensor:
        y, x = (torch.linspace(-1, 1, size, dtype=frames.dtype, device=frames.device) for size in frames.shape[2:])
        places = torch.stack(torch.meshgrid(y, x, indexing="ij")).expand(len(frames), -1, -1, -1)
        located = torch.cat([frames, places], dim=1)
        with torch.autocast(frames.device.type, enabled=False):
            return torch.cat([located, self.project(located).sin()], dim=1)


def either(ours: Callable[[], nn.Module], specification: Callable[[], nn.Module]) -> Callable[[str], nn.Module]:
    """make of a module that takes no backend."""
    return lambda backend: specification() if backend == "reference" else ours()


# Each gives a tensor of the same shape.
LAYOUTS = {
    "channels_last": lambda x: x.contiguous(
        memory_format={4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim(), torch.contiguous_format)),
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "sliced": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "expanded": lambda x: x[:1].expand_as(x),
}  # fmt: skip

CLIP = (2, 4, 3, 8, 6)
FRAMES = (2, 3, 8, 6)
# Frames too small for the causal convolution, so that the rule between convolutions is seen.
LOW, LOWEST = (2, 4, 3, 4, 6), (2, 4, 3, 2, 2)
MODULES = {
    "ConvLSTM": Case(Output, (2, 3, 3, 8, 6)),
    "ConvLSTMCell": Case(Step, (2, 3, 8, 6)),
    "R": Case(lambda backend: R(4, 8, backend=backend), LOW, [2], growth=2),
    "RPB": Case(lambda backend: RPB(4, 8, backend=backend), LOW, [2], growth=2),
    "URB": Case(lambda backend: URB(4, 8, backend=backend), LOWEST, [2], growth=8),
    "SyncBatchNorm": Case(either(lambda: SyncBatchNorm(4), lambda: nn.BatchNorm3d(4)), CLIP, [2], ("auto",)),
    "CausalConv3d": Case(either(lambda: CausalConv3d(4, 6), lambda: Causal(4, 6, 3, bias=False)), CLIP, [2], ("auto",)),
    "FrameInstanceNorm": Case(either(lambda: FrameInstanceNorm(4), lambda: PerFrame(4)), CLIP, [2], ("auto",)),
    "FourierFeatures": Case(
        either(lambda: FourierFeatures(3, 5, 2.0), lambda: Waves(3, 5, 2.0)), FRAMES, backends=("auto",)
    ),
    "PixelMap": Case(lambda backend: PixelMap(4, backend=backend), FRAMES, [2]),
    "RLV2VGAN": Case(Judged, (2, 2, 3, 8, 16), backends=("auto",), composed=True),
}


def public_modules() -> set[str]:
    """The modules that the package exports, and those its layers are made of."""
    homes = [rlv2v_fast, *(importlib.import_module(m.name) for m in pkgutil.walk_packages(
        rlv2v_fast.nn.__path__, "rlv2v_fast.nn."))]  # fmt: skip
    found = {(name, getattr(rlv2v_fast, name)) for name in rlv2v_fast.__all__}
    found |= {(name, value) for home in homes for name, value in vars(home).items() if not name.startswith("_")}
    return {
        name
        for name, value in found
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__.startswith("rlv2v_fast.")
    }
