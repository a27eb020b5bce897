PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all bench table reproduce docs check
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/splitveil demo

test: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m "not long and not gpu"

test-all: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m "not gpu"

bench: $(STAMP)
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.demo
	$(BIN)/python -m benchmarks.cem

# make table ROW=noise_arl@0.1 DATA=folder: one row of the table of defenses, then the table
table: $(STAMP)
	$(BIN)/python -m benchmarks.defenses_cifar10 --data "$(DATA)" --row $(ROW) --publish

# make reproduce ROW=noise_arl SCALE=reduced DATA=folder: one row of the paper's table; goes on where it was
SCALE ?= reduced
WORKERS ?= 1
reproduce: $(STAMP)
	$(BIN)/python -m benchmarks.paper --data "$(DATA)" --row $(ROW) --scale $(SCALE) --workers $(WORKERS) --minutes 10 --publish

docs: $(STAMP)
	$(BIN)/mkdocs build --strict

check: $(STAMP)
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_layers.py
