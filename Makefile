# make quickstart   set up, run the matrix `quickstart` on the built-in data, show its table
# make test         set up, run the first tier of the tests; ARGS="tests/core" runs a part of it
# make test-all     set up, run all tests (those with SLURM: slurm/README.md)
# make coverage    the same, with the coverage of lines and branches held against its floors
# make durations    run every test alone and write tests/durations.json
# make bench        set up, run the benchmarks, save them and their tables in results/benchmarks
# make bench-check  compare two saved runs of one machine: OLD=a.json NEW=b.json
# make lint         formatting, lint, types

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
READY := $(VENV)/.ready

.PHONY: quickstart test test-all coverage durations bench bench-check lint setup clean

quickstart: $(READY)
	$(BIN)/protoseg sweep quickstart --jobs $(JOBS)
	$(BIN)/protoseg tables quickstart

# The tiers: CONTRIBUTING.md.
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow" $(ARGS)

# Two processes on any machine: the tests of tests/slurm mostly wait.
test-all: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

coverage: $(READY)
	rm -rf .coverage
	mkdir .coverage
	$(BIN)/coverage run -m pytest -n 2 --dist loadgroup $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage json --quiet -o .coverage/coverage.json
	$(BIN)/python tests/coverage_floors.py

durations: $(READY)
	$(BIN)/python -m pytest -n 0 --junitxml=.durations.xml $(ARGS)
	$(BIN)/python tests/durations.py .durations.xml

bench: $(READY)
	$(BIN)/python benchmarks/run.py $(ARGS)

bench-check: $(READY)
	$(BIN)/python benchmarks/compare.py $(OLD) $(NEW)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(READY)

# Rebuilt when a lock changes. --upgrade leaves alone what already has the locked version.
$(READY): requirements.lock requirements-mm.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "protoseg needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11 ..."; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "This Python has no venv module; on Debian: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-mm.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
