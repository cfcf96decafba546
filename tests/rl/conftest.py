from collections.abc import Callable

import pytest
import torch

from rlv2v_fast.rl.replay import Transitions


@pytest.fixture(scope="session")
def transitions() -> Callable[..., Transitions]:
    """Makes n transitions whose every field is a function of reward = first, first + 1, .."""

    def make(count: int, first: int = 0, state_frames: int = 3, shape: tuple[int, int, int] = (1, 2, 2)) -> Transitions:
        reward = torch.arange(first, first + count, dtype=torch.float32)
        # Exact in a byte: 2 k / 255 - 1.
        frames = (reward[:, None] * 7 + torch.arange(state_frames + 2.0)) % 256 / 127.5 - 1
        frames = frames[:, :, None, None, None].expand(-1, -1, *shape)
        return Transitions(
            state=frames[:, :-2],
            action=frames[:, -2],
            true_action=frames[:, -1],
            reward=reward,
            position=reward / 100,
            next_position=(reward + 1) / 100,
            domain=reward.long() % 2,
            done=reward.long() % 3 == 0,
            outcome=reward / 2,
        )

    return make
