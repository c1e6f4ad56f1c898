# The only list of commands, for people and for CI. Everything runs in .venv, made from packaging/lock/.

PYTHON ?= python3
BIN := .venv/bin
LOCKS := packaging/lock/runtime.txt packaging/lock/dev.txt
# Most of the tests' time is waiting. A file stays in one process: its servers and its table are shared there.
SPREAD := -n auto --maxprocesses 4 --dist loadfile
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)

.PHONY: demo test unit long bench clean

demo: .venv/installed
	$(BIN)/syncagent demo

test: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q --timeout 300 -m "not long" $(SPREAD)

unit: .venv/installed
	$(BIN)/pytest -q --timeout 60 -m "not long" tests/unit tests/property tests/test_architecture.py

long: .venv/installed
	$(BIN)/pytest -q --timeout 3600 -m long

bench: .venv/installed
	$(BIN)/python -m tests.bench

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/installed: .venv/locked pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# Made anew when the locks change: what they no longer name must be gone.
.venv/locked: $(LOCKS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON): Python 3.11 or newer is needed; name it with: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { $(AS_ROOT) apt-get -qq update && $(AS_ROOT) apt-get -qq install -y python3-venv; } \
	  || { echo "Python's venv module is missing; type: sudo apt-get install python3-venv" >&2; exit 1; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes $(LOCKS:%=-r %)
	touch $@
