# make demo: set up everything and run the quick start.   make test: set up everything and run the tests.
PYTHON ?= python3
BIN := .venv/bin
# Tests run in several processes: the threads of one would get in the way of the others'.
ONE_THREAD := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
# What every change has to pass: nightly tests take too long, and those of GPUs need one.
QUICK_ENOUGH := not nightly and not gpu

.PHONY: demo env test-env test unit coverage check docs nightly audit lock clean

demo: env
	$(BIN)/bnf run flows/recipes/quickstart.yaml

env:
	@$(PYTHON) requirements/bootstrap.py

test-env:
	@$(PYTHON) requirements/bootstrap.py --test

# The other tests wait a lot, for servers and engines that start: three files at a time, as the tests of a file share homes.
test: unit
	$(ONE_THREAD) $(BIN)/python -m pytest -m "not unit and $(QUICK_ENOUGH)" -n 3 --dist loadfile --no-loadscope-reorder

unit: test-env
	$(ONE_THREAD) $(BIN)/python -m pytest tests/unit -m "unit and $(QUICK_ENOUGH)" -n 2 --dist worksteal

# How much of the five packages the unit tests run through: statements and branches, of each package and of all. CONTRIBUTING.md has the figures.
coverage: test-env
	$(ONE_THREAD) $(BIN)/python -m pytest tests/unit -m "unit and $(QUICK_ENOUGH)" -n 2 --dist worksteal --cov --cov-report=
	@for package in bnf evaluation data tasks flows; do \
		$(BIN)/coverage report --include="$$package/*" | sed -n "s,^TOTAL,$$package\t,p"; done
	@$(BIN)/coverage report

check: test-env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers auto
	$(BIN)/lint-imports

# The documentation as a site, dist/site: a link that leads nowhere fails it. (The variable switches off an advertisement of the theme's.)
docs: test-env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# What takes too long for every change.
nightly: test-env
	$(BIN)/python -m pytest -m nightly

# Needs PyPI itself: packages that it doesn't know are listed as skipped, and a mirror knows none.
audit: test-env
	for lock in cpu gpu macos; do $(BIN)/uv tool run pip-audit --no-deps --disable-pip -r requirements/$$lock.txt || exit 1; done

lock: test-env
	requirements/lock.sh $(CURDIR)/$(BIN)/uv

clean:
	rm -rf .venv models .bnf
