# The commands of the project. `make demo` and `make test` need nothing but Python 3.11 and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= ministream-out

.PHONY: help demo test soak check format bench docs protocol clean

help:  ## Show these lines
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) tools/make_venv.py $(VENV) || { rm -rf $(VENV); exit 1; }

# what users need
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# what developers need on top
$(VENV)/.developed: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

demo: $(VENV)/.installed  ## Stream a synthetic scan through two gateways and reconstruct it (OUT=folder)
	$(BIN)/ministream run --out $(OUT)

test: $(VENV)/.developed  ## Run every test
	$(BIN)/python -m pytest

soak: $(VENV)/.developed  ## Let 200 connections come and go through two gateways for ten minutes, plain and TLS
	$(BIN)/python -m pytest -s -m soak

check: $(VENV)/.developed  ## Lint, types, layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.developed  ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.developed  ## Run the benchmarks against the peers that are installed
	$(BIN)/python benchmarks/relay.py
	$(BIN)/python benchmarks/control.py
	@if [ "$$(id -u)" = 0 ]; then $(BIN)/python benchmarks/wan.py; else echo 'benchmarks/wan.py needs root: skipped'; fi
	$(BIN)/python benchmarks/reconstruct.py
	$(BIN)/python benchmarks/algorithms.py --quick
	$(BIN)/python benchmarks/pipeline.py

protocol: $(VENV)/.developed  ## Generate the protocol's Python files anew
	$(BIN)/python tools/generate_protocol.py

docs: $(VENV)/.developed  ## Generate the reference pages and diagrams anew
	$(BIN)/python tools/generate_reference.py
	$(BIN)/python tools/generate_diagrams.py

clean:  ## Remove what make has made
	rm -rf $(VENV) $(OUT) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
