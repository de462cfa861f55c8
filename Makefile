# Each target does its own set-up; a fresh machine needs Python 3.11, make, and for the tests a JDK and Maven.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev

# four at a time, each with a broker of its own: the tests also wait
PARALLEL := -n 4 --dist loadscope --no-loadscope-reorder
# the tests start hundreds of processes: where no bytecode is kept each of them compiles this code again, 0.3 s
test test-unit test-full: export PYTHONDONTWRITEBYTECODE =

# each version with the hashes of its files; pip then refuses whatever else a registry or a proxy hands out
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation
LOCK := $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock' $(LOCK_FLAGS)

# the native core: rustup's cargo is often not in the PATH
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
CARGO := $(firstword $(shell command -v cargo) $(wildcard $(HOME)/.cargo/bin/cargo /usr/local/cargo/bin/cargo))
CRATE := worker/native
CRATE_FILES := $(CRATE)/Cargo.toml $(CRATE)/Cargo.lock $(CRATE)/pyproject.toml $(wildcard $(CRATE)/src/*.rs)
NATIVE := $(VENV)/.installed-native
WITH_CARGO := PATH="$(dir $(CARGO)):$$PATH"
FUZZ := $(CRATE)/fuzz
FUZZER := $(VENV)/cargo/bin/cargo-fuzz
FUZZ_SECONDS := 60
MATURIN := $(WITH_CARGO) $(BIN)/maturin build --quiet --release --locked --manifest-path $(CRATE)/Cargo.toml
WITHOUT_CARGO := @echo 'There is no cargo here: the core in Python is used, and the native one is not tested.'

.PHONY: run demo test test-unit test-full fuzz lint bench bench-query screens wheels lock .env clean wheel-if-built

run: $(RUN) wheel-if-built  ## the main job on an embedded broker and Valkey, live counts until Ctrl-C
	@$(BIN)/attendance dev --demo

demo: $(RUN) wheel-if-built  ## the same, ends after the demo's events and prints the totals
	@$(BIN)/attendance dev --demo --once

# never a compiler: a wheel that `make wheels` made, or else Python
wheel-if-built: $(RUN)
	$(if $(wildcard dist/attendance_native-$(VERSION)-*.whl),@$(INSTALL) --no-index --no-deps --find-links dist attendance-native==$(VERSION))

test: $(NATIVE)  ## all tests but the slow ones, on a real Kafka and Redis that they fetch themselves
	$(if $(CARGO),$(CARGO) test --quiet --locked --manifest-path $(CRATE)/Cargo.toml)
	$(BIN)/python -m pytest $(PARALLEL)

test-unit: $(NATIVE)  ## those that need no service, for daily work
	$(BIN)/python -m pytest -n 2 -q tests/unit

test-full: $(NATIVE)  ## the slow ones too, all examples of the properties, and fifty rounds of faults with each core
	TEST_FULL=1 $(BIN)/python -m pytest $(PARALLEL) -m ''
	$(if $(CARGO),$(MAKE) fuzz FUZZ_SECONDS=300)
	$(if $(CARGO),$(BIN)/python -m tests.faults --rounds 50 --cores native)
	$(BIN)/python -m tests.faults --rounds 50 --cores python
	$(if $(CARGO),$(BIN)/python -m tests.faults --rounds 10 --cores "native,python")

# without sanitizers, which need a nightly compiler: they look for what `unsafe` code does, and here is none
fuzz: $(FUZZER)  ## the native core against bytes of any kind; FUZZ_SECONDS for each target
	$(if $(CARGO),,@echo 'There is no cargo here: install it from https://rustup.rs' >&2; exit 1)
	mkdir -p $(FUZZ)/corpus/decode $(FUZZ)/corpus/fold
	cd $(CRATE) && for target in decode fold; do $(WITH_CARGO) $(CURDIR)/$(FUZZER) run --sanitizer none $$target \
		fuzz/corpus/$$target fuzz/seeds/$$target -- -dict=fuzz/words.dict -max_total_time=$(FUZZ_SECONDS) || exit 1; done

$(FUZZER):
	$(if $(CARGO),$(CARGO) install --quiet --locked --root $(VENV)/cargo cargo-fuzz@0.13.1)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(if $(CARGO),$(CARGO) fmt --check --manifest-path $(CRATE)/Cargo.toml)
	$(if $(CARGO),$(CARGO) fmt --check --manifest-path $(FUZZ)/Cargo.toml)
	$(if $(CARGO),$(CARGO) clippy --quiet --locked --all-targets --manifest-path $(CRATE)/Cargo.toml -- -D warnings)

bench: $(NATIVE)  ## what an event costs, beside its peers, on a real Kafka and Redis; BENCH="--runs 3" for medians, --help for more
	$(BIN)/python -m tests.bench $(BENCH)

bench-query: $(DEV)  ## what queries of a million attendances cost; BENCH="--size 100000 --cells none,session", --help for more
	$(BIN)/python -m tests.bench.query $(BENCH)

wheels: $(DEV)  ## a wheel of the native core for this machine's system, into dist/, which `make run` and the image use
	$(if $(CARGO),$(MATURIN) --out dist,@echo 'There is no cargo here: install it from https://rustup.rs' >&2; exit 1)

screens: $(DEV)  ## the pictures of the screen in deploy/screens, of simulated events, with Debian's Chromium
	$(BIN)/python -m tests.screen.pictures

lock: $(DEV)  ## the dependencies of pyproject.toml with hashes, to deploy/; LOCK_FLAGS=--upgrade for the newest versions
	$(LOCK) --extra worker --extra api --extra embedded --extra dev pyproject.toml --output-file deploy/requirements-dev.txt
	$(LOCK) --extra worker --extra api --extra embedded pyproject.toml --constraints deploy/requirements-dev.txt --output-file deploy/requirements-run.txt
	$(LOCK) --extra worker --extra api pyproject.toml --constraints deploy/requirements-dev.txt --output-file deploy/requirements.txt
	$(LOCK) deploy/requirements-build.in --constraints deploy/requirements-dev.txt --output-file deploy/requirements-build.txt

$(RUN) $(DEV): $(VENV)/.installed-%: pyproject.toml deploy/requirements-build.txt deploy/requirements-%.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo '$(PYTHON) is no Python 3.11, 3.12 or 3.13: name one, as in make PYTHON=python3.11 $(MAKECMDGOALS)' >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --require-hashes -r deploy/requirements-build.txt
	$(INSTALL) --require-hashes -r deploy/requirements-$*.txt
	$(INSTALL) --no-deps -e .
	@touch $@

$(NATIVE): $(DEV) $(CRATE_FILES)
	$(if $(CARGO),rm -rf $(VENV)/wheels && $(MATURIN) --out $(VENV)/wheels,$(WITHOUT_CARGO))
	$(if $(CARGO),$(INSTALL) --force-reinstall --no-index --no-deps $(VENV)/wheels/*.whl)
	$(if $(CARGO),@touch $@)

.env:  ## the password of Redis that docker-compose.yml asks for, once
	@grep -qs '^ATTENDANCE_REDIS_PASSWORD=.' $@ \
		|| (umask 077 && $(PYTHON) -c 'import secrets; print("\nATTENDANCE_REDIS_PASSWORD=" + secrets.token_hex(24))' >> $@)

clean:
	rm -rf $(VENV) dist $(CRATE)/target .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
