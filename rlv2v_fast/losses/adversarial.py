"""Adversarial losses on logits: binary cross-entropy (the authors'), hinge and least squares."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("bce", "hinge", "least_squares")


def real_loss(logits: Tensor, kind: str = "bce") -> Tensor:
    """Per-element loss of a discriminator on real inputs (y = 1).

    bce: softplus(-z). hinge: max(0, 1 - z). least_squares: (z - 1)^2. Shape of logits.
    """
    if kind == "bce":
        return F.softplus(-logits)
    if kind == "hinge":
        return F.relu(1.0 - logits)
    if kind == "least_squares":
        return (logits - 1.0).square()
    raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")


def fake_loss(logits: Tensor, kind: str = "bce") -> Tensor:
    """Per-element loss of a discriminator on fake inputs (y = 0).

    bce: softplus(z). hinge: max(0, 1 + z). least_squares: z^2. Shape of logits.
    """
    if kind == "least_squares":
        return logits.square()
    return real_loss(-logits, kind)


def fooling_loss(logits: Tensor, kind: str = "bce") -> Tensor:
    """Per-element loss of a generator on a discriminator's logits of its output.

    bce: softplus(-z), the non-saturating form. hinge: -z. least_squares: (z - 1)^2. Shape of logits.
    """
    return -logits if kind == "hinge" else real_loss(logits, kind)


def r1_penalty(logits: Tensor, inputs: Tensor) -> Tensor:
    """The R1 penalty 1/2 E |d sum(logits) / d inputs|^2, a differentiable scalar; inputs (B, ...) require grad.

    Source: Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?", eq. 9.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return 0.5 * gradient.square().flatten(1).sum(1).mean()
