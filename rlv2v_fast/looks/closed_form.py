"""Maps of colours in closed form, from the pixels of two sets of clips: what a network has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlv2v_fast.looks.look import LEVELS, Look, identity_table

# Ranks of the quantiles that describe a distribution.
RANKS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.995)
# Weights of identity, mean-std and Monge-Kantorovich in the mixture, which does less harm than each of them alone.
MIXTURE = (0.2, 0.4, 0.4)
# Added to variances, in squared units of [0, 1].
_EPS = 1e-5


@dataclass(frozen=True)
class ClosedForms:
    """Coefficients of the maps that take the colours of a source to those of a target, in [0, 1].

    Attributes:
        mean_std: (6,): a gain for each channel, then an offset (Reinhard et al. 2001, in RGB).
        monge_kantorovich: (12,): the rows of a matrix, then an offset: the linear map between Gaussians that moves
            colours least (Pitie and Kokaram 2007).
        histogram: (3, LEVELS): each channel's value at that many levels, which gives it the target's distribution.
        quantiles: (66,): the 11 RANKS of each channel, of the source, then of the target.
    """

    mean_std: Tensor
    monge_kantorovich: Tensor
    histogram: Tensor
    quantiles: Tensor

    def tables(self) -> Tensor:
        """The three maps as colour tables, (3, 3, n, n, n): mean-std, Monge-Kantorovich, histogram."""
        return tables(self.mean_std[None], self.monge_kantorovich[None], self.histogram[None])[0]

    def mixture(self) -> Look:
        """The mean of identity, mean-std and Monge-Kantorovich with the weights .2, .4 and .4."""
        own, (mean_std, monge_kantorovich, _) = identity_table(), self.tables()
        shares = zip(MIXTURE, (own, mean_std, monge_kantorovich), strict=True)
        table = torch.stack([share * table for share, table in shares]).sum(0)
        return Look.of_table(table)


def pixels(frames: Tensor, every: int = 4) -> Tensor:
    """Every so many pixels of frames (..., 3, H, W) in both directions, (P, 3): enough for fit."""
    return frames[..., ::every, ::every].movedim(-3, -1).reshape(-1, 3)


def fit(source: Tensor, target: Tensor) -> ClosedForms:
    """The closed forms between two sets of pixels, (P, 3) and (Q, 3) in [0, 1]."""
    s, t = source.double(), target.double()
    gain = t.std(0) / (s.std(0) + 1e-4)
    small = torch.eye(3, dtype=s.dtype) * _EPS
    matrix = _between(torch.cov(s.T) + small, torch.cov(t.T) + small)
    ordered_s, ordered_t = s.sort(0)[0], t.sort(0)[0]
    ranks = torch.tensor(RANKS)
    quantiles = [ordered[(ranks * (len(ordered) - 1)).long()].T.flatten() for ordered in (ordered_s, ordered_t)]
    levels = torch.linspace(0, 1, LEVELS, dtype=s.dtype)
    curves = []
    for channel in range(3):
        below = torch.searchsorted(ordered_s[:, channel].contiguous(), levels) / len(s)
        curves.append(ordered_t[(below * (len(t) - 1)).long().clamp(0, len(t) - 1), channel])
    return ClosedForms(
        torch.cat([gain, t.mean(0) - gain * s.mean(0)]).float(),
        torch.cat([matrix.flatten(), t.mean(0) - matrix @ s.mean(0)]).float(),
        torch.stack(curves).float(),
        torch.cat(quantiles).float(),
    )


def tables(mean_std: Tensor, monge_kantorovich: Tensor, histogram: Tensor) -> Tensor:
    """Closed forms of B tasks, (B, 6), (B, 12), (B, 3, LEVELS), as colour tables (B, 3, 3, n, n, n) in [-.2, 1.2]."""
    own = identity_table()
    each = mean_std[:, :3, None, None, None] * own + mean_std[:, 3:, None, None, None]
    matrix = monge_kantorovich[:, :9].unflatten(1, (3, 3))
    mixed = torch.einsum("bij,jxyz->bixyz", matrix, own) + monge_kantorovich[:, 9:, None, None, None]
    red, green, blue = histogram.unbind(1)
    shape = (len(histogram), LEVELS, LEVELS, LEVELS)
    curves = [red[:, None, None, :].expand(shape), green[:, None, :, None].expand(shape)]
    curves.append(blue[:, :, None, None].expand(shape))
    return torch.stack([each, mixed, torch.stack(curves, 1)], 1).clamp(-0.2, 1.2)


def _between(source: Tensor, target: Tensor) -> Tensor:
    """The symmetric matrix A with A source A = target, of covariances."""
    root = _root(source)
    inverse = torch.linalg.inv(root)
    return inverse @ _root(root @ target @ root) @ inverse


def _root(matrix: Tensor) -> Tensor:
    """The positive root of a symmetric positive matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=1e-10).sqrt()) @ vectors.T
