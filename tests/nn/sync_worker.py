"""One of several processes with synchronized batch normalization: runs every case on its share of the batch.

python sync_worker.py RANK WORLD_SIZE FOLDER DEVICE BACKENDS; the cases of those backends, comma-separated, are run, and
the results go to FOLDER/RANK.pt, by name of the case.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from rlv2v_fast import extension
from rlv2v_fast.nn.blocks import RPB, URB, R
from rlv2v_fast.nn.norm import SyncBatchNorm

KINDS = {"R": R, "RPB": RPB, "URB": URB}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
OPTIONS = {
    "plain": {},
    "cumulative": {"momentum": None, "eps": 1e-2},
    "untracked": {"track_running_stats": False},
    "not affine": {"affine": False},
}
FUSED = "cpp" if extension.why_not_cpu() is None else "reference"
# Rounding is judged over several draws of weights and clips: that of a single one may be small by luck.
DRAWS = 4
# Clips of each process.
SHARES = {"even": (2, 2), "uneven": (3, 1), "one empty": (3, 0), "all empty": (0, 0)}


def cases():
    """(kind, backend, layout, options, shares, dtype) by name."""
    chosen = {}

    def case(kind, backend="fused", layout="contiguous", options="plain", shares="uneven", dtype="float64"):
        chosen[f"{kind}, {backend}, {layout}, {options}, {shares}, {dtype}"] = (
            kind, backend, layout, options, shares, dtype,
        )  # fmt: skip

    for kind in KINDS:
        for backend in ("fused", "reference"):
            for layout in LAYOUTS:
                case(kind, backend, layout)
        for options in OPTIONS:
            case(kind, options=options, shares="even")
        for shares in SHARES:
            case(kind, shares=shares)
        case(kind, dtype="float32")
        case(kind, "reference", dtype="bfloat16")
    case("RPB", "compiled")
    return chosen


def draws(dtype):
    """Numbers of the draws that a case of this dtype runs on."""
    return range(1 if dtype == "float64" else DRAWS)


def build(kind, backend, options, dtype, draw=0):
    """The block with plain batch normalization, its weights and running statistics away from what they start at."""
    torch.manual_seed(3 + 100 * draw)
    block = KINDS[kind](3, 5, backend={"fused": FUSED, "compiled": FUSED}.get(backend, backend))
    for name, module in list(block.named_children()):
        if name.startswith("bn"):
            norm = torch.nn.BatchNorm3d(module.num_features, **OPTIONS[options])
            with torch.no_grad():
                for tensor in (*norm.parameters(), *norm.buffers()):
                    if tensor.is_floating_point():
                        tensor.add_(torch.rand_like(tensor))
            setattr(block, name, norm)
    return block.to(getattr(torch, dtype))


def batch(layout, shares, dtype, draw=0):
    """All processes' clips, large beside their spread in one channel."""
    torch.manual_seed(4 + 100 * draw)
    clips = torch.randn(sum(SHARES[shares]), 3, 2, 7, 6, dtype=torch.float64)
    clips[:, 1] += 20
    return clips.to(getattr(torch, dtype)).contiguous(memory_format=LAYOUTS[layout])


def results(block, x):
    """Output, gradients and buffers of two steps, those of a penalty on a gradient, and the output in eval mode."""
    compiled, block = block, getattr(block, "_orig_mod", block)
    parameters = dict(block.named_parameters())
    found = {}
    for step in ("first", "second"):
        x = x.detach().requires_grad_()
        y = compiled(x)
        grad_x, *grads = torch.autograd.grad(y, (x, *parameters.values()), torch.cos(y.detach()))
        found |= {f"{step} y": y, f"{step} grad_x": grad_x}
        found |= {f"{step} sum {name}": grad for name, grad in zip(parameters, grads, strict=True)}
    found |= {f"same {name}": tensor.clone() for name, tensor in block.named_buffers()}
    (slope,) = torch.autograd.grad(torch.tanh(block(x)).sum(), x, create_graph=True)
    penalty = torch.autograd.grad(
        slope.square().sum(), (x, *parameters.values()), allow_unused=True, materialize_grads=True
    )
    found["penalty grad_x"] = penalty[0]
    found |= {f"penalty sum {name}": grad for name, grad in zip(parameters, penalty[1:], strict=True)}
    if block.bn1.running_mean is not None:
        found["eval y"] = block.eval()(x)
    return {name: tensor.detach().cpu() for name, tensor in found.items()}


def main(rank, world_size, folder, device, backends):
    if device == "cuda":
        torch.cuda.set_device(rank)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    found = {}
    for name, (kind, backend, layout, options, shares, dtype) in cases().items():
        if backend not in backends:
            continue
        found[name] = []
        for draw in draws(dtype):
            block = SyncBatchNorm.convert(build(kind, backend, options, dtype, draw)).to(device)
            whole = batch(layout, shares, dtype, draw)
            share = whole if world_size == 1 else whole.split(SHARES[shares])[rank]
            share = share.to(device).contiguous(memory_format=LAYOUTS[layout])
            call = torch.compile(block, backend="aot_eager", fullgraph=True) if backend == "compiled" else block
            found[name].append(results(call, share))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5].split(","))
