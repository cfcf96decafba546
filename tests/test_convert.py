"""Layers of other libraries and the ConvLSTM of their weights give the same numbers."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast import ConvLSTM, convert

ROOT = Path(__file__).resolve().parents[1]
# Float32 as torch.testing has it. Float64 far closer, so that a wrong gate cannot hide.
TOLERANCE: dict[torch.dtype, dict[str, float]] = {torch.float32: {}, torch.float64: {"atol": 1e-12, "rtol": 1e-12}}
# Keras's own call of numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")


def same(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, **TOLERANCE[want.dtype])


# Keras 3 on PyTorch.


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_TORCH_DEVICE", "cpu")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        return pytest.importorskip("keras")


def keras_layer(
    keras: ModuleType, filters: int = 5, kernel: Any = (3, 5), channels: int = 3, dtype: str = "float64", **options: Any
) -> Any:
    """A layer with random weights, biases included, for frames of 6x7."""
    options = {"padding": "same", "return_sequences": True, "return_state": True, **options}
    layer = keras.layers.ConvLSTM2D(filters, kernel, dtype=dtype, **options)
    frame = (channels, 6, 7) if layer.data_format == "channels_first" else (6, 7, channels)
    layer.build((None, None, *frame))
    layer.set_weights([torch.randn(each.shape).mul(0.3).numpy().astype(dtype) for each in layer.get_weights()])
    return layer


def last(x: Tensor) -> Tensor:
    """Channels last."""
    return x.movedim(-3, -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_bias": False},
        {"kernel": (1, 1), "padding": "valid"},
        {"filters": 2, "dropout": 0.5, "recurrent_dropout": 0.5},
        {"data_format": "channels_first"},
    ],
    ids=str,
)
def test_keras_outputs_and_states_are_equal(keras: ModuleType, options: dict[str, Any], dtype: torch.dtype) -> None:
    layer = keras_layer(keras, dtype=str(dtype).removeprefix("torch."), **options)
    ours = convert.from_keras(layer)
    assert (ours.input_dim, ours.hidden_dim, ours.kernel_size) == (3, [layer.filters], [layer.kernel_size])
    x = torch.randn(2, 4, 3, 6, 7, dtype=dtype)
    start = [torch.randn(2, layer.filters, 6, 7, dtype=dtype) for _ in range(2)]
    order = last if layer.data_format == "channels_last" else torch.clone
    for state in (None, start):
        (out,), ((h, c),) = ours(x, None if state is None else [state])
        theirs = layer(order(x), initial_state=None if state is None else [order(each) for each in state])
        for got, want in zip((out, h, c), theirs, strict=True):
            same(order(got), want)


def test_keras_layers_become_one_stack(keras: ModuleType) -> None:
    first = keras_layer(keras, filters=4, kernel=3, return_state=False)
    second = keras_layer(keras, filters=2, kernel=(5, 1), channels=4)
    ours = convert.from_keras(first, second.get_weights(), return_all_layers=True)
    x = torch.randn(2, 3, 3, 6, 7, dtype=torch.float64)
    outputs, states = ours(x)
    want, h, c = second(first(last(x)))
    same(last(outputs[0]), first(last(x)))
    for got, each in zip((outputs[1], *states[1]), (want, h, c), strict=True):
        same(last(got), each)


def test_keras_layer_and_ours_train_alike(keras: ModuleType) -> None:
    layer = keras_layer(keras)
    ours = convert.from_keras(layer)
    x, target = torch.randn(2, 4, 3, 6, 7).double(), torch.randn(2, 4, 5, 6, 7).double()
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    (ours(mine)[0][0] - target).square().mean().backward()
    (layer(last(theirs))[0] - last(target)).square().mean().backward()
    same(mine.grad, theirs.grad)
    for parameters in (ours.parameters(), [variable.value for variable in layer.trainable_variables]):
        torch.optim.SGD(parameters, lr=0.5).step()
    for got, want in zip(convert.to_keras(ours)[0], layer.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_weights_go_back_into_keras(keras: ModuleType) -> None:
    ours = ConvLSTM(3, [4, 2], [3, (3, 5)], 2, batch_first=True, dtype=torch.float64)
    first = keras_layer(keras, filters=4, kernel=3, return_state=False)
    second = keras_layer(keras, filters=2, channels=4)
    for layer, weights in zip((first, second), convert.to_keras(ours), strict=True):
        layer.set_weights(weights)
    x = torch.randn(1, 3, 3, 6, 7, dtype=torch.float64)
    same(last(ours(x)[0][0]), second(first(last(x)))[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "relu"}, "activation must be 'tanh', for ConvLSTM has no other; got 'relu'"),
        ({"activation": None}, "activation must be 'tanh'.*got 'linear'"),
        ({"recurrent_activation": "hard_sigmoid"}, "recurrent_activation must be 'sigmoid'.*got 'hard_sigmoid'"),
        ({"padding": "valid"}, "padding must be 'same', for ConvLSTM keeps height and width; got 'valid'"),
        ({"strides": 2}, r"strides must be \(1, 1\).*got \(2, 2\)"),
        ({"dilation_rate": 2}, r"dilation_rate must be \(1, 1\).*got \(2, 2\)"),
        ({"go_backwards": True}, "go_backwards must be False.*flip the video in time; got True"),
        ({"stateful": True}, "stateful must be False.*feed the state back; got True"),
        ({}, "must be built"),
    ],
)
def test_keras_layers_of_other_mathematics_are_refused(
    keras: ModuleType, options: dict[str, Any], message: str
) -> None:
    layer = keras.layers.ConvLSTM2D(2, 3, **{"padding": "same", **options})
    with pytest.raises(ValueError, match=rf"layers\[0\].*{message}"):
        convert.from_keras(layer)


def test_wrappers_models_and_other_ranks_are_refused(keras: ModuleType) -> None:
    layers = keras.layers
    inner = layers.ConvLSTM2D(2, 3, padding="same")
    for wrong in (
        layers.Bidirectional(inner),
        keras.Sequential([layers.Input((4, 6, 7, 3)), inner]),
        layers.ConvLSTM1D(2, 3, padding="same"),
        layers.ConvLSTM3D(2, 3, padding="same"),
    ):
        with pytest.raises(ValueError, match=rf"ConvLSTM2D .*got {type(wrong).__name__}.*pass the ConvLSTM2D inside"):
            convert.from_keras(wrong)
    with pytest.raises(ValueError, match=r"kernel of layers\[0\] must be a tensor or array.*got ConvLSTM2D"):
        convert.from_keras([inner, inner])
    even = keras_layer(keras, kernel=2)
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        convert.from_keras(even)


# Keras's arrays, without Keras.


def arrays(*shapes: tuple[int, ...], dtype: str = "float32") -> list[np.ndarray]:
    return [np.zeros(shape, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "layers must hold at least one"),
        (arrays((3, 3, 2, 16)), "must be a Keras ConvLSTM2D or the list of its get_weights.*got ndarray"),
        ([arrays((3, 3, 2, 16))], r"layers\[0\] must hold kernel, recurrent_kernel and perhaps bias; got 1 arrays"),
        ([[]], "got 0 arrays"),
        (
            [arrays((3, 2, 16), (3, 4, 16), (16,))],
            r"kernel of layers\[0\] must have shape \(kh, kw, C, 4K\); got \(3, 2, 16\)",
        ),
        ([arrays((3, 3, 2, 15), (3, 3, 4, 15))], r"must have shape \(kh, kw, C, 4K\).*got \(3, 3, 2, 15\)"),
        (
            [arrays((3, 5, 2, 16), (5, 3, 4, 16))],
            r"recurrent_kernel of layers\[0\] must have shape \(kh, kw, K, 4K\) where kh = 3, kw = 5, C = 2, K = 4;",
        ),
        ([arrays((3, 3, 2, 16), (3, 3, 4, 16), (2, 16))], r"bias of layers\[0\] must have shape \(4K\)"),
        ([arrays((3, 3, 2, 16), (3, 3, 4, 16), dtype="int64")], "floating-point numbers; got int64"),
        ([arrays((3, 3, 2, 16), (3, 3, 4, 16))] * 2, r"layers\[1\] must take the 4 channels.*it takes 2"),
        (
            [arrays((3, 3, 2, 16), (3, 3, 4, 16), (16,)), arrays((1, 1, 4, 16), (1, 1, 4, 16))],
            r"layers\[1\] must have a bias if and only if layers\[0\] has one",
        ),
    ],
)
def test_wrong_arrays_are_refused(layers: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert.from_keras(*layers)


def test_layers_without_the_way_back_are_refused() -> None:
    with pytest.raises(ValueError, match="ConvLSTM2D has no peepholes; got peephole=True"):
        convert.to_keras(ConvLSTM(2, 2, 3, 1, peephole=True))
    with pytest.raises(ValueError, match=r"layer must be a rlv2v_fast.ConvLSTM; got ConvLSTMCell"):
        convert.to_keras(ConvLSTM(2, 2, 3, 1).cell_list[0])


def test_bfloat16_goes_to_keras_as_float32() -> None:
    layer = ConvLSTM(2, 3, 3, 1, dtype=torch.bfloat16)
    back = convert.from_keras(*convert.to_keras(layer), dtype=torch.bfloat16)
    for got, want in zip(back.parameters(), layer.parameters(), strict=True):
        assert torch.equal(got, want)


# PyTorch layers. Most of them are no packages, so that what they compute is stated here once more.


def gates_of(channels: int, hidden: int, kernel: tuple[int, int] = (3, 3), dtype: torch.dtype = torch.float64) -> Any:
    """Random weights (of x, of h, bias) by gate."""
    draw = [(hidden, channels, *kernel), (hidden, hidden, *kernel), (hidden,)]
    return {gate: [torch.randn(shape, dtype=dtype) * 0.3 for shape in draw] for gate in "ifoc"}


def equations(
    x: Tensor, gates: Any, h: Tensor, c: Tensor, peephole: list[Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Shi et al. 2015, eq. 3, a convolution for each gate; peephole weights of c on i, f and o."""
    outputs = []
    w_i, w_f, w_o = peephole or [torch.zeros(1, dtype=x.dtype)] * 3
    for frame in x.unbind(1):
        pre = {
            gate: F.conv2d(frame, wx, b, padding="same") + F.conv2d(h, wh, padding="same")
            for gate, (wx, wh, b) in gates.items()
        }
        c_before = c
        c = torch.sigmoid(pre["f"] + w_f * c_before) * c_before
        c = c + torch.sigmoid(pre["i"] + w_i * c_before) * torch.tanh(pre["c"])
        h = torch.sigmoid(pre["o"] + w_o * c) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs, 1), h, c


def by_gate(gates: Any) -> dict[str, Tensor]:
    """The names of automan000/Convolutional_LSTM_PyTorch, convolution_lstm.py, class ConvLSTMCell."""
    names = {}
    for gate, (wx, wh, b) in gates.items():
        names |= {f"Wx{gate}.weight": wx, f"Wx{gate}.bias": b, f"Wh{gate}.weight": wh}
    return names


def by_source(gates: Any, layer: int = 0) -> dict[str, Tensor]:
    """The names and the order i, f, g, o of kamo-naoyuki/pytorch_convolutional_rnn, class Conv2dLSTM."""
    wx, wh, b = (torch.cat([gates[gate][part] for gate in "ifco"]) for part in range(3))
    split = torch.randn_like(b)
    names = {"weight_ih": wx, "weight_hh": wh, "bias_ih": b - split, "bias_hh": split}
    return {f"{name}_l{layer}": value for name, value in names.items()}


def in_one(gates: Any, prefix: str = "cell_list.0.") -> dict[str, Tensor]:
    """The names and the order i, f, o, g of ndrplz/ConvLSTM_pytorch, convlstm.py."""
    weight = torch.cat([torch.cat(gates[gate][:2], 1) for gate in "ifoc"])
    return {f"{prefix}conv.weight": weight, f"{prefix}conv.bias": torch.cat([gates[gate][2] for gate in "ifoc"])}


def spiking(gates: Any, reset: int = 2) -> dict[str, Tensor]:
    """The names of snntorch 1.0, class SConv2dLSTM; reset 2 is its reset_mechanism="none"."""
    return {**in_one(gates, ""), "threshold": torch.tensor(1.0), "reset_mechanism_val": torch.tensor(reset)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("names", [by_gate, by_source, in_one, spiking])
def test_state_dicts_of_other_layers_convert(names: Any, dtype: torch.dtype) -> None:
    gates = gates_of(2, 4, (3, 5), dtype)
    ours = convert.from_state_dict(names(gates))
    x = torch.randn(2, 4, 2, 5, 6, dtype=dtype)
    h, c = torch.randn(2, 2, 4, 5, 6, dtype=dtype)
    (out,), ((h_last, c_last),) = ours(x, [(h, c)])
    for got, want in zip((out, h_last, c_last), equations(x, gates, h, c), strict=True):
        same(got, want)


def test_state_dicts_of_several_layers_convert() -> None:
    first, second = gates_of(2, 4), gates_of(4, 3, (1, 5))
    by_cell = {
        f"cell{i}.{name}": value for i, gates in ((0, first), (1, second)) for name, value in by_gate(gates).items()
    }
    for names in (by_cell, by_source(second, 1) | by_source(first, 0), in_one(first) | in_one(second, "cell_list.1.")):
        ours = convert.from_state_dict(names, batch_first=False)
        x = torch.randn(2, 3, 2, 5, 6, dtype=torch.float64)
        hidden, *_ = equations(x, first, *torch.zeros(2, 2, 4, 5, 6, dtype=torch.float64))
        want, *_ = equations(hidden, second, *torch.zeros(2, 2, 3, 5, 6, dtype=torch.float64))
        same(ours(x.transpose(0, 1))[0][0], want)


def test_biases_on_both_sides_or_none_convert() -> None:
    gates = gates_of(2, 3)
    plain, both = by_gate(gates), by_gate(gates)
    for gate in "ifoc":
        extra = torch.randn(3, dtype=torch.float64)
        both |= {f"Wx{gate}.bias": plain[f"Wx{gate}.bias"] - extra, f"Wh{gate}.bias": extra}
    for got, want in zip(
        convert.from_state_dict(both).parameters(), convert.from_state_dict(plain).parameters(), strict=True
    ):
        same(got, want)
    for names in (plain, by_source(gates), in_one(gates)):
        without = {key: value for key, value in names.items() if "bias" not in key}
        assert convert.from_state_dict(without).cell_list[0].conv.bias is None


def test_peepholes_that_are_one_number_a_channel_convert() -> None:
    gates, weights = gates_of(2, 3), torch.randn(3, 3, dtype=torch.float64)
    maps = [each[None, :, None, None].expand(1, 3, 5, 6).clone() for each in weights]
    names = by_gate(gates) | dict(zip(("Wci", "Wcf", "Wco"), maps, strict=True))
    ours = convert.from_state_dict(names, backend="reference")
    x, (h, c) = torch.randn(2, 4, 2, 5, 6, dtype=torch.float64), torch.randn(2, 2, 3, 5, 6, dtype=torch.float64)
    (out,), ((_, c_last),) = ours(x, [(h, c)])
    want, _, c_want = equations(x, gates, h, c, maps)
    same(out, want)
    same(c_last, c_want)
    maps[1][0, 2, 3, 3] += 0.5
    with pytest.raises(ValueError, match=r"state_dict\['Wcf'\] must be the same at every pixel.*differ by up to 0.5"):
        convert.from_state_dict(names)


def test_the_state_dict_of_our_own_layer_converts() -> None:
    layer = ConvLSTM(2, [3, 4], 3, 2, batch_first=True, peephole=True, return_all_layers=True, backend="reference")
    with torch.no_grad():
        for cell in layer.cell_list:
            cell.peephole.normal_()
    ours = convert.from_state_dict(layer.state_dict(), return_all_layers=True, backend="reference")
    x = torch.randn(1, 3, 2, 5, 5)
    for got, want in zip(ours(x)[0], layer(x)[0], strict=True):
        assert torch.equal(got, want)


def test_the_conv_lstm_package_converts() -> None:
    theirs = pytest.importorskip("conv_lstm").ConvLSTM(3, 4, 3, 2, True, True, True)
    ours = convert.from_state_dict(theirs.state_dict(), return_all_layers=True)
    x = torch.randn(2, 4, 3, 6, 7)
    (outputs, states), (want, want_states) = ours(x), theirs(x)
    for i in range(2):
        for got, each in zip((outputs[i], *states[i]), (want[i], *want_states[i]), strict=True):
            same(got, each)


@pytest.mark.parametrize("reset", ["none", "subtract"])
def test_snntorch_converts_unless_it_resets(reset: str) -> None:
    snntorch = pytest.importorskip("snntorch")
    theirs = snntorch.SConv2dLSTM(2, 4, (3, 5), threshold=0.1, reset_mechanism=reset)
    if reset != "none":
        with pytest.raises(ValueError, match=r"reset_mechanism_val.* must be 2 .*got 0"):
            convert.from_state_dict(theirs.state_dict())
        return
    ours = convert.from_state_dict(theirs.state_dict())
    x, (syn, mem) = torch.randn(2, 4, 2, 5, 6), torch.randn(2, 2, 4, 5, 6)
    (out,), ((h, c),) = ours(x, [(mem, syn)])
    for t in range(4):
        spikes, syn, mem = theirs(x[:, t], syn, mem)
        same(out[:, t], mem)
        assert torch.equal((out[:, t] > 0.1).float(), spikes)
    same(h, mem)
    same(c, syn)


def cells(*numbers: int) -> dict[str, Tensor]:
    return {f"cell{i}.{name}": value for i in numbers for name, value in by_gate(gates_of(2, 2)).items()}


@pytest.mark.parametrize(
    ("state_dict", "message"),
    [
        (ConvLSTM(2, 2, 3, 1), r"state_dict must map names to tensors.*got ConvLSTM"),
        ({}, "state_dict must have the names of one layout.*got none"),
        # jhhuang96/ConvLSTM-PyTorch normalizes the gates in groups.
        (
            {"conv.0.weight": torch.ones(1), "conv.1.weight": torch.ones(1)},
            "one layout.*got conv.0.weight, conv.1.weight",
        ),
        (
            {f"module.{key}": value for key, value in cells(0).items()},
            r"one layout.*got module.cell0.Wxi.weight, .*\.\.\.",
        ),
        (cells(0) | {"head.weight": torch.ones(1)}, "one layout.*and no other names"),
        (cells(0) | by_gate(gates_of(2, 2)), "one layout"),
        ({"weight_ih_l0_reverse": torch.ones(8, 2, 3, 3)}, "one layout"),
        (in_one(gates_of(2, 2), ""), r"gates may be in any order.*cell_list.0.conv.weight.*got conv.weight, conv.bias"),
        (cells(0, 2), r"number its layers from 0 without a gap; got layers \[0, 2\]"),
        (
            cells(0, 1) | {"cell1.Wxi.weight": torch.ones(2, 2, 3)},
            r"state_dict\['cell1.Wxi.weight'\] must have shape \(K, C,",
        ),
        (
            {key: value for key, value in cells(0).items() if key != "cell0.Who.weight"},
            "layer 0 of state_dict must have Who.weight",
        ),
        ({"weight_ih_l0": torch.ones(8, 2), "weight_hh_l0": torch.ones(8, 2)}, r"\(4K, C, kh, kw\); got \(8, 2\)"),
        (
            {"weight_ih_l0": torch.ones(16, 2, 3, 3), "weight_hh_l0": torch.ones(16, 2, 3, 3)},
            r"weight_hh_l0'\] must have shape \(4K, K, kh, kw\) where K = 4, C = 2, .*got \(16, 2, 3, 3\)",
        ),
        ({"cell_list.0.conv.weight": torch.ones(8, 2, 3, 3)}, r"shape \(4K, C\+K, kh, kw\); got \(8, 2, 3, 3\)"),
        ({"cell_list.0.conv.weight": torch.ones(8, 4, 2, 2)}, r"kernel_size must be odd.*got \(2, 2\)"),
        ({"cell_list.0.conv.weight": torch.ones(8, 4, 3, 3).int()}, "floating-point numbers; got torch.int32"),
        (spiking(gates_of(2, 2), reset=1), "must be 2 .*ConvLSTM resets nothing; got 1"),
    ],
)
def test_other_state_dicts_are_refused(state_dict: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert.from_state_dict(state_dict)


def test_a_converted_layer_shares_nothing_and_draws_nothing() -> None:
    names = {key: value.requires_grad_() for key, value in in_one(gates_of(2, 3)).items()}
    before = torch.get_rng_state()
    layer = convert.from_state_dict(names, dtype=torch.float32, memory="low")
    double = convert.from_state_dict(names)
    assert torch.equal(torch.get_rng_state(), before)
    assert layer.cell_list[0].memory == "low"
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.float32}
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in double.parameters())
    with torch.no_grad():
        for parameter in double.parameters():
            parameter.zero_()
    assert all(value.abs().sum() > 0 for value in names.values())


def test_convert_is_a_module_that_imports_no_keras() -> None:
    code = "import sys, rlv2v_fast.convert; print(rlv2v_fast.convert.from_keras.__name__, 'keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["from_keras", "False"]
    assert importlib.import_module("rlv2v_fast.convert") is convert
