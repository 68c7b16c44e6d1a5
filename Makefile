# Everything runs in .venv, which any target makes by itself from a bare python3 with venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# What CI froze; users have constraints.txt. Build environments obey it too.
FROZEN := .ci/constraints.txt
export PIP_CONSTRAINT := $(CURDIR)/$(FROZEN)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where it is set, each process compiles all that it imports anew: most of the work of its start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
# The extra environments, each in .venv-...: further interpreters; the oldest Prefect of the base install; the older one
# of the two that the worker is for; blueapi, whose Tiled is older.
INTERPRETERS := 3.12 3.13
OLDEST_PREFECT := 3.2.0
OLDER_PREFECT := 3.8.8
BLUEAPI := 1.21.1
UNIT := tests/unit
# Threads, forks, SQLite and typing are where interpreters differ.
INTERPRETER_TESTS := $(addprefix $(UNIT)/,callback courier reconciliation tiled_api watch core/test_forks.py \
  core/test_documents.py core/test_workflow.py core/test_settings.py outbox/test_outbox.py outbox/test_database_files.py) \
  $(addprefix --ignore $(UNIT)/,courier/test_submission_trouble.py tiled_api/test_access.py tiled_api/test_results.py)
CLIENT_TESTS := $(addprefix $(UNIT)/,callback courier/test_forwarder.py reconciliation watch \
  prefect_api/test_client.py prefect_api/test_flow_runs.py prefect_api/test_parameters.py prefect_api/test_work_queues.py)
# What of the worker meets Prefect; its fork server is the same with any.
WORKER_TESTS := $(addprefix $(UNIT)/worker/,test_client.py test_execution.py test_job_variables.py \
  test_prefect_internals.py) $(addprefix tests/system/worker/,test_worker.py test_wake.py)
BLUEAPI_TESTS := tests/system/test_blueapi.py
VERSION_TESTS := tests/versions
AT_ONCE ?= 2
TEST := -m pytest -q -n 2 -p no:cacheprovider

SITE := build/site

.PHONY: help venv demo test unit docs interpreters oldest-prefect older-prefect blueapi beside-ophyd-async environments lint types contract build wheel-extras upgrade bench bench-backlog bench-facility bench-growth bench-queues bench-recording bench-worker chaos ipython tutorials constraints clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

venv: $(STAMP)  ## Make .venv with everything in it

$(STAMP): pyproject.toml $(FROZEN) .ci/install
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv ..."
	@$(BIN)/pip install --quiet --progress-bar off --constraint $(FROZEN) uv || echo "There is no uv; pip takes a few minutes."
	UV_COMPILE_BYTECODE=1 .ci/install $(BIN)/python --editable ".[dev]"
	@touch $@

demo: $(STAMP)  ## The main job: local stack, simulated scans, flow runs, a table of what came out
	$(BIN)/bluesky-prefect demo

# Two at once keep two processors busy: their servers take part. A file's tests share what it starts.
# Some wait for the next targets: those of versions for the oldest Prefect, those of blueapi for its environment.
test: $(STAMP)  ## All tests
	$(BIN)/python -m pytest -n $(AT_ONCE) --dist loadfile --no-loadscope-reorder --ignore $(BLUEAPI_TESTS) --ignore $(VERSION_TESTS)

unit: $(STAMP)  ## The tests that need no service
	$(BIN)/python -m pytest tests/unit

environments: $(STAMP)  ## Make the extra environments that the next four targets use
	@$(foreach version,$(INTERPRETERS),$(MAKE) --no-print-directory .venv-$(version)/.installed && ) true
	@$(MAKE) --no-print-directory .venv-oldest-prefect/.installed .venv-older-prefect/.installed .venv-blueapi/.installed

# An interpreter that is not there leaves an environment without one. pyenv hides all but one until they are named.
$(INTERPRETERS:%=.venv-%/.installed): .venv-%/.installed: $(STAMP)
	rm -rf .venv-$*
	mkdir .venv-$*
	export PYENV_VERSION=$$(pyenv latest $* 2>/dev/null); if python$* -c "" 2>/dev/null; then \
	  python$* -m venv --without-pip .venv-$* && .ci/install .venv-$*/bin/python --editable ".[profile,test]"; fi
	@touch $@

# As a user with that Prefect has it: nothing is frozen.
.venv-oldest-prefect/.installed: $(STAMP)
	$(BIN)/python -m venv --clear --without-pip .venv-oldest-prefect
	CONSTRAINTS= .ci/install .venv-oldest-prefect/bin/python --editable ".[test]" prefect==$(OLDEST_PREFECT)
	@touch $@

.venv-older-prefect/.installed: $(STAMP)
	$(BIN)/python -m venv --clear --without-pip .venv-older-prefect
	grep -vE '^(prefect|certifi|whenever)==' $(FROZEN) > .venv-older-prefect/constraints.txt
	CONSTRAINTS=.venv-older-prefect/constraints.txt \
	  .ci/install .venv-older-prefect/bin/python --editable ".[profile,test]" prefect==$(OLDER_PREFECT)
	@touch $@

# Its own pins, and dodal's, go before ours.
.venv-blueapi/.installed: $(STAMP)
	$(BIN)/python -m venv --clear --without-pip .venv-blueapi
	grep -vE '^(tiled|pyzmq)==' $(FROZEN) > .venv-blueapi/constraints.txt
	UV_COMPILE_BYTECODE=1 CONSTRAINTS=.venv-blueapi/constraints.txt \
	  .ci/install .venv-blueapi/bin/python --editable . "blueapi[demo]==$(BLUEAPI)"
	@touch $@

# Tests that need what only this machine's own interpreter has (another user who may execute it) are skipped there.
interpreters: $(INTERPRETERS:%=.venv-%/.installed)  ## What may differ between interpreters, on each that is there
	@for version in $(INTERPRETERS); do \
	  if [ -x .venv-$$version/bin/python ]; then \
	    echo "Python $$version:"; CI= .venv-$$version/bin/python $(TEST) $(INTERPRETER_TESTS) || exit 1; \
	  else echo "Python $$version is not on this machine: skipped."; fi; done

# Warnings of old versions beside new ones are not ours.
oldest-prefect: .venv-oldest-prefect/.installed  ## The base install with the oldest Prefect, and with servers old and new
	.venv-oldest-prefect/bin/python $(TEST) -W default $(CLIENT_TESTS)
	SERVER_PYTHON=$(BIN)/python .venv-oldest-prefect/bin/python -m pytest -q -p no:cacheprovider -W default $(VERSION_TESTS)

older-prefect: .venv-older-prefect/.installed  ## The worker on the older Prefect that it is for
	.venv-older-prefect/bin/python $(TEST) --dist loadfile $(WORKER_TESTS)

blueapi: .venv-blueapi/.installed  ## Plans run by a real blueapi are recorded and start workflows
	$(BIN)/python -m pytest -q -p no:cacheprovider $(BLUEAPI_TESTS)

beside-ophyd-async: $(STAMP)  ## What users install leaves ophyd-async at its newest version
	.ci/beside ophyd-async

lint: $(STAMP)  ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## Static types
	$(BIN)/basedpyright

contract: $(STAMP)  ## Which module may import which
	$(BIN)/lint-imports

docs: $(STAMP)  ## The site, in build/site; a warning is an error
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs $(SITE)
	@echo "Open $(SITE)/index.html in a browser."

build: $(STAMP)  ## Wheel and sdist in dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

wheel-extras: $(STAMP)  ## The wheel by each extra in an empty environment: its example, its size, as a table
	$(BIN)/python -m tests.wheel

upgrade: $(STAMP)  ## Upgrade from the version of a commit, and roll back to it: make upgrade FROM=COMMIT
	$(BIN)/python -m tests.upgrade $(FROM)

bench: $(STAMP)  ## What the callback costs the RunEngine, as a table
	$(BIN)/python -m benchmarks.callback

chaos: $(STAMP)  ## Break everything while scans run, and count at the end: 2,000 runs, most of an hour
	$(BIN)/python -m tests.chaos

bench-backlog: $(STAMP)  ## What a backlog of 10,000 runs costs: memory, the newest run, scans
	$(BIN)/python -m benchmarks.backlog

bench-facility: $(STAMP)  ## Many beamlines, two Prefect servers, two workers; one of each is killed (a quarter of an hour)
	$(BIN)/python -m benchmarks.facility

bench-growth: $(STAMP)  ## How outbox, catalog and Prefect's database cost more as they grow to a million (half an hour)
	$(BIN)/python -m benchmarks.growth

bench-queues: $(STAMP)  ## How soon the run just taken is processed while others wait for the worker
	$(BIN)/python -m benchmarks.queues

bench-worker: $(STAMP)  ## From creation to Completed: stock and warm worker, SQLite and PostgreSQL (half an hour)
	$(BIN)/python -m benchmarks.worker

bench-recording: $(STAMP)  ## What recording costs a scan, and how soon Tiled and Prefect have its run (half an hour)
	$(BIN)/python -m benchmarks.recording

ipython: $(STAMP)  ## IPython with the beamline profile on the local stack (started if need be)
	$(BIN)/bluesky-prefect ipython

tutorials: $(STAMP)  ## Record the tutorials again, pictures too; needs Chromium
	$(BIN)/python -m docs.recorder

constraints: $(STAMP)  ## Write the installed versions to .ci/constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable --exclude pip --exclude setuptools | grep -v '@' | sort -f > .venv/frozen
	{ head -2 $(FROZEN); cat .venv/frozen; } > .venv/constraints && mv .venv/constraints $(FROZEN)

clean:  ## Remove everything that was made
	rm -rf .venv .venv-* dist build .pytest_cache .ruff_cache test-output
