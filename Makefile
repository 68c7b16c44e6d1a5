# Everything runs in .venv, which any target makes by itself from a bare python3 with venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Build environments obey the constraints too.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help venv demo test unit lint types contract build bench bench-backlog bench-reconcile bench-worker chaos ipython constraints clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

venv: $(STAMP)  ## Make .venv with everything in it

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv (a few minutes the first time) ..."
	$(BIN)/pip install --quiet --progress-bar off --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: $(STAMP)  ## The main job: local stack, simulated scans, flow runs, a table of what came out
	$(BIN)/bluesky-prefect demo

# Two at once: most of them wait for servers. A file's tests share what it starts.
test: $(STAMP)  ## All tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

unit: $(STAMP)  ## The tests that need no service
	$(BIN)/python -m pytest tests/unit

lint: $(STAMP)  ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## Static types
	$(BIN)/basedpyright

contract: $(STAMP)  ## Which module may import which
	$(BIN)/lint-imports

build: $(STAMP)  ## Wheel and sdist in dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

bench: $(STAMP)  ## What the callback costs the RunEngine, as a table
	$(BIN)/python -m benchmarks.callback

chaos: $(STAMP)  ## Break everything while scans run, and count at the end: 2,000 runs, most of an hour
	$(BIN)/python -m tests.chaos

bench-backlog: $(STAMP)  ## What a backlog of 10,000 runs costs: memory, the newest run, scans
	$(BIN)/python -m benchmarks.backlog

bench-worker: $(STAMP)  ## From creation to Completed: stock and warm worker, SQLite and PostgreSQL (half an hour)
	$(BIN)/python -m benchmarks.worker

bench-reconcile: $(STAMP)  ## What reconciliation costs as the catalog grows to 100,000 runs
	$(BIN)/python -m benchmarks.reconcile

ipython: $(STAMP)  ## IPython with the beamline profile on the local stack (started if need be)
	$(BIN)/bluesky-prefect ipython

constraints: $(STAMP)  ## Write the installed versions to constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable --exclude pip --exclude setuptools | grep -v '@' | sort -f > .venv/frozen
	{ head -2 constraints.txt; cat .venv/frozen; } > .venv/constraints && mv .venv/constraints constraints.txt

clean:  ## Remove everything that was made
	rm -rf .venv dist build .pytest_cache .ruff_cache test-output
