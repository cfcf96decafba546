"""The layers the benchmarks compare with, written the way most PyTorch code writes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NaiveConvLSTMCell(nn.Module):
    """One convolution over cat[x, h], then the gates i, f, o, g as separate operations."""

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
    """Python loops over layers and steps, batch first; parameters named cell_list.{i}.conv.weight and .bias."""

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
