from pathlib import Path

import pytest

from rlv2v_fast.data.clips import Domain
from rlv2v_fast.data.synthetic import figure1_clips
from rlv2v_fast.train.config import NetworkConfig, RLConfig, TrainConfig, resolve

FRAMES, SIZE = 4, 16


@pytest.fixture(scope="session")
def domains() -> dict[str, Domain]:
    return {
        name: Domain.from_arrays(figure1_clips(kind, 3, 8, SIZE, seed=1), frames=FRAMES, size=SIZE)
        for name, kind in (("x", "source"), ("y", "target"))
    }


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return resolve(
        TrainConfig(
            source=Path("x"),
            target=Path("y"),
            out=tmp_path / "run",
            size=SIZE,
            frames=FRAMES,
            steps=4,
            checkpoint_every=2,
            preview_every=4,
            device="cpu",
            quiet=True,
            network=NetworkConfig(width=2),
            rl=RLConfig(weight=0.1, rollout_every=2, critic_warmup=1, batch_size=3, capacity=40),
        )
    )
