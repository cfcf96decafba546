"""LookNetwork: from the statistics of source and target clips to a look."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from rlv2v_fast.looks.closed_form import tables
from rlv2v_fast.looks.look import LEVELS, NEIGHBOURHOOD, PLACE, identity_table
from rlv2v_fast.looks.statistics import STATISTICS

# Coefficients and quantiles of the closed forms.
CLOSED = 6 + 12 + 66
# Standard deviations beyond which an input says no more, and coefficients of closed forms beyond which it says nothing.
_FARTHEST, _LARGEST = 5.0, 6.0
# Weights of the closed forms' tables before training: mean-std, Monge-Kantorovich, histogram.
_START = (0.35, 0.35, 0.0)
_KINDS = 3


@dataclass(frozen=True)
class NetworkConfig:
    """width: of a clip's token. layers: of attention between clips, 0 for none. hidden: of the decision. rank: of the
    table.
    """

    width: int = 128
    layers: int = 2
    hidden: int = 512
    rank: int = 64

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class LookNetwork(nn.Module):
    """Looks of B tasks, as tables (B, 3, n, n, n), place (B, 8) and neighbourhood (B, 8).

    With attention, clips of both sides look at one another, so that it can be seen whether they show the same. The
    table is the identity, plus shares of the closed forms, plus a combination of learned tables.
    """

    statistics_mean: Tensor
    statistics_scale: Tensor
    closed_mean: Tensor
    closed_scale: Tensor

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config or NetworkConfig()
        c = self.config
        self.embed = nn.Sequential(nn.Linear(STATISTICS, c.width), nn.GELU(), nn.Linear(c.width, c.width))
        self.side = nn.Parameter(torch.randn(2, c.width) * 0.02)
        layer = nn.TransformerEncoderLayer(c.width, 4, 2 * c.width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.attention = nn.TransformerEncoder(layer, c.layers, enable_nested_tensor=False)
        inputs = 4 * STATISTICS + 2 * c.width + 2 + CLOSED
        self.decide = nn.Sequential(
            *(nn.Linear(inputs, c.hidden), nn.GELU(), nn.Dropout(0.1)),
            *(nn.Linear(c.hidden, c.hidden), nn.GELU(), nn.Dropout(0.1)),
        )
        self.head = nn.Linear(c.hidden, _KINDS + c.rank + PLACE + NEIGHBOURHOOD)
        nn.init.normal_(self.head.weight, std=0.005)
        nn.init.zeros_(self.head.bias)
        self.directions = nn.Parameter(torch.zeros(c.rank, 3 * LEVELS**3))
        self.register_buffer("statistics_mean", torch.zeros(STATISTICS))
        self.register_buffer("statistics_scale", torch.ones(STATISTICS))
        self.register_buffer("closed_mean", torch.zeros(CLOSED))
        self.register_buffer("closed_scale", torch.ones(CLOSED))

    def forward(
        self, source: Tensor, target: Tensor, clips: Tensor, closed: Tensor, histogram: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Table, place and neighbourhood.

        Args:
            source, target: statistics (B, n, STATISTICS) and (B, m, STATISTICS).
            clips: (B, 2), how many of their first rows are clips.
            closed, histogram: (B, CLOSED) and (B, 3, LEVELS), of ClosedForms.
        """
        closed = closed.clamp(-_LARGEST, _LARGEST)
        sides = [self._normal(rows) for rows in (source, target)]
        held = [torch.arange(rows.shape[1]) < count[:, None] for rows, count in zip(sides, clips.T, strict=True)]
        tokens = torch.cat([self.embed(rows) + own for rows, own in zip(sides, self.side, strict=True)], 1)
        if self.config.layers:
            tokens = self.attention(tokens, src_key_padding_mask=~torch.cat(held, 1))
        else:
            tokens = nn.functional.gelu(tokens)
        told = tokens.split([rows.shape[1] for rows in sides], 1)
        parts = [_mean(rows, mask) for rows, mask in zip((*sides, *told), (*held, *held), strict=True)]
        deviations = [
            (_mean((rows - mean[:, None]).square(), mask) + 1e-6).sqrt()
            for rows, mean, mask in zip(sides, parts, held, strict=False)
        ]
        coefficients = ((closed - self.closed_mean) / self.closed_scale).clamp(-_FARTHEST, _FARTHEST)
        decided = self.decide(torch.cat([*parts, *deviations, 1 / clips, coefficients], 1))
        sizes = [_KINDS, self.config.rank, PLACE, NEIGHBOURHOOD]
        shares, along, place, neighbourhood = self.head(decided).split(sizes, 1)
        own = identity_table().to(closed)
        known = tables(closed[:, :6], closed[:, 6:18], histogram)
        shares = shares + shares.new_tensor(_START)
        table = own + torch.einsum("bk,bkcxyz->bcxyz", shares, known - own)
        table = table + (10 * along @ self.directions).unflatten(1, own.shape)
        return table, place, neighbourhood

    def _normal(self, rows: Tensor) -> Tensor:
        return ((rows - self.statistics_mean) / self.statistics_scale).clamp(-_FARTHEST, _FARTHEST)


def _mean(rows: Tensor, mask: Tensor) -> Tensor:
    """The mean over the rows (B, n, F) that the mask (B, n) holds."""
    weights = mask.to(rows.dtype)[..., None]
    return (rows * weights).sum(1) / weights.sum(1)
