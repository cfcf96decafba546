# Each target sets up what it needs: python3, a C++ compiler and make are enough.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo test trust lint format gpu-test bench looks docs clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/installed ## install the package, editable, and its tools for tests and benchmarks into .venv

.venv/installed: pyproject.toml setup.py build_backend.py constraints.txt $(shell find csrc -type f)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,bench]'
	touch $@

demo: .venv/installed ## learn Figure 1's task in about 4 minutes, into runs/demo
	env -u OMP_NUM_THREADS $(BIN)/rlv2v demo

# worksteal keeps the tests of a file together, which share what is slow to set up.
test: .venv/installed lint ## lint, then every test that this machine can run
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

# About 20 minutes on 2 cores of a quiet machine (an estimate). A row of docs/reliability.md is one fault.
trust: .venv/installed ## kill runs and damage files, and write what came of it into docs/reliability.md
	$(BIN)/python -m tests.trust --write

CLANG_FORMAT = find csrc tests/csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' | xargs $(BIN)/clang-format
lint: .venv/installed ## ruff, clang-format and mypy, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(CLANG_FORMAT) --dry-run --Werror
	$(BIN)/mypy

format: .venv/installed ## format the Python and the native code, and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(CLANG_FORMAT) -i

# What docs/benchmarks.md and README.md show of a CPU: about 18 minutes on 2 cores of a quiet machine. Commit first: rows
# of an uncommitted state are refused. bench/gpu.sh does the same on a GPU.
BENCH = env -u OMP_NUM_THREADS $(BIN)/python -m bench
PEERS = naive compile reference cpp conv
bench: .venv/installed ## measure on this CPU, in about 18 minutes on 2 cores
	$(BENCH) run --op convlstm --case A B C streaming --memory --rounds 7 --backend $(PEERS) cpp-exact cpp-low
	$(BENCH) run --op convlstm --case D --memory --rounds 3 --backend $(PEERS) cpp-exact cpp-low
	$(BENCH) run --op rpb-between urb-between rpb urb --memory --rounds 7 --backend $(PEERS)
	$(BENCH) run --op rpb-between urb-between rpb urb --layout channels_last --rounds 7 --backend $(PEERS)
	$(BENCH) run --op system --rounds 3 --backend ours reference python torch
	$(BENCH) scaling --op convlstm rpb-between --case A --phase fwd_bwd --memory --rounds 3 --backend naive cpp
	$(BENCH) regression --update
	$(BENCH) report --page --readme

docs: .venv/installed ## write the documentation as a site, into build/site; warnings are errors
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'mkdocs-material>=9.6'
	$(BIN)/mkdocs build --strict --quiet

# About two hours of one core. Where the weights differ, looks/prior.py must name the new hash.
PICTURES = build/pictures
looks: .venv/installed ## fetch the pictures and train the look prior, in about two hours of one core
	$(BIN)/python -m bench.quality.pictures $(PICTURES)
	$(BIN)/python -m rlv2v_fast.looks.training --pictures $(PICTURES)/training --out rlv2v_fast/looks/prior.safetensors

gpu-test: .venv/installed ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

clean: ## remove .venv and everything built
	rm -rf build dist .venv *.egg-info rlv2v_fast/*.so rlv2v_fast/_build_info.json
