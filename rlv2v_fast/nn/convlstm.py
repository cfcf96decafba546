"""ConvLSTM and ConvLSTMCell: drop-in for the widely used PyTorch layer, with a state that can be fed back."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlv2v_fast.nn.plain import register_plain, why_not_plain
from rlv2v_fast.ops.backends import check_backend
from rlv2v_fast.ops.convlstm import call_convlstm, call_steps, check_memory, convlstm

KernelSize = int | tuple[int, int]


def _kernel_pair(kernel_size: Any) -> tuple[int, int]:
    pair = (kernel_size, kernel_size) if isinstance(kernel_size, Integral) else tuple(kernel_size)
    if len(pair) != 2 or any(not isinstance(k, Integral) or k < 1 or k % 2 == 0 for k in pair):
        raise ValueError(f"kernel_size must be odd and positive, k or (kh, kw); got {kernel_size!r}")
    return int(pair[0]), int(pair[1])


def _positive(name: str, value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer; got {value!r}")
    return int(value)


@register_plain
class ConvLSTMCell(nn.Module):
    """One ConvLSTM layer's weights, and one step of it.

    Args:
        input_dim: channels C of the input.
        hidden_dim: channels K of the hidden and cell state.
        kernel_size: odd k, or (kh, kw).
        bias: whether the convolution has a bias.
        peephole: add weights (3, K), named `peephole`, of the cell state on gates i, f and o.
        exact: sum as a plain convolution does, instead of by Winograd's algorithm where a fused kernel has it.
        memory: "fast", or "low" to recompute the gates in the backward instead of keeping them.
        cuda_graph: replay repeated shapes as a CUDA graph (Triton backend, under torch.no_grad; ignored elsewhere).
        backend: "auto", "triton", "cpp" or "reference".

    The state dict holds conv.weight (4K, C+K, kh, kw) and conv.bias (4K,), gates in order i, f, o, g.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: KernelSize,
        bias: bool = True,
        *,
        peephole: bool = False,
        exact: bool = False,
        memory: str = "fast",
        cuda_graph: bool = False,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_dim = _positive("input_dim", input_dim)
        self.hidden_dim = _positive("hidden_dim", hidden_dim)
        self.kernel_size = _kernel_pair(kernel_size)
        self.padding = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
        self.bias = bias
        self.exact = exact
        self.memory = check_memory(memory)
        self.cuda_graph = cuda_graph
        self.backend = check_backend(backend)
        self.conv = nn.Conv2d(
            input_dim + hidden_dim,
            4 * hidden_dim,
            self.kernel_size,
            padding=self.padding,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        weights = torch.zeros(3, hidden_dim, device=device, dtype=dtype) if peephole else None
        self.peephole = nn.Parameter(weights) if weights is not None else None

    def forward(self, input_tensor: Tensor, cur_state: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(h, c), each (B, K, H, W), after one step.

        Args:
            input_tensor: (B, C, H, W).
            cur_state: (h, c), each (B, K, H, W).
        """
        if input_tensor.dim() != 4:
            raise ValueError(f"input_tensor must have shape (B, C, H, W); got {tuple(input_tensor.shape)}")
        h, c = cur_state
        _, h, c = self.sequence(input_tensor.unsqueeze(1), h, c)
        return h, c

    def sequence(
        self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All steps of x (B, T, C, H, W): output (B, T, K, H, W) and the last h and c (B, K, H, W)."""
        if reason := self._why_not_fused():
            return call_convlstm(
                self.conv,
                self.hidden_dim,
                x,
                h,
                c,
                peephole=self.peephole,
                lengths=lengths,
                backend=self.backend,
                reason=reason,
            )
        return convlstm(
            x,
            self.conv.weight,
            self.conv.bias,
            h,
            c,
            peephole=self.peephole,
            lengths=lengths,
            exact=self.exact,
            memory=self.memory,
            cuda_graph=self.cuda_graph and not torch.is_grad_enabled(),
            backend=self.backend,
        )

    def _why_not_fused(self) -> str | None:
        """Why self.conv must be called; None where its weight and bias say everything."""
        if reason := why_not_plain(self.conv, nn.Conv2d):
            return reason
        conv = self.conv
        _, _, height, width = conv.weight.shape
        same = height // 2, width // 2
        options = conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode
        if options != ((1, 1), same, (1, 1), 1, "zeros"):
            return "the Conv2d's stride, padding, dilation, groups or padding_mode was changed"
        return None

    def init_hidden(self, batch_size: int, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """A zero state (h, c), each (batch_size, K, H, W), on the device of the weights."""
        shape = (batch_size, self.hidden_dim, *image_size)
        return self.conv.weight.new_zeros(shape), self.conv.weight.new_zeros(shape)


def _run(
    cell: nn.Module, x: Tensor, h: Tensor | None, c: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer of x (B, T, C, H, W): fused where cell is plain, else by calling it at every step."""
    reason = why_not_plain(cell, ConvLSTMCell)
    if reason is None:
        assert isinstance(cell, ConvLSTMCell)
        return cell.sequence(x, h, c, lengths)
    if h is None or c is None:
        zeros = _zero_state(cell, x)
        h, c = (zero if given is None else given for given, zero in zip((h, c), zeros, strict=True))
    backend = getattr(cell, "backend", "auto")
    return call_steps(cell, (h, c), x, lengths=lengths, backend=backend, reason=reason)


def _zero_state(cell: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """A zero state for x (B, T, C, H, W): of x where the cell says its size, for its weights may be sharded."""
    batch, size = x.shape[0], tuple(x.shape[3:])
    hidden = getattr(cell, "hidden_dim", None)
    if isinstance(hidden, Integral):
        zeros = x.new_zeros(batch, int(hidden), *size)
        return zeros, zeros
    return cell.init_hidden(batch, size)  # type: ignore[operator]


class ConvLSTM(nn.Module):
    """Stacked ConvLSTM layers over a sequence, with the constructor, state dict and results of the popular layer.

    Args:
        input_dim: channels C of the input.
        hidden_dim: channels K of each layer: one value, or a list of num_layers.
        kernel_size: odd k or (kh, kw), or a list of them, one per layer.
        num_layers: number of layers.
        batch_first: True takes input (B, T, C, H, W), False (T, B, C, H, W). The output is (B, T, K, H, W) either way.
        bias: whether the convolutions have a bias.
        return_all_layers: return the outputs and states of every layer instead of the last one's.
        peephole: per-channel weights of the cell state on the gates i, f and o.
        dropout: probability of zeroing elements between layers while training.
        exact: sum as a plain convolution does, instead of by Winograd's algorithm where a fused kernel has it.
        memory: "fast", or "low" to recompute the gates in the backward instead of keeping them.
        cuda_graph: replay repeated shapes as a CUDA graph (Triton backend, under torch.no_grad; ignored elsewhere).
        backend: "auto", "triton", "cpp" or "reference".

    Example:
        >>> layer = ConvLSTM(3, 16, 3, 1, batch_first=True)
        >>> outputs, states = layer(torch.randn(2, 5, 3, 32, 32))
        >>> outputs[0].shape
        torch.Size([2, 5, 16, 32, 32])
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int | list[int],
        kernel_size: KernelSize | list[KernelSize],
        num_layers: int,
        batch_first: bool = False,
        bias: bool = True,
        return_all_layers: bool = False,
        *,
        peephole: bool = False,
        dropout: float = 0.0,
        exact: bool = False,
        memory: str = "fast",
        cuda_graph: bool = False,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        num_layers = _positive("num_layers", num_layers)
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1); got {dropout!r}")
        self.input_dim = input_dim
        self.hidden_dim = self._per_layer("hidden_dim", hidden_dim, num_layers)
        self.kernel_size = self._per_layer("kernel_size", kernel_size, num_layers)
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.bias = bias
        self.return_all_layers = return_all_layers
        self.dropout = dropout
        inputs = [input_dim, *self.hidden_dim[:-1]]
        self.cell_list = nn.ModuleList(
            ConvLSTMCell(
                c,
                k,
                size,
                bias,
                peephole=peephole,
                exact=exact,
                memory=memory,
                cuda_graph=cuda_graph,
                backend=backend,
                device=device,
                dtype=dtype,
            )
            for c, k, size in zip(inputs, self.hidden_dim, self.kernel_size, strict=True)
        )

    @staticmethod
    def _per_layer(name: str, value: Any, num_layers: int) -> list[Any]:
        values = value if isinstance(value, list) else [value] * num_layers
        if len(values) != num_layers:
            raise ValueError(f"{name} must be one value or a list of num_layers={num_layers}; got {value!r}")
        return values

    def forward(
        self,
        input_tensor: Tensor,
        hidden_state: Sequence[Sequence[Tensor]] | None = None,
        *,
        lengths: Tensor | None = None,
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Run every layer over the sequence.

        Args:
            input_tensor: (B, T, C, H, W) if batch_first else (T, B, C, H, W).
            hidden_state: one (h, c) per layer, each (B, K, H, W), as returned with return_all_layers=True; None
                starts from zeros.
            lengths: (B,) integers in [0, T]: sample b ends after lengths[b] steps, outputs zeros from there on and
                returns its state of that step.

        Returns:
            layer_output_list of (B, T, K, H, W), and last_state_list of [h, c]: num_layers entries each, or only the
            last layer's when return_all_layers is False.
        """
        if input_tensor.dim() != 5:
            order = "(B, T, C, H, W)" if self.batch_first else "(T, B, C, H, W)"
            raise ValueError(f"input_tensor must have shape {order}; got {tuple(input_tensor.shape)}")
        if hidden_state is not None and len(hidden_state) != self.num_layers:
            raise ValueError(
                f"hidden_state must hold one (h, c) for each of {self.num_layers} layers, as return_all_layers=True "
                f"returns them; got {len(hidden_state)}"
            )
        x = input_tensor if self.batch_first else input_tensor.transpose(0, 1)
        outputs: list[Tensor] = []
        states: list[list[Tensor]] = []
        for index, cell in enumerate(self.cell_list):
            start = hidden_state[index] if hidden_state is not None else (None, None)
            x, h, c = _run(cell, x, start[0], start[1], lengths)
            outputs.append(x)
            states.append([h, c])
            if self.dropout and index + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        return (outputs, states) if self.return_all_layers else (outputs[-1:], states[-1:])
