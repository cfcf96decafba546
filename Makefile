# `make demo` and `make test` set everything up: python3, a C++ compiler and make are all they need.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint gpu-test bench clean

.venv/installed: pyproject.toml setup.py build_backend.py constraints.txt $(wildcard csrc/*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,bench]'
	touch $@

# Every core for the demo. Waiting threads spin briefly, then sleep: endless spinning starves a machine that is doing
# something else, and sleeping at once halves the speed (0.62 s an iteration on 2 cores against 0.32, 0.30 when spinning).
demo: .venv/installed
	env -u OMP_NUM_THREADS GOMP_SPINCOUNT=30000 $(BIN)/rlv2v demo

test: .venv/installed lint
	$(BIN)/python -m pytest --numprocesses auto

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What docs/benchmarks.md and README.md show of a CPU: about 18 minutes on 2 cores of a quiet machine. Commit first: rows
# of an uncommitted state are refused. bench/gpu.sh does the same on a GPU.
BENCH = env -u OMP_NUM_THREADS $(BIN)/python -m bench
PEERS = naive compile reference cpp conv
bench: .venv/installed
	$(BENCH) run --op convlstm --case A B C streaming --memory --rounds 7 --backend $(PEERS) cpp-exact cpp-low
	$(BENCH) run --op convlstm --case D --memory --rounds 3 --backend $(PEERS) cpp-exact cpp-low
	$(BENCH) run --op rpb-between urb-between rpb urb --memory --rounds 7 --backend $(PEERS)
	$(BENCH) run --op rpb-between urb-between rpb urb --layout channels_last --rounds 7 --backend $(PEERS)
	$(BENCH) run --op system --rounds 3 --backend ours reference python torch
	$(BENCH) scaling --op convlstm rpb-between --case A --phase fwd_bwd --memory --rounds 3 --backend naive cpp
	$(BENCH) regression --update
	$(BENCH) report --page --readme

gpu-test: .venv/installed
	$(BIN)/python -m pytest -m gpu

clean:
	rm -rf build .venv *.egg-info rlv2v_fast/*.so rlv2v_fast/_build_info.json
