# fedray: `make` lists the targets; `make run` and `make test` are all that a fresh machine needs.
.DEFAULT_GOAL := help
.PHONY: help setup data run test test-all test-wheel docs settings check bench bench-gpu bench-peers soak clean

VENV ?= .venv
PYTHON ?= python3
INSTALLED := $(VENV)/.installed

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | awk -F'\t' '{printf "make %-13s%s\n", $$1, $$2}'

setup: $(INSTALLED)  ## make .venv and install fedray with everything it needs

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "fedray needs Python 3.11 or later; name one with: make PYTHON=python3.11"; exit 1; }
	@echo "installing into $(VENV) (about 6 GB with the standard build of PyTorch; one to three minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

data: $(INSTALLED)  ## download CIFAR-10 into data/
	@$(VENV)/bin/python -m fedray.data.download

run: $(INSTALLED)  ## train the quick start: 10 clients, 10 Ray actors
	@$(VENV)/bin/python -m fedray experiments/quickstart.toml
	@echo
	@echo "Try next: . $(VENV)/bin/activate, then"
	@echo "  python -m fedray experiments/quickstart.toml --algorithm.lr 0.02 --seed 1"
	@echo "  python -m fedray.sweep experiments/lr.toml --dry-run"
	@echo "  python -c 'import pandas; print(pandas.read_parquet(\"results/quickstart/rounds\"))'"
	@echo "  make data     (the real CIFAR-10)"

# Lanes for tests with Ray, which mostly wait, and for the rest; tests/helpers/lanes.py says which is which.
PYTEST := $(VENV)/bin/python -m pytest -n 3 --durations-file=build/durations.txt

test: $(INSTALLED)  ## run the tests
	@$(PYTEST)

test-all: $(INSTALLED)  ## run the slow ones too: long kills, much fuzz
	@$(PYTEST) -m "slow or not slow"

docs: $(INSTALLED)  ## build a site of docs/ in build/site
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	@echo "open build/site/index.html"

settings: $(INSTALLED)  ## write docs/settings.md's tables of settings and options from their declarations
	@$(VENV)/bin/python docs/settings_page.py docs/settings.md

test-wheel: $(INSTALLED)  ## build sdist and wheel, install the wheel where no checkout is, and play there
	@$(VENV)/bin/python tests/wheel.py

check: $(INSTALLED)  ## lint, formatting, types, and which room imports which
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-cache --no-logo

bench: $(INSTALLED)  ## measure speed and memory: eleven minutes on a machine with nothing else to do
	@for program in rounds start actors population large balance precision together sweeping loading; do \
		echo; echo "== experiments/speed/$$program.py"; $(VENV)/bin/python experiments/speed/$$program.py || exit 1; done

bench-gpu: $(INSTALLED)  ## measure what a GPU gives: nine minutes; without a GPU it only says so
	@$(VENV)/bin/python experiments/speed/gpu.py

soak: $(INSTALLED)  ## 2,000 rounds with random kills: nothing may grow or get lost (minutes)
	@$(VENV)/bin/python experiments/speed/soak.py

PEERS := $(VENV)/peers

bench-peers: $(INSTALLED) $(PEERS)/flower $(PEERS)/pfl  ## measure Flower and pfl-research on the same rounds
	@$(VENV)/bin/python experiments/speed/rounds.py cnn tiny
	@$(VENV)/bin/python experiments/speed/start.py
	@export PYTHONPATH=experiments/speed/peers; for KIND in cnn tiny; do export KIND; \
		$(PEERS)/flower/bin/python experiments/speed/peers/flower.py 2>&1 | grep "^$$KIND" || exit 1; \
		$(PEERS)/pfl/bin/python experiments/speed/peers/pfl_research.py 2>&1 | grep "^$$KIND" || exit 1; done

$(PEERS)/flower:
	@$(PYTHON) -m venv $@.new && $@.new/bin/python -m pip install --quiet 'flwr[simulation]' torch && mv $@.new $@

$(PEERS)/pfl:
	@$(PYTHON) -m venv $@.new && $@.new/bin/python -m pip install --quiet 'pfl[pytorch]' torch && mv $@.new $@

clean:  ## remove .venv and caches; results/ and data/ stay
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
