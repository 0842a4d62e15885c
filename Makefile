# Everything a newcomer needs. `make demo` and `make test` run `make setup` first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CLIENTS := .build/clients

# uv also uses the wheel folder that pip is configured with.
export UV_FIND_LINKS ?= $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null)

.PHONY: help setup lock protos check test test-unit clients demo up down load bench clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP)  ## create .venv from requirements.lock

# The lock is complete, so it is installed without resolving. The second attempt gets the CPU build from PyTorch's own index.
# Bytecode is compiled once here (40 s on two cores). Without it torch, transformers and vLLM take 17 s instead of 6 s to import
# in every process that may not write bytecode: containers often set PYTHONDONTWRITEBYTECODE or mount the environment read-only.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Luthier needs Python 3.11 or newer; try make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps -r requirements.lock || \
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps --torch-backend cpu -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

lock:  ## resolve pyproject.toml into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra inference-cpu --override deploy/lock-overrides.txt \
	  --python-version 3.11 --no-annotate --no-header --quiet --upgrade -o requirements.lock

protos: setup  ## generate the committed stubs from protos/
	$(BIN)/python scripts/protos.py generate

check: setup  ## style, types, import rules, contracts; under a minute
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/protos.py check

# Coverage counts code that runs in the test process. Tracing the real processes (torch, vLLM) too shows 97 % instead of 88 %
# and doubles the duration of their tests.
test: setup  ## all tests, with coverage of the services
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit tests/contract --cov --cov-report=term:skip-covered --cov-fail-under=85
	$(BIN)/python -m pytest tests/integration tests/e2e

test-unit: setup  ## only the fast tests
	$(BIN)/python -m pytest tests/unit

# Node comes with an environment of its own, like the clients whose dependencies differ from ours.
clients: setup  ## real OpenAI clients (Python, Node, promptfoo, vLLM's benchmark) against a real server; npm's registry is needed
	@test -x $(CLIENTS)/bin/python || $(BIN)/python -m venv --without-pip $(CLIENTS)
	$(BIN)/uv pip sync --quiet --python $(CLIENTS)/bin/python tests/clients/python/requirements.txt
	PATH="$(CURDIR)/$(CLIENTS)/bin:$$PATH" npm ci --prefix tests/clients/node --ignore-scripts --no-audit --no-fund --silent
	$(BIN)/python -m pytest tests/clients

demo: setup  ## the whole loop on a real model and real data: 8 to 14 minutes on two cores
	$(BIN)/python -m examples.demo

up: setup  ## start the four services on loopback
	$(BIN)/luthier up

down:  ## stop the services
	$(BIN)/luthier down

load: setup  ## traffic of several tenants against `make up`: latencies, tokens/s, failures
	$(BIN)/python -m loadtests.run

bench: setup  ## comparisons with peers, one JSON line per ratio
	PYTHONPATH=tests $(BIN)/python -m benchmarks.run

clean:  ## remove build and test artifacts
	rm -rf .build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage* *.egg-info
