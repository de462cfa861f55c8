# Each target does its own set-up; a fresh machine needs Python 3.11, make, and for the tests a JDK and Maven.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run demo test test-full lint bench lock clean

run: $(STAMP)  ## the main job on an embedded broker and Valkey, live counts until Ctrl-C
	@$(BIN)/attendance dev --demo

demo: $(STAMP)  ## the same, ends after the demo's events and prints the totals
	@$(BIN)/attendance dev --demo --once

test: $(STAMP)  ## all tests but the slow ones, on a real Kafka and Redis that they fetch themselves
	$(BIN)/python -m pytest

test-full: $(STAMP)  ## the slow ones too
	$(BIN)/python -m pytest -m ''

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(STAMP)  ## what an event costs, on a real Kafka and Redis
	$(BIN)/python -m tests.bench

lock: $(STAMP)  ## writes down the versions that are installed
	$(BIN)/pip freeze --exclude-editable > deploy/constraints.txt

$(STAMP): pyproject.toml deploy/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e '.[embedded,dev]'
	@touch $@

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
