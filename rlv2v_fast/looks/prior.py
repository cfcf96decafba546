"""The look prior: how a target domain looks, estimated from clips of it and of the source that show other things."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlv2v_fast.looks import matches
from rlv2v_fast.looks.closed_form import ClosedForms, fit, pixels
from rlv2v_fast.looks.look import Look
from rlv2v_fast.looks.network import LookNetwork, NetworkConfig
from rlv2v_fast.looks.pairs import fit_pixels
from rlv2v_fast.looks.statistics import clip_statistics, frames_of

WEIGHTS = Path(__file__).parent / "prior.safetensors"
# Of the shipped weights. A file that was damaged or replaced is not used in silence.
SHA256 = "bade4b8b851913fa9dbb2613c8d9ab1361d9e71346281fa61fc4f76ad70194a5"
# Clips a side that the networks see at once, as in their training, and draws from more clips that are averaged.
CLIPS, _DRAWS = 10, 4
# Share of the identity in an estimate, and what one clip of the target adds to it, over their number: a clip that
# misleads does less harm.
_DOUBT, _DOUBT_OF_ONE = 0.1, 0.1


@dataclass(frozen=True)
class Estimate:
    """An estimated look.

    Attributes:
        look: of the target, for clips of the source.
        closed: the closed forms between the same clips.
        spread: how far the networks disagree on the table, root mean square in [0, 1]. Looks on which they disagree
            more are farther from the truth (docs/notebook/looks.md).
        matched: frames of the target that show what a frame of the source shows. The look is fitted to them.
    """

    look: Look
    closed: ClosedForms
    spread: float
    matched: int = 0


@torch.no_grad()
def estimate(
    source: Tensor, target: Tensor, networks: Sequence[LookNetwork] | None = None, *, match: bool = True
) -> Estimate:
    """The look of target clips.

    The networks estimate it. Where both sides turn out to show the same, it is fitted to what they show.

    Args:
        source: (N, T, 3, H, W) floating point in [-1, 1], N and T at least 1.
        target: (M, T', 3, H', W') of the same kind.
        networks: those whose looks are averaged; the shipped ones by default.
        match: whether to look for frames that show the same.

    Raises:
        ValueError: source or target is not such a tensor.
        FileNotFoundError: the package was installed without the weights.
    """
    for name, clips in (("source", source), ("target", target)):
        if clips.dim() != 5 or clips.shape[2] != 3 or not clips.is_floating_point() or not clips.numel():
            raise ValueError(
                f"{name} must be floating point of shape (N, T, 3, H, W), not empty; got {clips.dtype} "
                f"{tuple(clips.shape)}"
            )
    networks = load() if networks is None else networks
    frames = [frames_of(clips) for clips in (source, target)]
    closed = fit(*(pixels(each) for each in frames))
    coefficients = torch.cat([closed.mean_std, closed.monge_kantorovich, closed.quantiles])
    rows = [clip_statistics(each) for each in frames]
    looks = []
    for draw in range(_DRAWS if max(map(len, rows)) > CLIPS else 1):
        seen = [each[_chosen(len(each), draw)] for each in rows]
        clips = torch.tensor([[len(each) for each in seen]], dtype=torch.float)
        for network in networks:
            looks.append(network(seen[0][None], seen[1][None], clips, coefficients[None], closed.histogram[None]))
    tables, places, neighbourhoods = (torch.cat(each) for each in zip(*looks, strict=True))
    look = Look(tables.mean(0), places.mean(0), neighbourhoods.mean(0))
    spread = (tables - look.table).square().mean().sqrt().item()
    look = look.towards_identity(_DOUBT + _DOUBT_OF_ONE / len(target))
    # The two frames of a clip that has one are the same.
    shown = [each[:, : clips.shape[1]].flatten(0, 1) for each, clips in zip(frames, (source, target), strict=True)]
    found = matches.find(*shown) if match else None
    if found is None:
        return Estimate(look, closed, spread)
    return Estimate(fit_pixels(look, found.features, found.colours), closed, spread, found.frames)


def _chosen(count: int, draw: int) -> Tensor:
    """Which clips of count a draw sees: all, or CLIPS of them at random."""
    if count <= CLIPS:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(draw))[:CLIPS]


def save(networks: Sequence[LookNetwork], path: Path) -> str:
    """Write networks in half precision into one file, and return its SHA-256."""
    tensors = {
        f"{index}.{name}": value.half().contiguous()
        for index, network in enumerate(networks)
        for name, value in network.state_dict().items()
    }
    configs = json.dumps([network.config.as_dict() for network in networks])
    save_file(tensors, path, metadata={"networks": configs})
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.lru_cache(maxsize=2)
def load(path: Path = WEIGHTS) -> tuple[LookNetwork, ...]:
    """The networks of a file that save wrote, for inference.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is the shipped file, damaged.
    """
    if path == WEIGHTS and (found := hashlib.sha256(path.read_bytes()).hexdigest()) != SHA256:
        raise ValueError(f"{path} must have the SHA-256 {SHA256}; got {found}. Install the package again")
    with safe_open(path, framework="pt") as file:
        configs = json.loads(file.metadata()["networks"])
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    networks = []
    for index, config in enumerate(configs):
        network = LookNetwork(NetworkConfig(**config))
        prefix = f"{index}."
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        network.load_state_dict(own)
        networks.append(network.eval().requires_grad_(False))
    return tuple(networks)
