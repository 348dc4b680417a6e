# `make help` lists what there is. Whatever is needed is set up first.

EXPERIMENT ?=
METHODS ?=
SEEDS ?=
KILLS ?=
OPTIONS ?=

VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
DEV := $(VENV)/.dev
# PYTHON= on the command line is an environment of your own, which is taken as it is, and need not have sam_bench in it.
ENVIRONMENT = $(if $(filter $(VENV)/bin/python,$(PYTHON)),$(DEV))
OLDEST = $(shell sed -n 's/.*"torch>=\([0-9.]*\)".*/\1/p' pyproject.toml)
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

.DEFAULT_GOAL := help
.PHONY: help setup test test-oldest lint docs data reproduce-table table report tune study analyse smoke torture bench profile gpu-check clean

help: ## What there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DEV) ## A virtual environment in .venv with everything in it

# Rebuilt when pyproject.toml changes, by the first Python that can carry it. An environment of somebody else stays.
$(READY): pyproject.toml
	@if [ -e $(VENV) ] && [ ! -e $(VENV)/.sam_bench ]; then \
	  echo "$(VENV) was not made by this Makefile: move it away, or use it yourself with pip install -e '.[dev]'" >&2; \
	  exit 1; \
	fi
	@for python in python3 python3.13 python3.12 python3.11 python; do \
	  if $$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
	    echo "Setting up $(VENV) with $$python; the first time, PyTorch takes a few minutes"; \
	    $$python -m venv --clear $(VENV) && touch $(VENV)/.sam_bench; exit; \
	  fi; \
	done; \
	echo "No Python from 3.11 to 3.13 with venv was found; install one (Debian: python3 and python3-venv)" >&2; exit 1
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[report]'
	@touch $@

# What tests, lint and the benchmark need besides.
$(DEV): $(READY)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

test: $(DEV) ## Run the tests: offline, on the CPU; those that need a GPU skip without one
	$(PYTHON) -m pytest -n auto

test-oldest: ## Run the tests with the oldest PyTorch that pyproject.toml allows, in .venv-oldest
	@[ -e .venv-oldest ] || python3 -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' 'torch==$(OLDEST).*'
	.venv-oldest/bin/python -m pytest -n auto

lint: $(DEV) ## Check style, formatting and the types of what can be imported
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

docs: $(DEV) ## Build the documentation, and say which file to open
	@$(PYTHON) docs/generate.py
	@$(PYTHON) -m sphinx -W --keep-going -n -q -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

data: $(READY) ## Obtain and verify CIFAR-10, or another data set (OPTIONS=data=cifar100)
	@$(PYTHON) -m sam_bench data $(OPTIONS)

reproduce-table: $(READY) ## Train what is missing, then make the table (EXPERIMENT= METHODS= SEEDS=)
	@$(PYTHON) -m sam_bench reproduce $(if $(EXPERIMENT),--experiment $(EXPERIMENT)) $(if $(METHODS),--methods $(METHODS)) $(if $(SEEDS),--seeds $(SEEDS))

table: $(READY) ## Make the tables of all experiments from their records (or of one: EXPERIMENT=)
	@$(PYTHON) -m sam_bench table $(if $(EXPERIMENT),--experiment $(EXPERIMENT))

report: $(READY) ## Make all committed tables, comparisons and figures anew from their records (or of one: EXPERIMENT=)
	@$(PYTHON) -m sam_bench report $(if $(EXPERIMENT),--experiment $(EXPERIMENT)) $(OPTIONS)

tune: $(READY) ## Tune methods, each with as many trials (OPTIONS="--experiment noisy40 --methods sgd,sam --trials 12")
	@$(PYTHON) -m sam_bench tune $(OPTIONS)

study: $(READY) ## Train the rows of a comparison, seed by seed (OPTIONS="noisy40 --seeds 0,1")
	@$(PYTHON) -m sam_bench study $(OPTIONS)

analyse: $(READY) ## How sharp the loss is around finished runs' weights (OPTIONS="experiment=noisy40")
	@$(PYTHON) -m sam_bench analyse $(OPTIONS)

smoke: $(READY) ## Train every method for seconds on generated images
	@$(PYTHON) -m sam_bench --multirun experiment=smoke 'optimizer=glob(*)'

torture: $(READY) ## Kill runs at random moments, again and again: they must end as if left alone (KILLS=)
	@OMP_NUM_THREADS=1 $(PYTHON) scripts/torture.py $(if $(KILLS),--kills $(KILLS))

bench: $(ENVIRONMENT) ## Measure speed, beside its lower bound and beside a user's loop (OPTIONS="--models resnet20 --no-scaling")
	@$(PYTHON) scripts/benchmark/benchmark.py $(OPTIONS)

profile: $(ENVIRONMENT) ## The time of a training step by kernel (OPTIONS="--model wrn16_8 --optimizer sam")
	@$(PYTHON) scripts/profile_step.py $(OPTIONS)

gpu-check: $(ENVIRONMENT) ## On a machine with CUDA: its tests and the benchmark (PYTHON= OPTIONS="--minutes 8 --out DIR")
	@$(PYTHON) scripts/gpu_check.py $(OPTIONS)

clean: ## Remove caches and builds; data, runs, results and .venv stay
	rm -rf build dist docs/_build docs/studies .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
