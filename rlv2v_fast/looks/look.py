"""Look: a smooth map from frames to frames, made of a colour table, a change by place, and blur and glow."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast.errors import InputError

# Colours along each axis of an estimated table.
LEVELS = 9
# Numbers that describe the change by place, and those that describe blur and glow.
PLACE, NEIGHBOURHOOD = 8, 8
# Widths of the blurs and glows, in pixels of a frame whose short side has SIDE of them: a look does not depend on the
# resolution that it is seen at.
SIDE = 64
_BLURS, _GLOWS = (1.0, 3.0), (2.0, 4.0)
# Short side, in pixels, above which blurs are computed on a reduced frame.
_BLURRED_AT = 2 * SIDE
# Pixels that a look is computed for at once. Their features need ten times the memory of the frame. 1920x1080 at once
# took 0.7 s of one thread, in bands of 2^15 to 2^18 pixels 0.3.
_BAND = 2**16
# What pixel_features holds for each pixel: its colour, two blurs, two glows, and its place.
FEATURES = 3 * (1 + len(_BLURS) + len(_GLOWS)) + 2
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Look:
    """A map of frames. First blur and glow, then the colour table, then a factor that depends on the place.

    Attributes:
        table: (3, n, n, n), n >= 2; table[:, b, g, r] is the colour in [0, 1] that (r, g, b) / (n - 1) becomes. Between
            these colours the map is trilinear.
        place: (8,). The factor is exp(place[0] r2 + place[1] r2 ** 2 + place[2:5] u + place[5:8] v), where u and v are
            the horizontal and vertical place in [-1, 1], r2 = u ** 2 + v ** 2, and the vectors have a number a channel.
        neighbourhood: (8,): shares of two blurs, and a factor a channel of two glows of what is bright.
    """

    table: Tensor
    place: Tensor
    neighbourhood: Tensor

    def __post_init__(self) -> None:
        levels = self.table.shape[-1] if self.table.dim() else 0
        if self.table.shape != (3, levels, levels, levels) or levels < 2:
            raise ValueError(f"table must have shape (3, n, n, n) with n >= 2; got {tuple(self.table.shape)}")
        for name, size in (("place", PLACE), ("neighbourhood", NEIGHBOURHOOD)):
            if getattr(self, name).shape != (size,):
                raise ValueError(f"{name} must have shape ({size},); got {tuple(getattr(self, name).shape)}")

    @classmethod
    def identity(cls, levels: int = LEVELS) -> Look:
        """The look that changes nothing."""
        return cls.of_table(identity_table(levels))

    @classmethod
    def of_table(cls, table: Tensor) -> Look:
        """The look that is this colour table alone."""
        return cls(table, torch.zeros(PLACE), torch.zeros(NEIGHBOURHOOD))

    @property
    def is_colour_only(self) -> bool:
        """Whether the colour table says everything."""
        return not (self.place.any() or self.neighbourhood.any())

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.table.device

    def translate(self, video: Tensor, direction: str = "x2y") -> Tensor:
        """As apply, in the interface of a model. A look goes one way, "x2y"."""
        if direction != "x2y":
            raise InputError(f"direction must be x2y, for a look goes one way; got {direction!r}")
        return self.apply(video)

    def translate_stream(self, pieces: Iterable[Tensor], direction: str = "x2y") -> Iterator[Tensor]:
        """The pieces of one video under this look, each as translate takes and gives it."""
        return (self.translate(piece, direction) for piece in pieces)

    def apply(self, video: Tensor) -> Tensor:
        """Frames (..., 3, H, W) in [-1, 1], floating point, as this look shows them: same shape and dtype, in [-1, 1].

        Raises:
            ValueError: video has another shape or dtype, or is empty.
        """
        if video.dim() < 3 or video.shape[-3] != 3 or not video.is_floating_point() or not video.numel():
            raise ValueError(
                f"video must be floating point of shape (..., 3, H, W), not empty; got {video.dtype} "
                f"{tuple(video.shape)}"
            )
        look = self.to(video.device)
        frames = video.reshape(-1, *video.shape[-3:])
        output = torch.empty_like(frames, memory_format=torch.contiguous_format)
        for frame, result in zip(frames.split(1), output.split(1), strict=True):
            look._apply(frame, result)
        return output.reshape(video.shape)

    def _apply(self, frames: Tensor, output: Tensor) -> None:
        """Write the look of frames (1, 3, H, W) in [-1, 1] into output, in bands of rows; the bands change nothing."""
        height, width = frames.shape[-2:]
        around = None if self.is_colour_only else _around(frames)
        step = max(1, _BAND // width)
        for first in range(0, height, step):
            rows = slice(first, min(height, first + step))
            band = _unsigned(frames[..., rows, :])
            if around is None:
                pixels = looked_up(self.table[None], band.flatten(2).transpose(1, 2).clamp(0, 1))
            else:
                features = torch.cat([band, _at_rows(around, height, rows), places(frames, rows)], dim=1)
                features = features.flatten(2).transpose(1, 2)
                pixels = render(self.table[None], self.place[None], self.neighbourhood[None], features)
            output[..., rows, :] = pixels.transpose(1, 2).reshape(band.shape).clamp(0, 1) * 2 - 1

    def towards_identity(self, share: float) -> Look:
        """This look with a share in [0, 1] of the identity: its table, place and neighbourhood are mixed."""
        own = Look.identity(self.table.shape[-1]).to(self.device)
        return Look(
            torch.lerp(self.table, own.table, share), self.place * (1 - share), self.neighbourhood * (1 - share)
        )

    def to(self, device: torch.device | str) -> Look:
        """This look with its tensors on a device."""
        return Look(self.table.to(device), self.place.to(device), self.neighbourhood.to(device))


def identity_table(levels: int = LEVELS) -> Tensor:
    """The colour table that changes nothing, (3, n, n, n)."""
    steps = torch.linspace(0, 1, levels)
    return torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij")).flip(0).contiguous()


def looked_up(tables: Tensor, colours: Tensor) -> Tensor:
    """Colours (B, P, 3) in [0, 1] through tables (B, 3, n, n, n), with trilinear interpolation: (B, P, 3)."""
    grid = (colours * 2 - 1)[:, None, None]
    found = F.grid_sample(tables, grid, padding_mode="border", align_corners=True)
    return found.flatten(2).transpose(1, 2)


def render(tables: Tensor, place: Tensor, neighbourhood: Tensor, features: Tensor) -> Tensor:
    """Colours (B, P, 3) of pixels described by pixel_features, (B, P, FEATURES), under B looks; not clamped above.

    tables (B, 3, n, n, n), place (B, 8), neighbourhood (B, 8).
    """
    colour, near, far, small, large, uv = features.split([3, 3, 3, 3, 3, 2], dim=2)
    shares, glows = neighbourhood[:, None, :2], neighbourhood[:, None, 2:].split(3, dim=2)
    colour = colour + shares[..., :1] * (near - colour) + shares[..., 1:] * (far - colour)
    colour = (colour + glows[0] * small + glows[1] * large).clamp(0, 1)
    r2 = uv.square().sum(2, keepdim=True)
    exponent = place[:, None, :1] * r2 + place[:, None, 1:2] * r2.square()
    exponent = exponent + place[:, None, 2:5] * uv[..., :1] + place[:, None, 5:] * uv[..., 1:]
    return looked_up(tables, colour) * exponent.clamp(-2.5, 1).exp()


def pixel_features(frames: Tensor) -> Tensor:
    """What a look may depend on, for each pixel of frames (N, 3, H, W) in [0, 1]: (N, FEATURES, H, W)."""
    height, width = frames.shape[-2:]
    rows = slice(0, height)
    around = _widened(_blurred(_reduced(_with_bright(frames), _square(height, width))), width)
    return torch.cat([frames, _at_rows(around, height, rows), places(frames, rows)], dim=1)


def _around(frames: Tensor) -> Tensor:
    """The blurs and glows of frames (N, 3, H, W) in [-1, 1], (N, 12, h, W), on frames reduced in bands of rows."""
    height, width = frames.shape[-2:]
    square = _square(height, width)
    step = square * max(1, _BAND // (square * width))
    bands = [_reduced(_with_bright(_unsigned(band)), square) for band in frames.split(step, dim=2)]
    return _widened(_blurred(torch.cat(bands, dim=2)), width)


def _unsigned(frames: Tensor) -> Tensor:
    """Frames in [-1, 1] as float32 in [0, 1]."""
    return (frames.float() + 1) / 2


def _with_bright(frames: Tensor) -> Tensor:
    """Frames (N, 3, H, W) in [0, 1], and of them what is bright: (N, 6, H, W)."""
    return torch.cat([frames, (luma(frames) - 0.5).clamp(min=0) * 2 * frames], dim=1)


def _blurred(small: Tensor) -> Tensor:
    """Two blurs of reduced frames and two glows of what is bright, (N, 12, h, w), of both as (N, 6, h, w)."""
    scale = min(small.shape[-2:]) / SIDE
    blurred = [blur(small[:, :3], width * scale) for width in _BLURS]
    blurred += [blur(small[:, 3:], width * scale) for width in _GLOWS]
    return torch.cat(blurred, dim=1)


def _widened(small: Tensor, width: int) -> Tensor:
    """Reduced frames (N, C, h, w) at their full width, linear between pixels: (N, C, h, width)."""
    return F.interpolate(small, size=(small.shape[-2], width), mode="bilinear", align_corners=False)


def _at_rows(wide: Tensor, height: int, rows: slice) -> Tensor:
    """Some rows of what _widened gives, as they are at the full height, linear between pixels."""
    if wide.shape[-2] == height:
        return wide[..., rows, :]
    # As F.interpolate does, which cannot begin at a row.
    place = ((torch.arange(rows.start, rows.stop, device=wide.device) + 0.5) * (wide.shape[-2] / height) - 0.5).clamp(0)
    upper = place.long()
    lower, share = (upper + 1).clamp(max=wide.shape[-2] - 1), (place - upper)[:, None]
    return wide[..., upper, :] * (1 - share) + wide[..., lower, :] * share


def places(frames: Tensor, rows: slice = slice(None)) -> Tensor:
    """The horizontal and vertical place of the pixels in some rows of frames (N, C, H, W), in [-1, 1]: (N, 2, h, W)."""
    height, width = frames.shape[-2:]
    v, u = (torch.linspace(-1, 1, size, device=frames.device) for size in (height, width))
    v, u = torch.meshgrid(v[rows], u, indexing="ij")
    return torch.stack([u, v]).expand(len(frames), -1, -1, -1)


def luma(frames: Tensor) -> Tensor:
    """The luma of frames (N, 3, H, W), by the weights of ITU-R BT.601: (N, 1, H, W)."""
    weights = torch.tensor(LUMA, dtype=frames.dtype, device=frames.device)
    return (frames * weights[:, None, None]).sum(1, keepdim=True)


def blur(frames: Tensor, width: float) -> Tensor:
    """frames (N, C, H, W) convolved with a Gaussian of that standard deviation in pixels; mirrored at the borders."""
    rows, columns = (_blurring(size, round(width, 6)).to(frames) for size in frames.shape[-2:])
    return rows @ frames @ columns.T


@functools.lru_cache(maxsize=64)
def _blurring(size: int, width: float) -> Tensor:
    """The matrix (size, size) that blurs a line. A product with it is faster than PyTorch's convolution of planes."""
    reach = min(math.ceil(3 * width), size - 1) if size > 1 else 0
    weights = torch.exp(-torch.arange(-reach, reach + 1.0).square() / (2 * width * width))
    weights /= weights.sum()
    source = torch.arange(size)[:, None] + torch.arange(-reach, reach + 1)
    source = source.abs()
    source = torch.where(source > size - 1, 2 * (size - 1) - source, source)
    matrix = torch.zeros(size, size)
    return matrix.scatter_add_(1, source, weights.expand(size, -1))


def _square(height: int, width: int) -> int:
    """Side of the squares of pixels that are averaged so that the short side has at most about _BLURRED_AT of them."""
    return max(1, min(height, width) // _BLURRED_AT)


def _reduced(frames: Tensor, square: int) -> Tensor:
    """Frames averaged over squares of pixels; those at the borders are smaller."""
    return F.avg_pool2d(frames, square, ceil_mode=True, count_include_pad=False) if square > 1 else frames
