"""ConvLSTM from the weights of other libraries' layers: Keras's ConvLSTM2D, and PyTorch layers by their state dicts.

Only weights are carried over, as copies. Optimizers, regularizers, constraints and dropout are not. A converted layer
takes (B, T, C, H, W) and returns what ConvLSTM returns, whatever the layer it comes from takes and returns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlv2v_fast.nn.convlstm import ConvLSTM


def from_keras(
    *layers: Any,
    batch_first: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> ConvLSTM:
    """The ConvLSTM with the weights of Keras's ConvLSTM2D layers.

    Args:
        layers: one built `keras.layers.ConvLSTM2D` for each layer of the ConvLSTM, the first one first. In place of a
            layer, the list that its get_weights() returns: kernel (kh, kw, C, 4K), recurrent_kernel (kh, kw, K, 4K)
            and, unless use_bias=False, bias (4K,), gates in order i, f, c, o. Of what a layer is refused for below, a
            list shows only the shapes.
        batch_first: as of ConvLSTM, but True by default, for Keras knows no other order.
        device, dtype: of the ConvLSTM; the CPU and the dtype of the weights by default.
        options: other keyword arguments of ConvLSTM.

    data_format, return_sequences and return_state do not matter: a ConvLSTM takes channels first, and returns every
    output and the last state, [h, c] as in Keras. unit_forget_bias is in the bias already.

    Raises:
        ValueError: a layer has an even kernel, an activation other than tanh, a recurrent_activation other than
            sigmoid, padding that changes the size, strides, dilation, go_backwards or stateful; or shapes disagree.

    Source: the equations and layout of keras/src/layers/rnn/conv_lstm.py, Keras 3.
    """
    if not layers:
        raise ValueError("layers must hold at least one ConvLSTM2D; got none")
    cells = [_keras_cell(f"layers[{index}]", layer) for index, layer in enumerate(layers)]
    return _assemble(cells, batch_first, device, dtype, options)


def to_keras(layer: ConvLSTM) -> list[list[np.ndarray]]:
    """The weights of a ConvLSTM as set_weights() of Keras's ConvLSTM2D takes them, a list for each layer.

    Returns:
        For each layer kernel (kh, kw, C, 4K), recurrent_kernel (kh, kw, K, 4K), and bias (4K,) if there is one, with
        gates in order i, f, c, o. bfloat16, which numpy lacks, becomes float32.

    Raises:
        ValueError: layer is no ConvLSTM, or has peepholes, which ConvLSTM2D lacks.
    """
    if not isinstance(layer, ConvLSTM):
        raise ValueError(f"layer must be a rlv2v_fast.ConvLSTM; got {type(layer).__name__}")
    weights: list[list[np.ndarray]] = []
    for cell in layer.cell_list:
        if cell.peephole is not None:
            raise ValueError("layer must have peephole=False, for ConvLSTM2D has no peepholes; got peephole=True")
        weight = _reorder(cell.conv.weight.detach(), "ifog", "ifgo").permute(2, 3, 1, 0)
        arrays = [weight[:, :, : -cell.hidden_dim], weight[:, :, -cell.hidden_dim :]]
        if cell.conv.bias is not None:
            arrays.append(_reorder(cell.conv.bias.detach(), "ifog", "ifgo"))
        arrays = [array.float() if array.dtype == torch.bfloat16 else array for array in arrays]
        weights.append([np.ascontiguousarray(array.cpu().numpy()) for array in arrays])
    return weights


def from_state_dict(
    state_dict: Mapping[str, Any],
    *,
    batch_first: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> ConvLSTM:
    """The ConvLSTM with the weights of another PyTorch layer, which is recognised by the names in its state dict.

    - `cell_list.0.conv.weight`: ConvLSTM of ndrplz/ConvLSTM_pytorch, of its descendants, and of this package.
    - `cell0.Wxi.weight`, or `Wxi.weight` for one cell: ConvLSTM of automan000/Convolutional_LSTM_PyTorch.
    - `weight_ih_l0`: Conv2dLSTM of kamo-naoyuki/pytorch_convolutional_rnn.
    - `conv.weight` and `reset_mechanism_val`: SConv2dLSTM of snntorch. Its `mem` is h and its `syn` is c.

    Args:
        state_dict: the names and tensors of that layer alone, without the prefix of a model around it. Stride, dilation
            and activations are not in it: they must be 1, 1, sigmoid and tanh.
        batch_first: as of ConvLSTM, but True by default.
        device, dtype: of the ConvLSTM; those of the weights by default.
        options: other keyword arguments of ConvLSTM.

    Raises:
        ValueError: the names are of none of these layers, a tensor is missing or has a wrong shape, a kernel is even,
            peepholes differ between pixels (here they are one number a channel), or a spiking layer resets its `mem`.

    Source: the equations and names in the repositories above.
    """
    if not isinstance(state_dict, Mapping):
        got = type(state_dict).__name__
        raise ValueError(f"state_dict must map names to tensors, as layer.state_dict() does; got {got}")
    read, matches = _layout(state_dict)
    layers: dict[int, dict[str, tuple[str, Any]]] = {}
    for match, (key, value) in zip(matches, state_dict.items(), strict=True):
        parts = match.groupdict()
        layers.setdefault(int(parts.get("layer", 0)), {})[parts["name"]] = (f"state_dict[{key!r}]", value)
    if sorted(layers) != list(range(len(layers))):
        raise ValueError(f"state_dict must number its layers from 0 without a gap; got layers {sorted(layers)}")
    cells = [read(_Weights(f"layer {index} of state_dict", layers[index])) for index in range(len(layers))]
    return _assemble(cells, batch_first, device, dtype, options)


@dataclass(frozen=True)
class _Cell:
    """One layer's weights as ConvLSTM has them, and the name of the layer in an error."""

    name: str
    x: Tensor  # (4K, C, kh, kw), gates i, f, o, g
    h: Tensor  # (4K, K, kh, kw)
    bias: Tensor | None  # (4K,)
    peephole: Tensor | None = None  # (3, K), gates i, f, o


class _Weights:
    """The tensors of one layer, each with its name in an error."""

    def __init__(self, name: str, entries: Mapping[str, tuple[str, Any]]) -> None:
        self.name = name
        self.entries = entries
        self.sizes: dict[str, int] = {}

    def take(self, key: str, form: str) -> Tensor:
        """A tensor of a shape such as "4K, C, kh, kw". Letters stand for the same sizes in every tensor of a layer."""
        if key not in self.entries:
            raise ValueError(f"{self.name} must have {key}; got {_some(self.entries)}")
        name, value = self.entries[key]
        tensor = _tensor(name, value)
        letters, known = form.split(", "), dict(self.sizes)
        if tensor.dim() != len(letters) or not all(map(self._fits, letters, tensor.shape)):
            sizes = ", ".join(f"{letter} = {size}" for letter, size in known.items())
            where = f" where {sizes}" if known else ""
            raise ValueError(f"{name} must have shape ({form}){where}; got {tuple(tensor.shape)}")
        return tensor

    def take_if_there(self, key: str, form: str) -> Tensor | None:
        return self.take(key, form) if key in self.entries else None

    def _fits(self, letter: str, size: int) -> bool:
        if letter.isdecimal():
            return size == int(letter)
        if letter == "4K":
            letter, size = "K", size // 4 if size % 4 == 0 else 0
        elif letter == "C+K":
            letter, size = "C", size - self.sizes["K"]
        return size > 0 and self.sizes.setdefault(letter, size) == size


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach()
    if isinstance(value, np.ndarray) and value.dtype in (np.float16, np.float32, np.float64):
        return torch.from_numpy(np.array(value, order="C"))
    got = value.dtype if isinstance(value, Tensor | np.ndarray) else type(value).__name__
    raise ValueError(f"{name} must be a tensor or array of floating-point numbers; got {got}")


def _some(names: Mapping[str, Any]) -> str:
    first = ", ".join(str(name) for name in list(names)[:8])
    return f"{first}, ..." if len(names) > 8 else first or "none"


def _reorder(tensor: Tensor, order: str, wanted: str) -> Tensor:
    """The four gates of dimension 0, which are in one order, in another."""
    gates = tensor.chunk(4)
    return torch.cat([gates[order.index(gate)] for gate in wanted])


def _assemble(
    cells: list[_Cell],
    batch_first: bool,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    options: dict[str, Any],
) -> ConvLSTM:
    first, state = cells[0], {}
    for index, cell in enumerate(cells):
        channels, given = cell.x.shape[1], cells[index - 1].h.shape[1]
        if index and channels != given:
            raise ValueError(f"{cell.name} must take the {given} channels of the layer before it; it takes {channels}")
        for part in ("bias", "peephole"):
            if (getattr(cell, part) is None) != (getattr(first, part) is None):
                raise ValueError(f"{cell.name} must have a {part} if and only if {first.name} has one")
        state[f"cell_list.{index}.conv.weight"] = torch.cat([cell.x, cell.h], dim=1)
        if cell.bias is not None:
            state[f"cell_list.{index}.conv.bias"] = cell.bias
        if cell.peephole is not None:
            state[f"cell_list.{index}.peephole"] = cell.peephole
    dtype = dtype or reduce(torch.promote_types, (tensor.dtype for tensor in state.values()))
    # On the meta device no weights are drawn, so that converting leaves the random generator as it was.
    layer = ConvLSTM(
        input_dim=first.x.shape[1],
        hidden_dim=[cell.h.shape[1] for cell in cells],
        kernel_size=[(cell.x.shape[2], cell.x.shape[3]) for cell in cells],
        num_layers=len(cells),
        batch_first=batch_first,
        bias=first.bias is not None,
        peephole=first.peephole is not None,
        device="meta",
        dtype=dtype,
        **options,
    )
    contiguous = torch.contiguous_format
    copies = {key: value.to(device, dtype, copy=True, memory_format=contiguous) for key, value in state.items()}
    layer.load_state_dict(copies, assign=True)
    return layer


# What a ConvLSTM2D must have to be a ConvLSTM, and why.
_KERAS_RULES: tuple[tuple[str, Any, str], ...] = (
    ("activation", "tanh", "ConvLSTM has no other"),
    ("recurrent_activation", "sigmoid", "ConvLSTM has no other, and hard_sigmoid, Keras 2's default, is not the same"),
    ("padding", "same", "ConvLSTM keeps height and width"),
    ("strides", (1, 1), "ConvLSTM has none"),
    ("dilation_rate", (1, 1), "ConvLSTM has none"),
    ("go_backwards", False, "ConvLSTM runs forward; convert get_weights() and flip the video in time"),
    ("stateful", False, "ConvLSTM returns its state; convert get_weights() and feed the state back"),
)


def _keras_weights(name: str, layer: Any) -> list[np.ndarray]:
    """The arrays of a Keras layer, known by its class's name and its attributes: Keras need not be importable."""
    kind = type(layer).__name__
    if kind != "ConvLSTM2D":
        raise ValueError(
            f"{name} must be a Keras ConvLSTM2D or the list of its get_weights(); got {kind}. "
            "Of a model or a wrapper, pass the ConvLSTM2D inside; of several layers, each as an argument"
        )
    for attribute, wanted, why in _KERAS_RULES:
        found = getattr(layer, attribute)
        if callable(found):
            found = getattr(found, "__name__", type(found).__name__)
        # Without padding a 1x1 kernel keeps the size, too.
        if found != wanted and (attribute, tuple(layer.kernel_size)) != ("padding", (1, 1)):
            raise ValueError(f"{name}: {attribute} must be {wanted!r}, for {why}; got {found!r}")
    if not layer.built:
        raise ValueError(f"{name} must be built, by a first call or by build(input_shape); got a layer without weights")
    return layer.get_weights()


def _keras_cell(name: str, layer: Any) -> _Cell:
    arrays = layer if isinstance(layer, list | tuple) else _keras_weights(name, layer)
    keys = ("kernel", "recurrent_kernel", "bias")
    if len(arrays) not in (2, 3):
        raise ValueError(f"{name} must hold {', '.join(keys[:2])} and perhaps bias; got {len(arrays)} arrays")
    entries = {key: (f"{key} of {name}", array) for key, array in zip(keys, arrays, strict=False)}
    weights = _Weights(name, entries)
    x = weights.take("kernel", "kh, kw, C, 4K")
    h = weights.take("recurrent_kernel", "kh, kw, K, 4K")
    bias = weights.take_if_there("bias", "4K")
    x, h = (_reorder(each.permute(3, 2, 0, 1), "ifgo", "ifog") for each in (x, h))
    return _Cell(name, x, h, None if bias is None else _reorder(bias, "ifgo", "ifog"))


def _one_convolution(weights: _Weights) -> _Cell:
    """One convolution over x and h. ndrplz/ConvLSTM_pytorch, convlstm.py."""
    weight = weights.take("conv.weight", "4K, C+K, kh, kw")
    x, h = weight.split([weights.sizes["C"], weights.sizes["K"]], dim=1)
    bias, peephole = weights.take_if_there("conv.bias", "4K"), weights.take_if_there("peephole", "3, K")
    return _Cell(weights.name, x, h, bias, peephole)


def _spiking(weights: _Weights) -> _Cell:
    """One convolution over x and mem. snntorch, _neurons/sconv2dlstm.py: 2 stands for a membrane that is not reset."""
    name, value = weights.entries.get("reset_mechanism_val", ("", None))
    if value is None:
        raise ValueError(
            "state_dict must show whose layer it is, for gates may be in any order; if they are i, f, o, g, name its "
            f"tensors cell_list.0.conv.weight and cell_list.0.conv.bias; got {_some(weights.entries)}"
        )
    if int(value) != 2:
        raise ValueError(f"{name} must be 2 (reset_mechanism='none'), for ConvLSTM resets nothing; got {int(value)}")
    return _one_convolution(weights)


def _convolution_a_gate(weights: _Weights) -> _Cell:
    """Convolutions of x and h for each gate. automan000/Convolutional_LSTM_PyTorch, convolution_lstm.py."""
    x = [weights.take(f"Wx{gate}.weight", "K, C, kh, kw") for gate in "ifoc"]
    h = [weights.take(f"Wh{gate}.weight", "K, K, kh, kw") for gate in "ifoc"]
    bias = None
    for side in "xh":
        if any(f"W{side}{gate}.bias" in weights.entries for gate in "ifoc"):
            part = torch.cat([weights.take(f"W{side}{gate}.bias", "K") for gate in "ifoc"])
            bias = part if bias is None else bias + part
    peephole = None
    if any(f"Wc{gate}" in weights.entries for gate in "ifo"):
        peephole = torch.stack([_one_a_channel(weights, f"Wc{gate}") for gate in "ifo"])
    return _Cell(weights.name, torch.cat(x), torch.cat(h), bias, peephole)


def _one_a_channel(weights: _Weights, key: str) -> Tensor:
    pixels = weights.take(key, "1, K, H, W")[0].flatten(1)
    if not torch.equal(pixels, pixels[:, :1].expand_as(pixels)):
        name = weights.entries[key][0]
        raise ValueError(
            f"{name} must be the same at every pixel, for ConvLSTM's peepholes are one number a channel; got values "
            f"that differ by up to {float((pixels.amax(1) - pixels.amin(1)).max()):.3g}"
        )
    return pixels[:, 0]


def _two_convolutions(weights: _Weights) -> _Cell:
    """One convolution of x and one of h, gates i, f, g, o. kamo-naoyuki/pytorch_convolutional_rnn, functional.py."""
    x, h = weights.take("weight_ih", "4K, C, kh, kw"), weights.take("weight_hh", "4K, K, kh, kw")
    bias = None
    if "bias_ih" in weights.entries or "bias_hh" in weights.entries:
        bias = _reorder(weights.take("bias_ih", "4K") + weights.take("bias_hh", "4K"), "ifgo", "ifog")
    return _Cell(weights.name, _reorder(x, "ifgo", "ifog"), _reorder(h, "ifgo", "ifog"), bias)


_GATE = r"(?P<name>W[xh][ifoc]\.(?:weight|bias)|Wc[ifo])"
_LAYOUTS: tuple[tuple[str, Callable[[_Weights], _Cell]], ...] = (
    (r"cell_list\.(?P<layer>\d+)\.(?P<name>conv\.(?:weight|bias)|peephole)", _one_convolution),
    (rf"cell(?P<layer>\d+)\.{_GATE}", _convolution_a_gate),
    (_GATE, _convolution_a_gate),
    (r"(?P<name>(?:weight|bias)_(?:ih|hh))_l(?P<layer>\d+)", _two_convolutions),
    (r"(?P<name>conv\.(?:weight|bias)|threshold|graded_spikes_factor|reset_mechanism_val)", _spiking),
)


def _layout(state_dict: Mapping[str, Any]) -> tuple[Callable[[_Weights], _Cell], list[re.Match[str]]]:
    """What reads a layer of these names, and each name's parts."""
    for pattern, read in _LAYOUTS:
        matches = [match for key in state_dict if (match := re.fullmatch(pattern, str(key)))]
        if matches and len(matches) == len(state_dict):
            return read, matches
    raise ValueError(
        "state_dict must have the names of one layout, cell_list.0.conv.weight, cell0.Wxi.weight, weight_ih_l0 or "
        f"conv.weight with reset_mechanism_val, and no other names; got {_some(state_dict)}"
    )
