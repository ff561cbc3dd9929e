# make quickstart   set up, run the matrix `quickstart` on the built-in data, show its table
# make test         set up, run the tests
# make test-slurm   set up, run the tests that need a SLURM (slurm/README.md says what they need)
# make bench        set up, run the benchmarks, save them and their tables in results/benchmarks
# make bench-check  compare two saved runs of one machine: OLD=a.json NEW=b.json
# make lint         formatting, lint, types

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
READY := $(VENV)/.ready

.PHONY: quickstart test test-slurm bench bench-check lint setup clean

quickstart: $(READY)
	$(BIN)/protoseg sweep quickstart --jobs $(JOBS)
	$(BIN)/protoseg tables quickstart

# Two at once, whatever the cores: those of tests/slurm wait most of the time.
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

test-slurm: $(READY)
	$(BIN)/python -m pytest tests/slurm $(ARGS)

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
