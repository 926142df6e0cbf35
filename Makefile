PYTHON ?= python3
PYTEST_ARGS ?=#   for example PYTEST_ARGS="-n 2 -k heads"

BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup study test coverage bench lint format lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## make .venv with the locked dependencies and this package, editable

study: setup  ## run the default study on the embedded digits and print its verdicts
	$(BIN)/headtohead experiment=digits

test: lint  ## lint, then run all tests
	$(BIN)/pytest $(PYTEST_ARGS)

coverage: setup  ## run all tests and list the lines that none of them runs
	$(BIN)/pytest --cov=headtohead --cov-report=term-missing $(PYTEST_ARGS)

bench: setup  ## install the peers, measure everything, write benchmarks/README.md
	$(BIN)/pip install -q --disable-pip-version-check --no-build-isolation -e ".[bench]"
	$(BIN)/python benchmarks/bench.py

lint: setup  ## check style, format and types, change nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright

format: setup  ## fix style and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock:  ## resolve the newest dependencies into requirements.lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install -q uv
	build/lock/bin/uv pip compile -q pyproject.toml --extra dev --extra ray --extra submitit \
		--universal --fork-strategy fewest --upgrade --generate-hashes --no-annotate \
		--custom-compile-command "make lock" -o requirements.lock

clean:  ## remove caches and build files; .venv, data and outputs stay
	rm -rf build dist src/*.egg-info *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage*
	find . -path ./.venv -prune -o -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit( \
		"headtohead needs Python 3.11 or newer, $(PYTHON) is %d.%d: try make PYTHON=python3.11" % v[:2])'
	@echo "Installing the locked dependencies into .venv: some minutes, about 6 GB"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
