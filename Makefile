# Everything runs in .venv, made here: `make demo` and `make test` are the only commands a new clone needs.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(CI),-c .ci/constraints.txt)

.PHONY: demo test test-all lint bench docs clean

.venv/core: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $@

.venv/test: .venv/core
	$(PIP) torch==2.13.0
	$(PIP) -e '.[test]'
	touch $@

.venv/lint: .venv/test  # the type checker reads what optional imports lead to
	$(PIP) -e '.[lint]'
	touch $@

demo: .venv/core  ## the main job on real handwritten digits
	$(BIN)/lastlayer demo --out demo

test: .venv/test  ## the whole suite
	$(BIN)/python -m pytest -q -n auto

test-all: .venv/test  ## with the slow sweeps
	$(BIN)/python -m pytest -q -n auto -m "slow or not slow"

lint: .venv/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/gallery.py --check

docs: .venv/test  ## writes the generated pages: cli.md, laws.md, losses.md with its figures
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/gallery.py

.venv/bench: .venv/test
	$(PIP) -e '.[bench]'
	touch $@

bench: .venv/bench  ## figures beside their peers, in the same run; results in bench/results
	for script in bench/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv demo
