# The two commands of the README, and what developers use. Everything happens in .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
TESTS := .venv/.installed-for-tests
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: study test test-slow lint bench clean

study: $(INSTALLED)
	$(BIN)/lowland study low-rank

test: $(TESTS)
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(TESTS)
	$(BIN)/python -m pytest -m slow

lint: $(TESTS)
	$(INSTALL) '.[all,test,lint]'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(INSTALL) '.[all,bench]'
	$(BIN)/python benchmarks/step_overhead.py
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/peak_memory.py
	$(BIN)/python benchmarks/compiled.py
	$(BIN)/python benchmarks/data_parallel.py
	$(BIN)/python benchmarks/measure.py
	$(BIN)/python benchmarks/stacked.py
	$(BIN)/python benchmarks/two_layer.py
	$(BIN)/python benchmarks/compress.py

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "lowland needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(INSTALL) '.[all]'
	@touch $@

$(TESTS): $(INSTALLED)
	$(INSTALL) '.[all,test]'
	@touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
