"""A small network that translates each pixel alone, by its colour and place, on frames (N, C, H, W)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rlv2v_fast.nn.plain import register_plain, why_not_plain
from rlv2v_fast.ops.backends import check_backend
from rlv2v_fast.ops.pixel_map import (
    PixelMapConstants,
    PixelMapParameters,
    call_pixel_map,
    located_reference,
    pixel_map,
    without_autocast,
)
from rlv2v_fast.ops.transforms import is_mapped

BACKENDS = ("auto", "cpp", "triton", "reference")
_SLOPE = 0.2  # of the leaky ReLUs

for _kind in (nn.Sequential, nn.LeakyReLU):
    register_plain(_kind)


def located(frames: Tensor) -> Tensor:
    """Frames (N, C, H, W) and each pixel's place in [-1, 1], vertical and horizontal: (N, C + 2, H, W).

    They are channels last, so that convolutions need not reorder them, except under torch.vmap, which knows no layout.
    """
    places = located_reference(frames)
    return places if is_mapped() else places.contiguous(memory_format=torch.channels_last)


@register_plain
class FourierFeatures(nn.Module):
    """A frame's channels and coordinates, and sines of random projections of them. The projections are trained too.

    A small network on plain colours learns slowly varying functions first, so it is slow to tell similar colours apart.
    Sines of a fast projection are nearly orthogonal even for similar colours.

    Args:
        channels: channels C of a frame.
        features: number F of sines.
        frequency: standard deviation of the projections of colours in [-1, 1], in radians.

    Source: Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional
    Domains".
    """

    # Standard deviation of the projections of coordinates in [-1, 1]: light may change over half a frame, not from
    # pixel to pixel.
    _POSITION = 1.0

    def __init__(self, channels: int, features: int, frequency: float) -> None:
        super().__init__()
        projection = torch.randn(features, channels + 2) * frequency
        projection[:, channels:] *= self._POSITION / frequency
        self.project = nn.Conv2d(channels + 2, features, 1)
        with torch.no_grad():
            self.project.weight.copy_(projection[:, :, None, None])
            self.project.bias.copy_(torch.rand(features) * 2 * math.pi)  # type: ignore[union-attr]
        self.out_channels = channels + 2 + features

    def forward(self, frames: Tensor) -> Tensor:
        """Features (N, C + 2 + F, H, W) of frames (N, C, H, W)."""
        places = located(frames)
        # In bfloat16 a phase of some tens of radians would be wrong by a tenth of a radian.
        with without_autocast(frames.device):
            waves = torch.sin(self.project(places))
        return torch.cat([places, waves], dim=1)


class PixelMap(nn.Module):
    """Translates each pixel alone: its colour times a gain plus an emission, both functions of its colour and place.

    y = gain (x + 1) + emission + table(x) - 1. A pixelwise network computes gain and emission from Fourier features.
    The table holds an emission for each of 17x17x17 colours, with interpolation between them. Each entry learns alone,
    and Adam moves the entry of a rare colour as fast as that of a frequent one, so that small dark objects can light
    up. The output is linear: a tanh is flat where it is dark, and a light that once went dark would hardly come back.
    Only in eval mode it is clamped to [-1, 1].

    Args:
        width: channels of the hidden layers.
        channels: channels C of a frame. Without three colours there is no table.
        backend: "auto", "cpp", "triton" or "reference", as of ops.pixel_map.

    Source of the table: Zeng et al. 2020, "Learning Image-Adaptive 3D Lookup Tables".
    """

    _FEATURES, _FREQUENCY = 64, 8.0
    # Colours along each axis of the table, and its learning speed relative to the other weights'.
    _LEVELS, _SPEED = 17, 3.0
    # The gain before training; the network's output is added to it.
    _GAIN = 0.3

    def __init__(self, width: int, channels: int = 3, *, backend: str = "auto") -> None:
        super().__init__()
        self.channels = channels
        self.backend = check_backend(backend, BACKENDS)
        self.features = FourierFeatures(channels, self._FEATURES, self._FREQUENCY)
        self.hidden = nn.Sequential(
            *(nn.Conv2d(self.features.out_channels, width, 1), nn.LeakyReLU(_SLOPE)),
            *(nn.Conv2d(width, width, 1), nn.LeakyReLU(_SLOPE)),
            *(nn.Conv2d(width, width, 1), nn.LeakyReLU(_SLOPE)),
        )
        self.head = nn.Conv2d(width, 2 * channels, 1)
        # Without three colours there is no cube to look up in.
        self.table = nn.Parameter(torch.zeros(1, channels, *[self._LEVELS] * 3)) if channels == 3 else None

    def forward(self, frames: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] to the same shape, of the weights' dtype; in [-1, 1] too in eval mode."""
        return self.translate(frames)

    def translate(self, frames: Tensor) -> Tensor:
        """forward. What a user did to a submodule is honoured: where one is not plain, all are called."""
        # A forecast made under autocast is bfloat16. Colours need the precision of the weights.
        frames = frames.to(next(self.parameters()).dtype)
        table = None if self.table is None else self.table[0]
        constants = PixelMapConstants(self._GAIN, self._SPEED, _SLOPE, not self.training)
        if reason := self._why_not_plain():
            return call_pixel_map(self._predict, frames, table, constants, backend=self.backend, reason=reason)
        # Each has a bias: _why_not_plain has seen it.
        weights = [parameter for conv in self._convolutions() for parameter in (conv.weight, conv.bias)]
        parameters = PixelMapParameters(*weights, table)  # type: ignore[call-arg, arg-type]
        return pixel_map(frames, parameters, constants, backend=self.backend)

    def _convolutions(self) -> list[nn.Conv2d]:
        return [self.features.project, *list(self.hidden)[::2], self.head]  # type: ignore[list-item]

    def _predict(self, frames: Tensor) -> Tensor:
        """Gains and emissions (N, 2C, H, W) of frames, by calling every submodule."""
        return self.head(self.hidden(self.features(frames)))

    def _why_not_plain(self) -> str | None:
        """Why the submodules have to be called; None where their parameters say everything."""
        expected: list[tuple[nn.Module, type[nn.Module]]] = [
            (self.features, FourierFeatures),
            (self.hidden, nn.Sequential),
            (self.head, nn.Conv2d),
        ]
        for module, kind in expected:
            if reason := why_not_plain(module, kind):
                return reason
        layers = list(self.hidden)
        if len(layers) != 6:
            return f"hidden has {len(layers)} layers and not 6"
        expected = [(self.features.project, nn.Conv2d)]
        expected += zip(layers, 3 * [nn.Conv2d, nn.LeakyReLU], strict=True)
        for module, kind in expected:
            if reason := why_not_plain(module, kind):
                return reason
        if any(activation.negative_slope != _SLOPE for activation in layers[1::2]):
            return "a LeakyReLU has another slope"
        return _why_not_a_chain(self._convolutions(), self.channels)


def _why_not_a_chain(convolutions: list[nn.Conv2d], channels: int) -> str | None:
    """Why the convolutions are not those of a PixelMap, whoever put them there; None where they are."""
    project, first, *_, head = convolutions
    sizes = [channels + 2, project.out_channels + channels + 2, *[first.out_channels] * 3]
    outputs = [project.out_channels, *[first.out_channels] * 3, 2 * channels]
    for conv, inputs, count in zip(convolutions, sizes, outputs, strict=True):
        shape = count, inputs, 1, 1
        settings = conv.stride, conv.padding, conv.groups
        if conv.weight.shape != shape or conv.bias is None or settings != ((1, 1), (0, 0), 1):
            return f"a convolution is not one of 1x1 with a bias from {inputs} to {count} channels"
        if conv.weight.dtype != head.weight.dtype or conv.bias.dtype != head.weight.dtype:
            return "the convolutions are of several dtypes"
    return None
