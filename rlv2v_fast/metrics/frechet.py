"""Distances between two sets of feature vectors, such as those of translations and of real frames.

The caller chooses the network that gives the features. Only one particular network and its preprocessing make a
"Frechet inception distance", so name the network beside the number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlv2v_fast.errors import InputError


def frechet_distance(a: Tensor, b: Tensor) -> Tensor:
    """The squared Frechet distance of the Gaussians with the sets' moments, 0 for equal moments.

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), with biased covariances. It grows where vectors are few: compare
    numbers of one set size only.

    Args:
        a, b: (N, F) and (M, F), N and M at least 2.

    Returns:
        float64 scalar, at least 0.

    Raises:
        InputError: a shape does not fit.

    Source: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", eq. 6.
    """
    _check(a, b)
    a, b = a.double(), b.double()
    spread_a, spread_b = (torch.cov(rows.T, correction=0).view(rows.shape[1], -1) for rows in (a, b))
    # tr((S_a S_b)^(1/2)) is the sum of the singular values of S_a^(1/2) S_b^(1/2), which needs no matrix root of a
    # product that is not symmetric.
    cross = torch.linalg.svdvals(_root(spread_a) @ _root(spread_b)).sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + spread_a.trace() + spread_b.trace() - 2 * cross
    return distance.clamp_min(0)


def kernel_distance(a: Tensor, b: Tensor) -> Tensor:
    """The squared maximum mean discrepancy with the kernel (x.y / F + 1)^3, unbiased.

    For two sets from one distribution it is near 0, and may be below.

    Args:
        a, b: (N, F) and (M, F), N and M at least 2.

    Returns:
        float64 scalar.

    Raises:
        InputError: a shape does not fit.

    Source: Binkowski et al. 2018, "Demystifying MMD GANs", section 4.
    """
    _check(a, b)
    a, b = a.double(), b.double()
    return _mean_off_diagonal(_kernel(a, a)) + _mean_off_diagonal(_kernel(b, b)) - 2 * _kernel(a, b).mean()


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean_off_diagonal(matrix: Tensor) -> Tensor:
    count = len(matrix)
    return (matrix.sum() - matrix.trace()) / (count * (count - 1))


def _root(matrix: Tensor) -> Tensor:
    """The symmetric root of a positive semidefinite matrix, whose eigenvalues rounding may have made negative."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def _check(a: Tensor, b: Tensor) -> None:
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise InputError(
            f"a and b must have shapes (N, F) and (M, F), N, M >= 2, got {tuple(a.shape)}, {tuple(b.shape)}"
        )
