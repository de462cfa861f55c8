# Each target does its own set-up; a fresh machine needs Python 3.11, make, and for the tests a JDK and Maven.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev

# two at a time, each with a broker of its own: the tests wait more than they work
PARALLEL := -n 2 --dist loadscope
# what `make lock` writes: every version and the hashes of its files, for Python 3.11 to 3.13
LOCK_run := deploy/requirements-embedded.txt
LOCK_dev := deploy/requirements-dev.txt
UV_LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	--no-emit-index-url pyproject.toml --extra build

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

lock: $(DEV)  ## writes the lock files: versions that are in them stay where they fit; UPGRADE=1 takes the newest
	$(UV_LOCK) $(if $(UPGRADE),--upgrade) --output-file deploy/requirements.txt
	$(UV_LOCK) $(if $(UPGRADE),--upgrade) --extra embedded --output-file $(LOCK_run)
	$(UV_LOCK) $(if $(UPGRADE),--upgrade) --extra embedded --extra dev --output-file $(LOCK_dev)

$(RUN): $(LOCK_run)
$(DEV): $(LOCK_dev)
$(RUN) $(DEV): $(VENV)/.installed-%: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK_$*)
	@# what builds the project came with the lock file
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
