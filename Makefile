# make demo: see it work.  make test: lint and all tests.  make bench: ours beside the plain versions.
# All set up a virtual environment in .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test bench clean

.venv/installed: $(wildcard requirements*.txt)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash demo.sh

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

bench: .venv/installed
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv demo checkpoints/demo
