"""The kernels of pixel_map compile for a GPU without one at hand, within budgets; as test_aot.py does, and why."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ARCHITECTURE = 90
FLOATS = ("gain", "speed", "slope", "step_y", "step_x")


@dataclass(frozen=True)
class Variant:
    """One way a kernel is called, and the registers a thread, shared memory and stack that it may use."""

    kernel: str
    products: str
    registers: int
    shared: int
    stack: int = 0
    without: tuple[str, ...] = ()


PIXELS_ALONE, SUMS_ALONE = ("sums_ptr",), ("grad_frames_ptr", "grad_table_ptr")
VARIANTS = [
    Variant("fwd", "tf32x3", 192, 16 << 10),
    Variant("fwd", "bf16", 144, 16 << 10),
    Variant("bwd", "bf16", 255, 48 << 10, without=SUMS_ALONE),
    # It spills some registers. No GPU has told yet whether that costs more than a smaller block.
    Variant("bwd", "bf16", 255, 120 << 10, stack=128, without=PIXELS_ALONE),
]


def compile_all() -> list[dict[str, int]]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from rlv2v_fast.kernels import pixel_map
    from tests.kernels.test_aot import resources

    rows = []
    for variant in VARIANTS:
        kernel = getattr(pixel_map, f"pixel_map_{variant.kernel}_kernel")
        sizes = {"C": 3, "F": 64, "K": 32, "FP": 64, "KP": 32, "LEVELS": 17, "BLOCK": pixel_map.BLOCK, "SMALL": 16}
        constants = {"CLAMP": False, "PRODUCTS": variant.products, "PROJECTED": "tf32", **sizes}
        constants = {n: v for n, v in constants.items() if n in kernel.arg_names} | dict.fromkeys(variant.without)
        kinds = {n: "*fp32" if n.endswith("_ptr") else "fp32" if n in FLOATS else "i32" for n in kernel.arg_names}
        aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if kinds[n] == "*fp32"}
        signature = kinds | dict.fromkeys(constants, "constexpr")
        attributes = {at: value for at, value in aligned.items() if kernel.arg_names[at[0]] not in constants}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
        options = {"num_warps": pixel_map.NUM_WARPS}
        rows.append(resources(triton.compile(source, target=GPUTarget("cuda", ARCHITECTURE, 32), options=options)))
    return rows


@pytest.fixture(scope="module")
def usage(tmp_path_factory) -> list[dict]:
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
    }
    done = subprocess.run([sys.executable, "-W", "ignore", __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("resource", ["registers", "shared", "stack"])
def test_within_budget(usage, resource):
    rows = zip(VARIANTS, usage, strict=True)
    assert not [(variant, row) for variant, row in rows if row[resource] > getattr(variant, resource)]


def test_products_run_on_tensor_cores(usage):
    assert all(row["tensor_cores"] for row in usage)


if __name__ == "__main__":
    print(json.dumps(compile_all()))
