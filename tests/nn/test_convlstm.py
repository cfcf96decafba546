"""ConvLSTM and ConvLSTMCell: the popular layer's contract, on every backend this machine has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.peers import NaiveConvLSTM
from rlv2v_fast import extension
from rlv2v_fast.nn.blocks import RPB
from rlv2v_fast.nn.convlstm import ConvLSTM, ConvLSTMCell

BACKENDS = ["reference", "cpp"] if extension.why_not_cpu() is None else ["reference"]


def pair(layers: int, bias: bool = True, **options: object) -> tuple[NaiveConvLSTM, ConvLSTM]:
    torch.manual_seed(0)
    naive = NaiveConvLSTM(3, 8, (3, 3), layers, bias)
    ours = ConvLSTM(3, 8, (3, 3), layers, batch_first=True, bias=bias, **options)
    ours.load_state_dict(naive.state_dict(), strict=True)
    return naive, ours


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("memory", ["fast", "low"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_state_dict_outputs_and_gradients_are_the_naive_layers(
    layers: int, bias: bool, memory: str, backend: str
) -> None:
    naive, ours = pair(layers, bias, memory=memory, exact=True, backend=backend)
    x = torch.randn(2, 4, 3, 9, 10)
    got, want = x.clone().requires_grad_(), x.clone().requires_grad_()
    (out,), ((h, c),) = ours(got)
    (out2,), ((h2, c2),) = naive(want)
    for a, b in ((out, out2), (h, h2), (c, c2)):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-6)
    for o in (out, out2):
        o.square().sum().backward()
    torch.testing.assert_close(got.grad, want.grad, atol=2e-6, rtol=2e-5)
    for a, b in zip(ours.parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_returned_states_feed_back(backend: str) -> None:
    layer = ConvLSTM(2, [4, 5], [3, (5, 3)], 2, batch_first=True, return_all_layers=True, backend=backend)
    x = torch.randn(2, 6, 2, 7, 8)
    whole, states = layer(x)
    first, state = layer(x[:, :4])
    rest, last = layer(x[:, 4:], state)
    for i in range(2):
        torch.testing.assert_close(torch.cat([first[i], rest[i]], dim=1), whole[i])
        for a, b in zip(last[i], states[i], strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cell_steps_equal_the_layer(backend: str) -> None:
    torch.manual_seed(0)
    layer = ConvLSTM(2, 4, 3, 1, batch_first=True, backend=backend)
    cell: ConvLSTMCell = layer.cell_list[0]  # type: ignore[assignment]
    x = torch.randn(1, 3, 2, 5, 6)
    state: tuple[Tensor, Tensor] = cell.init_hidden(1, (5, 6))
    for t in range(3):
        state = cell(x[:, t], state)
    _, ((h, c),) = layer(x)
    torch.testing.assert_close(state[0], h)
    torch.testing.assert_close(state[1], c)


@pytest.mark.parametrize("backend", BACKENDS)
def test_output_is_contiguous_and_batch_first(backend: str) -> None:
    layer = ConvLSTM(2, 4, 3, 1, backend=backend)
    (out,), ((h, _),) = layer(torch.randn(3, 2, 2, 5, 6))
    assert out.shape == (2, 3, 4, 5, 6)
    assert out.is_contiguous()
    assert torch.equal(out[:, -1], h)
    # The last state is a tensor of its own: changing it must not change the output.
    with torch.no_grad():
        h.zero_()
    assert out[:, -1].any()


def test_memory_and_exact_are_keyword_only_and_checked() -> None:
    with pytest.raises(ValueError, match="memory must be one of fast, low; got 'tiny'"):
        ConvLSTM(2, 4, 3, 1, memory="tiny")
    with pytest.raises(TypeError):
        ConvLSTMCell(2, 4, 3, True, True)  # type: ignore[misc]
    cell = ConvLSTM(2, 4, 3, 1, memory="low", exact=True).cell_list[0]
    assert (cell.memory, cell.exact) == ("low", True)


def test_sizes_may_be_numpy_integers() -> None:
    size = np.int64
    layer = ConvLSTM(size(3), [size(4), size(5)], (size(3), size(5)), size(2), batch_first=True)
    assert layer(torch.randn(1, 2, 3, 6, 6))[0][0].shape == (1, 2, 5, 6, 6)
    assert RPB(size(3), size(4))(torch.randn(1, 3, 2, 4, 4)).shape == (1, 4, 2, 2, 2)
    with pytest.raises(ValueError, match="input_dim must be a positive integer; got True"):
        ConvLSTM(True, 4, 3, 1)
