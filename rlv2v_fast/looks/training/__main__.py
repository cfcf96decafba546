"""Train the look prior from a folder of pictures, and write its networks into one file.

    python -m rlv2v_fast.looks.training --pictures DIR --out FILE

The pictures must not be those that it is tested on. It prints the SHA-256 of the file, which looks/prior.py must name.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from rlv2v_fast.looks.network import NetworkConfig
from rlv2v_fast.looks.prior import save
from rlv2v_fast.looks.training.fit import decibels, make_network, train
from rlv2v_fast.looks.training.tasks import Tasks, crops, stacked

# Share of the pictures that only tell how well it goes, and tasks made of them.
_HELD_OUT, _JUDGED = 0.15, 1000
_KINDS = (NetworkConfig(), NetworkConfig(), NetworkConfig(width=192, layers=0, hidden=768))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of photographs, some 300")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--tasks", type=int, default=60_000, help="about 30 a second")
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=12, help="processor time to train each network")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    pool = crops(options.pictures, options.seed)
    held, kept = torch.randperm(len(pool)).split([count := round(_HELD_OUT * len(pool)), len(pool) - count])
    judged = stacked(iter(Tasks(pool[held], options.seed + 1)), min(_JUDGED, options.tasks))
    tasks = stacked(iter(Tasks(pool[kept], options.seed)), options.tasks)
    print(f"{options.tasks} tasks of {len(kept)} pictures")
    networks = []
    for index in range(options.networks):
        # Of different kinds, because their errors then differ more.
        config = _KINDS[index % len(_KINDS)]
        network = make_network(tasks, config, options.seed + index)
        train(network, tasks, options.minutes, held_out=judged)
        print(f"network {index}: {decibels(network, judged):.2f} dB on pictures held out")
        networks.append(network)
    print(f"{options.out}: SHA-256 {save(networks, options.out)}")


if __name__ == "__main__":
    main()
