# make demo: set up everything and run the quick start.   make test: set up everything and run the tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo env test-env test check nightly lock clean

demo: env
	$(BIN)/bnf run flows/recipes/quickstart.yaml

env:
	@$(PYTHON) requirements/bootstrap.py

test-env:
	@$(PYTHON) requirements/bootstrap.py --test

test: test-env
	$(BIN)/python -m pytest

check: test-env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What takes too long for every change.
nightly: test-env
	$(BIN)/python -m pytest -m nightly

lock: test-env
	requirements/lock.sh $(CURDIR)/$(BIN)/uv

clean:
	rm -rf .venv models .bnf
