import dataclasses
import shutil
from pathlib import Path

import pytest

from rlv2v_fast.data.clips import Domain
from rlv2v_fast.data.synthetic import write_figure1
from rlv2v_fast.train.config import NetworkConfig, TrainConfig, resolve
from rlv2v_fast.train.report.write import reported
from rlv2v_fast.train.run import fit

# A name that would be markup, if it were not escaped.
AWKWARD = "<img src=x onerror=alert(1)>&'\".mp4"


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of a run with a report."""
    folder = tmp_path_factory.mktemp("report")
    write_figure1(folder, 3, 2, frames=6, size=16)
    first = sorted((folder / "source").iterdir())[0]
    first.rename(first.with_name(AWKWARD))
    config = resolve(
        TrainConfig(
            source=folder / "source", target=folder / "target", out=folder / "run", size=16, frames=4, steps=3,
            starts=2, start_steps=1, select_every=1, device="cpu", quiet=True, network=NetworkConfig(width=2),
        )
    )  # fmt: skip
    domains = {
        "x": Domain.open(folder / "source", frames=4, size=16),
        "y": Domain.open(folder / "target", frames=4, size=16),
    }
    with reported(config, domains, ["a machine <of> facts"]):
        fit(config, domains)
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of that folder, to change."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def config(tmp_path) -> TrainConfig:
    """Settings of a run whose videos are nowhere."""
    network = NetworkConfig(width=2)
    config = TrainConfig(source=tmp_path / "x", target=tmp_path / "y", out=tmp_path / "made", size=16, frames=4)
    return resolve(dataclasses.replace(config, steps=2, device="cpu", quiet=True, network=network))
