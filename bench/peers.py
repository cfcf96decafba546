"""The layers that the benchmarks compare with, written as most PyTorch code does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NaiveConvLSTMCell(nn.Module):
    """A ConvLSTM cell: one convolution over cat[x, h], then the gates i, f, o, g as separate operations."""

    def __init__(self, input_dim: int, hidden_dim: int, kernel_size: tuple[int, int], bias: bool = True) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        padding = (kernel_size[0] // 2, kernel_size[1] // 2)
        self.conv = nn.Conv2d(input_dim + hidden_dim, 4 * hidden_dim, kernel_size, padding=padding, bias=bias)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, c = state
        gates = self.conv(torch.cat([x, h], dim=1))
        i, f, o, g = torch.split(gates, self.hidden_dim, dim=1)
        c_next = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c_next), c_next


class NaiveConvLSTM(nn.Module):
    """A ConvLSTM by Python loops over layers and steps, batch first; parameters cell_list.{i}.conv.weight, .bias."""

    def __init__(
        self, input_dim: int, hidden_dim: int, kernel_size: tuple[int, int], num_layers: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.cell_list = nn.ModuleList(
            NaiveConvLSTMCell(input_dim if i == 0 else hidden_dim, hidden_dim, kernel_size, bias)
            for i in range(num_layers)
        )

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        outputs: list[Tensor] = []
        states: list[list[Tensor]] = []
        for cell in self.cell_list:
            h = x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[3:])
            c = torch.zeros_like(h)
            steps = []
            for t in range(x.shape[1]):
                h, c = cell(x[:, t], (h, c))
                steps.append(h)
            x = torch.stack(steps, dim=1)
            outputs.append(x)
            states.append([h, c])
        return outputs[-1:], states[-1:]


class NaiveBlock(nn.Module):
    """An RPB or URB (kind) of separate layers with the names of ours; `channels` in and out."""

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        self.kind = kind
        self.conv1, self.conv2 = (nn.Conv3d(channels, channels, 3, padding=(0, 1, 1), bias=False) for _ in range(2))
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm3d(channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.upsampled(x)
        return self.leave(self.second(self.enter(self.first(x))), shortcut)

    def between(self, u: Tensor, v: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        """The block without its convolutions, from their outputs and the shortcut (before upsampling in a URB)."""
        return self.enter(u), self.leave(v, self.upsampled(shortcut))

    def first(self, x: Tensor) -> Tensor:
        return self.conv1(past(self.upsampled(x)))

    def second(self, a: Tensor) -> Tensor:
        return self.conv2(past(a))

    def upsampled(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=(1, 2, 2)) if self.kind == "URB" else x

    def enter(self, u: Tensor) -> Tensor:
        return F.relu(self.bn1(u))

    def leave(self, v: Tensor, shortcut: Tensor) -> Tensor:
        y = F.relu(self.bn2(v) + shortcut)
        return self.bn3(F.max_pool3d(y, (1, 2, 2)) if self.kind == "RPB" else y)


def past(x: Tensor) -> Tensor:
    """x (B, C, T, H, W) after two frames of zeros, which make a convolution over three frames causal."""
    return F.pad(x, (0, 0, 0, 0, 2, 0))
