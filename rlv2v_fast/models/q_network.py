"""The critic Q(s, a), which values a next frame given the frames before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlv2v_fast.models.discriminator import Trunk
from rlv2v_fast.nn.blocks import CausalConv3d


class QNetwork(nn.Module):
    """Values an action: discriminator trunk over state and action in time, a hidden layer, its mean, a linear head.

    A constant channel carries the action's position in its clip, on which the reward depends. The head is linear
    because rewards are never positive and a ReLU could not fit them. The hidden layer's ReLU precedes the mean because
    per-frame normalization fixes the mean of the features themselves.

    Args:
        width: channels w of the first level.
        channels: channels C of a frame.
        norm: "batch" or "instance" (per frame).
        backend: of the fused operators.

    Source: Figure 3 (Q_x, Q_y); docs/paper.md lists the deviations.
    """

    def __init__(self, width: int, channels: int = 3, *, norm: str = "batch", backend: str = "auto") -> None:
        super().__init__()
        self.trunk = Trunk(width, channels + 1, norm=norm, backend=backend)
        self.hidden = CausalConv3d(4 * width, 4 * width, 1, bias=True)
        self.head = nn.Linear(4 * width, 1)

    def forward(self, state: Tensor, action: Tensor, position: Tensor) -> Tensor:
        """Values (B,).

        Args:
            state: (B, p, C, H, W) in [-1, 1], the last p frames.
            action: (B, C, H, W), the candidate next frame.
            position: (B,), index of the action's frame in its clip divided by the clip's length, in [0, 1].
        """
        window = torch.cat([state, action.unsqueeze(1)], dim=1)
        plane = position.to(window.dtype)[:, None, None, None, None].expand_as(window[:, :, :1])
        features = self.trunk(torch.cat([window, plane], dim=2).transpose(1, 2))
        return self.head(torch.relu(self.hidden(features)).mean(dim=(2, 3, 4))).squeeze(1)


class QEnsemble(nn.Module):
    """The lowest value of several Q-networks with different initial weights, against overestimation.

    Args:
        count: number of networks.
        width, channels, norm, backend: as of QNetwork.

    Source: Fujimoto et al. 2018, "Addressing Function Approximation Error in Actor-Critic Methods".
    """

    def __init__(
        self, count: int, width: int, channels: int = 3, *, norm: str = "batch", backend: str = "auto"
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(QNetwork(width, channels, norm=norm, backend=backend) for _ in range(count))

    def forward(self, state: Tensor, action: Tensor, position: Tensor) -> Tensor:
        """The lowest of the members' values, (B,); arguments as of QNetwork."""
        return torch.stack([member(state, action, position) for member in self.members]).amin(0)


def q_members(critic: nn.Module) -> list[nn.Module]:
    """The Q-networks of a critic: the members of a QEnsemble, or the critic itself."""
    return list(critic.members) if isinstance(critic, QEnsemble) else [critic]
