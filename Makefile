# `make demo` and `make test` set everything up: python3, a C++ compiler and make are all they need.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint gpu-test clean

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

gpu-test: .venv/installed
	$(BIN)/python -m pytest -m gpu

clean:
	rm -rf build .venv *.egg-info rlv2v_fast/*.so rlv2v_fast/_build_info.json
