# `make demo` and `make test` work as the very first command: they need Python 3.11 or later, pip and make.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check bench clean

demo: .venv/runtime
	OMP_NUM_THREADS=$$(nproc) $(BIN)/tamis demo

test: check
	$(BIN)/pytest -n $(JOBS)

check: .venv/dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/dev
	$(BIN)/python -m benchmarks

# torch first and by itself: the resolver would otherwise weigh every build of it.
.venv/runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/dev: .venv/runtime
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv demo
