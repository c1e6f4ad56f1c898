# The only list of commands, for people and for CI. Everything runs in .venv, made from packaging/lock/.

PYTHON ?= python3
BIN := .venv/bin
LOCKS := packaging/lock/runtime.txt packaging/lock/dev.txt
# Most of the tests' time is waiting. A file stays in one process: its servers and its table are shared there. Not
# ordered by the number of tests: a file with few long ones would begin last, and all would wait for it.
SPREAD := -n 4 --dist loadfile --no-loadscope-reorder
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)
# Packages of Debian's.
get = { $(AS_ROOT) apt-get -qq update && $(AS_ROOT) apt-get -qq install -y $(1); }

DEB = dist/syncagent_$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' syncagent/__init__.py)_all.deb

.PHONY: demo test test-distribution unit long bench deb lint-deb test-deb test-vm test-vm-short power-cuts test-arm clean

demo: .venv/installed
	$(BIN)/syncagent demo

test: .venv/installed
	@command -v strace >/dev/null || $(call get,strace)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q --timeout 300 -m "not long" $(SPREAD)

# Once more on the distribution's own Python with its python3-cryptography and python3-yaml, as on a device.
DISTRIBUTION = build/distribution
test-distribution:
	$(call get,python3 python3-venv python3-cryptography python3-yaml strace)
	/usr/bin/python3 -m venv --clear --system-site-packages $(DISTRIBUTION)
	awk '/^[^ ]/ {skip = /^(cryptography|cffi|pycparser|pyyaml)==/} !skip' $(LOCKS) > $(DISTRIBUTION)/lock.txt
	$(DISTRIBUTION)/bin/pip install -q --disable-pip-version-check --no-deps --require-hashes -r $(DISTRIBUTION)/lock.txt
	$(DISTRIBUTION)/bin/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(DISTRIBUTION)/bin/pytest -q --timeout 300 -m "not long" $(SPREAD)

unit: .venv/installed
	$(BIN)/pytest -q --timeout 60 -m "not long" tests/unit tests/property tests/test_architecture.py

long: .venv/installed
	$(BIN)/pytest -q --timeout 3600 -m long --ignore tests/packaging

bench: .venv/installed
	$(BIN)/python -m tests.bench

deb: .venv/installed
	$(BIN)/python packaging/build_deb.py

lint-deb: deb
	command -v lintian >/dev/null || $(call get,lintian)
	lintian --allow-root --fail-on error $(DEB)

# Needs root and mmdebstrap: the package in a clean Debian, installed with no network.
test-deb: deb
	$(AS_ROOT) $(CURDIR)/$(BIN)/pytest -q --timeout 3600 -m long tests/packaging

# Needs root, QEMU and the lab whose folder is VMLAB: the package in a machine that boots.
test-vm: .venv/installed
	$(AS_ROOT) env VMLAB="$(VMLAB)" $(CURDIR)/$(BIN)/python -m tests.vm

# A short form of it, with one power cut.
test-vm-short: .venv/installed
	$(AS_ROOT) env VMLAB="$(VMLAB)" $(CURDIR)/$(BIN)/python -m tests.vm --short

# Twenty-five cuts while it works, and some without its fsyncs, which must be seen. Half an hour.
power-cuts: .venv/installed
	$(AS_ROOT) env VMLAB="$(VMLAB)" $(CURDIR)/$(BIN)/python -m tests.vm power-cuts

# Needs root, qemu-user-static, mmdebstrap and the lab: the package and the unit tests on arm64 and armhf.
test-arm: .venv/installed
	$(AS_ROOT) env VMLAB="$(VMLAB)" VMLAB_SOURCES="$(VMLAB_SOURCES)" $(CURDIR)/$(BIN)/python -m tests.arm

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
	  || $(call get,python3-venv) \
	  || { echo "Python's venv module is missing; type: sudo apt-get install python3-venv" >&2; exit 1; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes $(LOCKS:%=-r %)
	touch $@
