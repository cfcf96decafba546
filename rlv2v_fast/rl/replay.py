"""Transitions, and the replay buffer that keeps them as uint8 frames in one preallocated ring on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Transitions:
    """N transitions (s, a, r, s', a_true, position, domain, done, outcome); s' is s shifted by one with a appended.

    state: (N, p, C, H, W) float in [-1, 1]. action, true_action: (N, C, H, W). reward: (N,). position: (N,) in [0, 1],
    index of the action's frame divided by the clip's length. domain: (N,) int64, 0 for x and 1 for y. done: (N,) bool.
    outcome: (N,), the discounted sum of the rewards from this one to the last of its clip.
    """

    state: Tensor
    action: Tensor
    true_action: Tensor
    reward: Tensor
    position: Tensor
    next_position: Tensor
    domain: Tensor
    done: Tensor
    outcome: Tensor

    @property
    def next_state(self) -> Tensor:
        """The states after the actions, (N, p, C, H, W)."""
        return torch.cat([self.state[:, 1:], self.action.unsqueeze(1)], dim=1)

    def __len__(self) -> int:
        return self.reward.shape[0]

    def __getitem__(self, index: Tensor) -> Transitions:
        return Transitions(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device) -> Transitions:
        """The same transitions on another device."""
        return Transitions(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    @staticmethod
    def concatenate(parts: list[Transitions]) -> Transitions:
        """All transitions of parts, in order."""
        return Transitions(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Transitions)})


def to_bytes(frames: Tensor) -> Tensor:
    """[-1, 1] floats to uint8, rounded."""
    return ((frames.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_bytes(frames: Tensor) -> Tensor:
    """uint8 to [-1, 1] floats."""
    return frames.float() / 127.5 - 1


class ReplayBuffer:
    """A ring of transitions that overwrites the oldest when it is full.

    Args:
        capacity: the most transitions that it may hold.
        state_frames: p, frames in a state.
        frame_shape: (C, H, W).
        gib: the most memory of the frames in GiB. The capacity is lowered to it, p+2 frames for each transition.
    """

    _SCALARS = ("reward", "position", "next_position", "domain", "done", "outcome")

    def __init__(self, capacity: int, state_frames: int, frame_shape: tuple[int, int, int], gib: float = 1.0) -> None:
        c, h, w = frame_shape
        each = (state_frames + 2) * c * h * w
        self.capacity = min(capacity, int(gib * 2**30) // each)
        if self.capacity < 1:
            raise ValueError(f"buffer_gib={gib} and capacity={capacity} must hold one transition of {each} bytes")
        self.frames = torch.empty((self.capacity, state_frames + 2, c, h, w), dtype=torch.uint8)
        self.reward = torch.empty(self.capacity)
        self.position = torch.empty(self.capacity)
        self.next_position = torch.empty(self.capacity)
        self.domain = torch.empty(self.capacity, dtype=torch.int64)
        self.done = torch.empty(self.capacity, dtype=torch.bool)
        self.outcome = torch.empty(self.capacity)
        self.filled = 0
        self.cursor = 0

    def __len__(self) -> int:
        return self.filled

    def add(self, new: Transitions) -> None:
        """Store transitions, over the oldest ones where the ring is full."""
        index = (self.cursor + torch.arange(len(new))) % self.capacity
        window = torch.cat([new.state, new.action.unsqueeze(1), new.true_action.unsqueeze(1)], dim=1)
        self.frames[index] = to_bytes(window).cpu()
        for name in self._SCALARS:
            getattr(self, name)[index] = getattr(new, name).detach().cpu()
        self.cursor = (self.cursor + len(new)) % self.capacity
        self.filled = min(self.filled + len(new), self.capacity)

    def sample(self, count: int, generator: torch.Generator) -> Transitions:
        """`count` transitions drawn uniformly with replacement, on the CPU; the buffer must not be empty."""
        if not self.filled:
            raise ValueError("sample needs a transition in the buffer; got an empty one")
        index = torch.randint(self.filled, (count,), generator=generator)
        frames = from_bytes(self.frames[index])
        scalars = {name: getattr(self, name)[index] for name in self._SCALARS}
        return Transitions(state=frames[:, :-2], action=frames[:, -2], true_action=frames[:, -1], **scalars)

    def state_dict(self) -> dict[str, Any]:
        """The filled part of the ring, and the place of the next transition."""
        names = ("frames", *self._SCALARS)
        return {
            "capacity": self.capacity,
            "cursor": self.cursor,
            **{name: getattr(self, name)[: self.filled].clone() for name in names},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned from a buffer of the same shape and capacity."""
        filled = state["frames"].shape[0]
        if state["capacity"] != self.capacity or state["frames"].shape[1:] != self.frames.shape[1:]:
            raise ValueError(
                f"the stored replay buffer has capacity {state['capacity']} and frames "
                f"{tuple(state['frames'].shape[1:])}; this one has {self.capacity} and {tuple(self.frames.shape[1:])}"
            )
        self.filled, self.cursor = filled, int(state["cursor"])
        for name in ("frames", *self._SCALARS):
            getattr(self, name)[:filled] = state[name]
