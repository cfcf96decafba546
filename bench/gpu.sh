#!/usr/bin/env bash
# Builds, tests and measures on a machine with a CUDA GPU and no network, in some eight minutes.
#
#     bench/gpu.sh               results in $OUT, by default bench/results/<device>
#     bench/gpu.sh --rehearse    the same stages with tiny cases on a CPU
#
# A stage that fails does not stop the next. $OUT gets stages.txt (status and seconds of each), log.txt, rows.jsonl,
# table.md and the plots. It needs torch, triton, nvcc, pybind11, ninja, pytest, numpy, pillow, safetensors and tqdm;
# what else a test or bench imports only makes that one skip. PYTHON names the interpreter, BUDGET_S the seconds, and
# STAGES the stages to run ("build tests bn"), by default all.
set -uo pipefail
cd "$(dirname "$0")/.."

rehearse=
[ "${1:-}" = --rehearse ] && rehearse=1
python=${PYTHON:-$(command -v python3 || command -v python)}
deadline=$((SECONDS + ${BUDGET_S:-450}))
if [ -n "$rehearse" ]; then
  export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=
fi
device=$("$python" -c '
from pathlib import Path
import torch
from bench.cli import results_folder
print(results_folder(torch.device("cuda" if torch.cuda.is_available() else "cpu")))') || device=bench/results/unknown
[ -n "$rehearse" ] && device=build/rehearsal
OUT=${OUT:-$device}
mkdir -p "$OUT"
log=$OUT/log.txt rows=$OUT/rows.jsonl
: >"$log" && : >"$OUT/stages.txt" && rm -f "$rows"

# stage NAME SECONDS COMMAND...: at most so long, and never past the deadline.
stage() {
  local name=$1 limit=$2 begin=$SECONDS status
  shift 2
  case " ${STAGES:-$name} " in *" $name "*) ;; *) return ;; esac
  [ $((deadline - SECONDS)) -lt "$limit" ] && limit=$((deadline - SECONDS))
  if [ "$limit" -lt 5 ]; then
    echo "$name: left out, no time" | tee -a "$OUT/stages.txt"
    return
  fi
  printf '\n== %s: %s\n' "$name" "$*" >>"$log"
  # An interrupt, so that pytest still tells what had failed.
  timeout --signal=INT --kill-after=15 "$limit" "$@" >>"$log" 2>&1
  status=$?
  [ "$status" = 124 ] && status="124 (stopped after $limit s)"
  echo "$name: status $status, $((SECONDS - begin)) s" | tee -a "$OUT/stages.txt"
}

# Only this GPU's architecture: every further one costs compile time.
arch=$("$python" -c 'import torch; print("".join(map(str, torch.cuda.get_device_capability())))' 2>/dev/null)
# A build without CUDA operators would be a failure there.
[ -n "$arch" ] && export RLV2V_FAST_CUDA_ARCHS=$arch RLV2V_FAST_BUILD=cuda
# Hundreds of kernels to compile, each on one core.
workers=()
"$python" -c 'import xdist' 2>/dev/null && workers=(-n "$([ -n "$rehearse" ] && echo 2 || echo 8)")
tests=("$python" -m pytest -m gpu -v "${workers[@]}" -p no:cacheprovider --color=no -ra)

# The files that hold tests for a GPU and import nothing that is missing here; their folders' conftest.py import only
# torch and pytest.
gpu_tests=$("$python" - <<'PYTHON'
import ast, importlib.util, pathlib

def top_level(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]

for path in sorted(pathlib.Path("tests").rglob("test_*.py")):
    if "kernels" in path.parts or any(sign in path.read_text() for sign in ("mark.gpu", "cuda_ops", "bn_cases")):
        missing = {name for name in top_level(path) if importlib.util.find_spec(name) is None}
        if not missing:
            print(path)
PYTHON
)

info() {
  nvidia-smi || true
  nvcc --version || true
  "$python" -c 'from rlv2v_fast.ops.report import report; print("\n".join(report()))'
}
export -f info
export python

bench=("$python" -m bench)
shell=(bash -c)
stage build 170 "$python" setup.py build_ext --inplace
stage info 30 "${shell[@]}" info
if [ -z "$rehearse" ]; then
  stage wheel 40 "$python" setup.py --quiet bdist_wheel --dist-dir dist
  # shellcheck disable=SC2086
  stage tests 160 "${tests[@]}" $gpu_tests
  # What matters most comes first: whatever the deadline cuts off is left out, and stages.txt says so.
  stage ops 100 "${bench[@]}" run --op convlstm --out "$rows" --memory --rounds 15 --budget 75 \
    --backend naive reference cpp triton triton-low triton-fused conv
  stage between 50 "${bench[@]}" run --op rpb-between urb-between --out "$rows" --memory --rounds 15 --budget 35 \
    --layout contiguous channels_last --backend naive reference cpp
  stage bn 45 "${bench[@]}" run --op bn_stats bn_relu bn_add_relu bn_add_relu_low bn_add_relu_pool --case BIG \
    --layout contiguous channels_last --out "$rows" --rounds 15 --budget 30 --backend naive cpp
  # Compiling an unrolled sequence takes long: each phase of a case is in the file once it is done.
  stage compile 110 "${bench[@]}" run --op rpb-between urb-between convlstm --out "$rows" --dtype bfloat16 \
    --rounds 15 --memory --budget 60 --backend naive compile cpp triton --case A BIG
  # No compiled training iteration: on a CPU its networks took more than eight minutes to compile.
  stage system 60 "${bench[@]}" run --op system --out "$rows" --backend ours reference --rounds 3 --budget 40 --memory
  stage blocks 40 "${bench[@]}" run --op rpb urb --out "$rows" --dtype bfloat16 --memory --rounds 15 --budget 25 \
    --layout contiguous channels_last --backend naive cpp conv
  stage scaling 45 "${bench[@]}" scaling --op convlstm rpb-between --out "$rows" --dtype bfloat16 --memory --rounds 9 \
    --budget 30 --backend naive triton cpp
  stage layout 40 "${bench[@]}" run --op convlstm --out "$rows" --dtype bfloat16 --layout channels_last --rounds 15 \
    --budget 20 --backend naive triton triton-fused conv
  # Installing would compile all of it once more; the stage build shows how long that takes.
  stage install 40 "${bench[@]}" run --op system --out "$rows" --device cpu --rounds 3 --budget 20 \
    --backend ours python torch --case replay-add replay-sample decode-256 import wheel
else
  # shellcheck disable=SC2086
  stage tests 120 "${tests[@]}" $gpu_tests
  tiny=(--case tiny --tiny --rounds 2 --out "$rows")
  stage ops 90 "${bench[@]}" run --op convlstm "${tiny[@]}" --memory \
    --backend naive reference cpp triton triton-fused conv
  stage between 90 "${bench[@]}" run --op rpb-between urb-between "${tiny[@]}" --memory \
    --layout contiguous channels_last --backend naive reference cpp
  stage bn 60 "${bench[@]}" run --op bn_stats bn_relu bn_add_relu bn_add_relu_low bn_add_relu_pool "${tiny[@]}" \
    --layout contiguous channels_last --backend naive cpp
  stage compile 110 "${bench[@]}" run --op rpb-between "${tiny[@]}" --phase fwd --backend naive compile cpp
  stage system 60 "${bench[@]}" run --op system --case train-tiny stream-tiny --rounds 1 --out "$rows" \
    --backend ours reference
  stage blocks 90 "${bench[@]}" run --op rpb urb "${tiny[@]}" --backend naive cpp conv
  stage scaling 90 "${bench[@]}" scaling --op convlstm rpb-between "${tiny[@]}" --phase fwd --backend naive cpp
  stage layout 30 "${bench[@]}" run --op convlstm "${tiny[@]}" --layout channels_last --backend naive cpp
  stage install 120 "${bench[@]}" run --op system --case replay-add replay-sample decode-256 import wheel --rounds 1 \
    --out "$rows" --backend ours python torch
fi
deadline=$((deadline + 20))
stage report 30 "${shell[@]}" "'$python' -m bench report --results '$rows' --plots '$OUT' >'$OUT/table.md'"
echo
cat "$OUT/table.md"
echo
cat "$OUT/stages.txt"
echo "$OUT: $(wc -l <"$rows" 2>/dev/null || echo 0) rows"
