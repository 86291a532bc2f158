# Everything a user or CI does, by name. `make demo` and `make test` need only Python 3.11+ and make.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
READY   = $(VENV)/.ready
PEERS   = $(VENV)/peers

.PHONY: setup demo test e2e cluster slurm chromium lint type format bench peers test-peers bench-peers ci clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(READY)  ## a virtual environment with everything, at the pinned versions

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("saectl needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: setup  ## text -> activations -> SAEs -> metrics -> release, on the embedded model
	$(BIN)/saectl run sweeps/tiny.yaml

test: setup  ## the whole test suite, a part on each core
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

e2e: setup  ## only the tests that run the real command
	$(BIN)/python -m pytest tests/e2e

cluster: setup  ## only the tests of executors (Slurm's are skipped where it is not installed)
	$(BIN)/python -m pytest tests/cluster

slurm:  ## Debian's Slurm and munge, for those tests; its daemons are started by them alone
	PATH="$$PATH:/usr/sbin"; command -v slurmctld >/dev/null && command -v munged >/dev/null || { \
	  S=; [ "$$(id -u)" = 0 ] || S=sudo; $$S apt-get update -qq && \
	  $$S env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge; }

chromium:  ## Debian's Chromium, for the tests that look at reports
	command -v chromium >/dev/null || { S=; [ "$$(id -u)" = 0 ] || S=sudo; \
	  $$S apt-get update -qq && \
	  $$S env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    chromium fonts-dejavu-core; }

lint: setup  ## ruff: errors and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup  ## mypy, strict
	$(BIN)/mypy

format: setup  ## ruff: mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## ratios against raw tools, on this machine
	$(BIN)/python bench/store.py

peers: $(PEERS)/.ready  ## an environment with the projects whose files we write

test-peers: setup peers  ## only the tests that ask another project's own loader
	SAECTL_PEERS=$(PEERS)/bin/python SAECTL_NEEDS_PEERS=1 $(BIN)/python -m pytest -m peers

bench-peers: peers  ## a training step against other trainers, in their own environment
	$(PEERS)/bin/python bench/train_step.py

$(PEERS)/.ready: pyproject.toml constraints.txt bench/peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt --editable . -r bench/peers.txt
	$(PEERS)/bin/python -m pip install --quiet --no-deps dictionary-learning==0.1.0 nnsight==0.3.7 circuit-tracer==0.5.0
	touch $(PEERS)/.ready

ci: lint type test  ## what continuous integration runs

clean:  ## remove what make made
	rm -rf $(VENV) store .pytest_cache .mypy_cache .ruff_cache
