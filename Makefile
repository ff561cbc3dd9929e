# make quickstart   set up, run the matrix `quickstart` on the built-in data, show its table
#                   TORCH=cpu (any target): install the CPU build of torch; see TORCH below
# make test         set up, run the first tier of the tests; ARGS="tests/core" runs a part of it
# make test-all     set up, run all tests (those with SLURM: slurm/README.md)
# make coverage     both tiers one after the other, with the coverage of lines and branches held
#                   against its floors
# make mutation     change the source at random places: do the tests notice? Without coverage data:
#                   ARGS="--sample 100 --by-file"
# make durations    run every test alone and write tests/durations.json
# make bench        set up, run the benchmarks, save them and their tables in results/benchmarks
# make bench-check  compare two saved runs of one machine: OLD=a.json NEW=b.json
# make lint         formatting, lint, types
# make docs         the site of the docs, in .site/html

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
READY := $(VENV)/.ready

# The build of torch. default: what pip finds, on Linux the build with CUDA libraries.
# cpu: the CPU build from TORCH_INDEX, which is a package index or a folder of wheels.
# An environment keeps its build: later commands need no TORCH, and another TORCH rebuilds it.
INSTALLED_TORCH := $(or $(shell cat $(VENV)/.torch 2>/dev/null),$(if $(wildcard $(READY)),default))
TORCH ?= $(or $(INSTALLED_TORCH),default)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
ifeq ($(filter $(TORCH),default cpu),)
$(error TORCH=$(TORCH): unknown build of torch. Use TORCH=default or TORCH=cpu)
endif
OTHER_TORCH := $(filter-out $(TORCH),$(INSTALLED_TORCH))

.PHONY: quickstart test test-slow test-all coverage coverage-report mutation durations bench bench-check lint docs setup clean

quickstart: $(READY)
	$(BIN)/protoseg sweep quickstart --jobs $(JOBS)
	$(BIN)/protoseg tables quickstart

# The tiers: CONTRIBUTING.md. PROCESSES of pytest: two on any machine, 6 GB of memory; each further
# one takes 3 GB.
# COVERAGE=1 records coverage in .coverage, beside what earlier commands recorded there.
PROCESSES ?= 2
PYTEST := $(BIN)/$(if $(COVERAGE),coverage run,python) -m pytest --dist loadgroup

test: $(READY)
	$(PYTEST) -n $(PROCESSES) -m "not slow" $(ARGS)

test-slow: $(READY)
	$(PYTEST) -n $(PROCESSES) -m slow $(ARGS)

test-all: $(READY)
	$(PYTEST) -n $(PROCESSES) $(ARGS)

coverage: $(READY)
	rm -rf .coverage && mkdir .coverage
	$(MAKE) test COVERAGE=1
	$(MAKE) test-slow COVERAGE=1
	$(MAKE) coverage-report

# TIERS=first: only the first tier ran with COVERAGE=1.
coverage-report: TIERS ?= both
coverage-report: $(READY)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage json --quiet -o .coverage/coverage.json
	$(BIN)/python tests/coverage_floors.py $(TIERS)

mutation: $(READY)
	$(BIN)/python -m pip install --quiet -r requirements-mutation.lock
	$(BIN)/python tests/campaigns/mutation.py $(ARGS)

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

# The pages keep their folders, so all links between them work.
DOCS := README.md CONTRIBUTING.md CHANGELOG.md docs results slurm/*.md slurm/*.yaml \
	protoseg/loggers/interface.py ':!results/records'
docs: $(READY)
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-docs.lock
	rm -rf .site && mkdir -p .site/source
	git ls-files -z --cached --others --exclude-standard -- $(DOCS) | \
		tar --create --null --files-from=- | tar --extract --directory=.site/source
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open .site/html/README.html"

setup: $(READY)

PIP := $(BIN)/python -m pip install
ifeq ($(TORCH),cpu)
TORCH_SOURCE := $(if $(wildcard $(TORCH_INDEX)/.),--no-index --find-links,--index-url) $(TORCH_INDEX)
INSTALL_TORCH := $(PIP) --upgrade --no-deps $(TORCH_SOURCE) $$(grep "^torch==" requirements.lock) &&
SIZE := torch: the CPU build from $(TORCH_INDEX). In all about 2 GB
else
SIZE := torch: the build that pip finds. On Linux usually the one with CUDA libraries. In all about \
	6 GB; with TORCH=cpu about 2 GB
endif
# --upgrade keeps each package that has the locked version, and any build of torch's version.
INSTALL := $(INSTALL_TORCH) $(PIP) --upgrade -r requirements.lock && \
	$(PIP) --no-deps -r requirements-mm.lock && \
	$(PIP) --no-deps --no-build-isolation -e .
ifneq ($(OTHER_TORCH),)
.PHONY: $(READY)
endif
# Rebuilt when a lock or TORCH changes. A background loop prints a line every 10 s, until the shell
# that started it ends; pip's own output is in pip.log.
$(READY): requirements.lock requirements-mm.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "protoseg needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11 ..."; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "This Python has no venv module; on Debian: apt-get install python3-venv"; exit 2; }
	@echo "Setting up $(VENV) with $$($(PYTHON) -V) ($(PYTHON)): the packages of requirements*.lock."
	@echo "$(SIZE)."
	@$(if $(OTHER_TORCH),echo "$(VENV) has torch=$(OTHER_TORCH): it is built again with torch=$(TORCH).")
	@rm -f $@
	@start=$$(date +%s); log=$(VENV)/pip.log; \
	state() { printf '%5d s %6d MB  ' $$(($$(date +%s) - start)) $$(du -sm $(VENV) | cut -f 1); }; \
	step() { grep -oE '^ *(Collecting|Downloading|Processing|Building|Installing)[^:]*' $$log | \
		tail -n 1 | sed 's/^ *//'; }; \
	{ while sleep 10 >/dev/null 2>&1 && kill -0 $$$$; do echo "$$(state)$$(step)"; done; } \
		2>/dev/null & reporter=$$!; \
	trap 'kill $$reporter' EXIT; \
	trap 'echo "Set-up stopped; the same command continues it."; exit 130' INT TERM; \
	$(PYTHON) -m venv $(if $(OTHER_TORCH),--clear) $(VENV) && echo $(TORCH) >$(VENV)/.torch || exit 1; \
	( trap : INT; $(INSTALL) ) >$$log 2>&1 || { tail -n 15 $$log; \
		echo "Set-up failed. Above are the last lines of $$log."; exit 1; }; \
	torch=$$($(BIN)/python -c 'import torch; print(torch.__version__)') && \
	echo "$$(state)Ready, with torch $$torch."
	@touch $@

clean:
	rm -rf $(VENV) .site .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
