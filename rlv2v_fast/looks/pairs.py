"""A look fitted to true pairs of frames, with an estimated one where the pairs say nothing."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from rlv2v_fast.looks.look import Look, identity_table, pixel_features, render

# Weights, relative to the squared error of a pixel: of second differences of what changes in the table, which carries
# the change on into colours that no pair shows, and of the change itself, which leads back to the estimate far away.
_SMOOTH, _NEAR = 0.03, 1e-4
# Pixels of all pairs that the table is fitted to, every how many of them place and neighbourhood are, and the steps of
# their search.
_PIXELS, _EVERY, _STEPS = 20_000, 4, 20


def fit_pairs(look: Look, source: Sequence[Tensor] | Tensor, target: Sequence[Tensor] | Tensor) -> Look:
    """The look that takes source frames to target frames, starting from another look.

    The table is the least-squares solution in float64. Place and neighbourhood are those with which it fits best.

    Args:
        look: what holds where the pairs say nothing.
        source, target: frames (3, H, W), floating point in [-1, 1]; each of the target shows the same as the source's
            frame of the same index, at the same size. (N, 3, H, W) will do.

    Raises:
        ValueError: there is no frame, a frame is not such a tensor, or the frames of a pair differ in shape.
    """
    for name, frames in (("source", source), ("target", target)):
        for frame in frames:
            if frame.dim() != 3 or frame.shape[0] != 3 or not frame.is_floating_point() or not frame.numel():
                raise ValueError(
                    f"{name} must hold floating point frames of shape (3, H, W), not empty; got {frame.dtype} "
                    f"{tuple(frame.shape)}"
                )
    shapes = [[tuple(frame.shape) for frame in frames] for frames in (source, target)]
    if not shapes[0] or shapes[0] != shapes[1]:
        raise ValueError(f"source and target must hold frames of the same shapes, at least one; got {shapes}")
    return fit_pixels(look, *_sampled(source, target))


def fit_pixels(look: Look, features: Tensor, truth: Tensor) -> Look:
    """The look that gives pixels their true colours, starting from another look, as fit_pairs.

    Args:
        look: what holds where the pixels say nothing.
        features: (P, FEATURES) of pixel_features. truth: (P, 3) in [0, 1]. Of many, some are chosen at random.
    """
    if len(truth) > _PIXELS:
        chosen = torch.randperm(len(truth), generator=torch.Generator().manual_seed(0))[:_PIXELS]
        features, truth = features[chosen], truth[chosen]
    place, neighbourhood = _refined(look, features[::_EVERY], truth[::_EVERY])
    return Look(_fit_table(look.table, place, neighbourhood, features, truth), place, neighbourhood)


def _sampled(source: Sequence[Tensor] | Tensor, target: Sequence[Tensor] | Tensor) -> tuple[Tensor, Tensor]:
    """Features (P, FEATURES) and true colours (P, 3) in [0, 1] of pixels at random places, the same every time."""
    generator = torch.Generator().manual_seed(0)
    each = max(1, _PIXELS // len(source))
    features, truth = [], []
    for x, y in zip(source, target, strict=True):
        both = torch.cat([pixel_features((x[None].float() + 1) / 2), (y[None].float() + 1) / 2], 1)
        rows = both[0].flatten(1).T
        chosen = rows[torch.randint(len(rows), (each,), generator=generator)]
        features.append(chosen[:, :-3])
        truth.append(chosen[:, -3:])
    return torch.cat(features), torch.cat(truth)


def _rendered(look: Look, features: Tensor) -> Tensor:
    return render(look.table[None], look.place[None], look.neighbourhood[None], features[None])[0]


def _fit_table(start: Tensor, place: Tensor, neighbourhood: Tensor, features: Tensor, truth: Tensor) -> Tensor:
    """The table that, with this place and neighbourhood, is nearest to the truth."""
    # What reaches the table, and the factor behind it, by rendering tables that are known.
    ones = Look(torch.ones_like(start), place, neighbourhood)
    factor = _rendered(ones, features).double()
    colours = _rendered(Look(identity_table(start.shape[-1]), place * 0, neighbourhood), features).double()
    corners, weights = _corners(colours, start.shape[-1])
    count = start.shape[-1] ** 3
    tables = []
    for channel in range(3):
        scaled = weights * factor[:, channel : channel + 1]
        normal = torch.zeros(count * count, dtype=torch.float64)
        pairs = (corners[:, :, None] * count + corners[:, None, :]).flatten()
        normal.index_add_(0, pairs, (scaled[:, :, None] * scaled[:, None, :]).flatten())
        normal = normal.view(count, count) / len(truth)
        old = start[channel].double().flatten()
        missing = truth[:, channel].double() - (scaled * old[corners]).sum(1)
        wanted = torch.zeros(count, dtype=torch.float64)
        wanted.index_add_(0, corners.flatten(), (scaled * missing[:, None]).flatten() / len(truth))
        regular = (_SMOOTH * _second_differences(start.shape[-1]) + _NEAR * torch.eye(count).double()) / count
        tables.append((old + torch.linalg.solve(normal + regular, wanted)).view(start.shape[1:]))
    return torch.stack(tables).to(start.dtype)


def _corners(colours: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The 8 entries of a flat table around each colour, (P, 8), and their trilinear weights."""
    place = colours.clamp(0, 1) * (levels - 1)
    low = place.floor().clamp(max=levels - 2)
    part = place - low
    index, weight = [], []
    for corner in range(8):
        bits = torch.tensor([corner >> axis & 1 for axis in range(3)])
        at = low.long() + bits
        index.append(at[:, 2] * levels**2 + at[:, 1] * levels + at[:, 0])
        weight.append(torch.where(bits.bool(), part, 1 - part).prod(1))
    return torch.stack(index, 1), torch.stack(weight, 1)


@functools.lru_cache(maxsize=4)
def _second_differences(levels: int) -> Tensor:
    """The quadratic form of second differences along the three axes of a table, float64 (n^3, n^3)."""
    line = torch.zeros(levels - 2, levels, dtype=torch.float64)
    for row in range(levels - 2):
        line[row, row : row + 3] = torch.tensor([1.0, -2.0, 1.0])
    own = torch.eye(levels, dtype=torch.float64)
    parts = [
        torch.kron(torch.kron(*(line if axis == each else own for each in (0, 1))), line if axis == 2 else own)
        for axis in range(3)
    ]
    return sum((part.T @ part for part in parts), torch.zeros(levels**3, levels**3, dtype=torch.float64))


def _refined(look: Look, features: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Place and neighbourhood that are best with the table that is best for them."""
    place, neighbourhood = (each.clone().requires_grad_() for each in (look.place, look.neighbourhood))
    optimizer = torch.optim.LBFGS([place, neighbourhood], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        # At the best table its own derivative is zero, so it is a constant here (variable projection).
        table = _fit_table(look.table, place.detach(), neighbourhood.detach(), features, truth)
        optimizer.zero_grad()
        found = render(table[None], place[None], neighbourhood[None], features[None])[0]
        error = (found - truth).square().mean()
        error.backward()
        return error

    with torch.enable_grad():
        optimizer.step(loss)
    return place.detach(), neighbourhood.detach()
