# Everything a developer types. `make` alone lists it.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PIP    := $(BIN)/python -m pip --disable-pip-version-check
AT_ONCE ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(AT_ONCE) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test quick check dev clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY)  ## set up, then score a model on the embedded suite: the leaderboard, and an HTML report
	$(BIN)/mmeb-harness run

test: $(READY)  ## set up, then run every test but those marked gpu, network or slow
	$(PYTEST)

quick: $(READY)  ## the tests that answer in under a minute
	$(PYTEST) -q -m "not thorough"

check: $(READY)  ## format, lint and types, the types on an installed copy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf build
	$(PIP) install --quiet --no-deps --no-build-isolation --upgrade --target build/check .
	cd build && MYPYPATH=check ../$(BIN)/mypy --config-file ../pyproject.toml -p mmeb_harness

dev: $(READY)  ## reinstall so that editors follow the sources; again after adding a file
	$(PIP) install --quiet --no-deps --no-build-isolation -e . --config-settings editable_mode=strict

clean:  ## remove the environment and what builds leave
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@
