# Everything a newcomer needs. `make demo` and `make test` install what is missing by themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# A place to look for wheels that pip was told about counts for the fast installer, too.
export UV_FIND_LINKS ?= $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null)

.PHONY: help setup lock protos check test test-unit demo up down load bench clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP)  ## the environment in .venv, from requirements.lock

# The lock is installed without resolving: it is complete. The second try asks PyTorch's own index for the CPU build.
# Compiled once here (40 s on two cores), torch, transformers and vLLM import in 6 s instead of 17 s in every process that may
# not write bytecode: containers often set PYTHONDONTWRITEBYTECODE or mount the environment read-only.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Luthier needs Python 3.11 or newer; try make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps -r requirements.lock || \
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps --torch-backend cpu -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

lock:  ## resolve pyproject.toml anew into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra inference-cpu --override deploy/lock-overrides.txt \
	  --python-version 3.11 --no-annotate --no-header --quiet --upgrade -o requirements.lock

protos: setup  ## the committed stubs from protos/
	$(BIN)/python scripts/protos.py generate

check: setup  ## style, types, import rules, contracts: under a minute
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/protos.py check

# Coverage is counted where the code runs in the test's own process. Tracing the real processes as well (torch, vLLM) shows 97 %
# instead of 88 % and makes their tests take twice as long.
test: setup  ## every test, with coverage of the services' own code
	$(BIN)/python -m pytest tests/unit tests/contract --cov --cov-report=term:skip-covered --cov-fail-under=85
	$(BIN)/python -m pytest tests/integration tests/e2e

test-unit: setup  ## the tests that take seconds
	$(BIN)/python -m pytest tests/unit

demo: setup  ## the whole loop on a real model and real data: 14 to 20 minutes on two cores
	$(BIN)/python -m examples.demo

up: setup  ## the four services on loopback
	$(BIN)/luthier up

down:  ## stop them
	$(BIN)/luthier down

load: setup  ## tenants' traffic against `make up`: latencies, tokens/s, failures
	$(BIN)/python -m loadtests.run

bench: setup  ## side by side with peers, one JSON line a ratio
	PYTHONPATH=tests $(BIN)/python -m benchmarks.run

clean:  ## remove what the build made
	rm -rf .build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage* *.egg-info
