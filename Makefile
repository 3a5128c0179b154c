# Two lines for a newcomer: `make demo` and `make test`. One for a contributor: `make check`, which is what CI runs.
# Everything is installed into .venv and .tools of this folder, and again only when pyproject.toml has changed.

VENV := .venv
PY := $(VENV)/bin/python
RUN := $(VENV)/.stamp-run
DEV := $(VENV)/.stamp-dev
PIP := $(PY) -m pip --disable-pip-version-check

# The real Gemini CLI, which the tests start against an emulator on loopback.
GEMINI_CLI := 0.61.0
GEMINI := .tools/gemini-cli
NODE_MAJOR := 20

# Tests that start the Gemini CLI take two CPU-seconds each, so the work is stolen between the workers.
WORKERS ?= 3
ARGS ?=

.PHONY: help setup demo test check-hosts lint check bench docs fmt clean gemini
.DEFAULT_GOAL := help

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 18

setup: $(DEV) gemini ## install the project, its tools and the Gemini CLI

demo: $(RUN) ## install the project and run its demo
	@$(VENV)/bin/dispatch-ledger demo
	@echo; echo "The command is $(VENV)/bin/dispatch-ledger; to call it by its name: export PATH=\"\$$PWD/$(VENV)/bin:\$$PATH\""

test: $(DEV) gemini ## install everything and run the tests (ARGS="-k name" for some of them)
	PATH="$$PWD/$(VENV)/bin:$$PWD/$(GEMINI)/node_modules/.bin:$$PATH" \
	  $(PY) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

check-hosts: $(DEV) ## let workers on several hosts share a ledger, and cut them off (Linux, as root)
	$(PY) -m pytest -n0 -m slow tests/test_hosts.py $(ARGS)

lint: $(DEV) ## check style, types and layers
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo
	$(PY) -m pytest -q -m slow tests/test_tidy.py

check: lint test ## all that CI checks

bench: $(DEV) gemini ## measure (NAMES="append dispatch" for some of it)
	PATH="$$PWD/$(GEMINI)/node_modules/.bin:$$PATH" $(PY) -m benchmarks $(or $(NAMES),all)

docs: $(DEV) ## write the generated pages
	$(PY) -m tests.pages

fmt: $(DEV) ## format, and mend what can be mended
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

clean: ## remove caches and what was built; .venv and .tools stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -name .venv -prune -o -name .tools -prune -o -name __pycache__ -type d -exec rm -rf {} +

# A launcher may be on PATH without its Python behind it, so each is asked.
$(PY):
	@for python in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    echo "making $(VENV) with $$($$python --version)"; \
	    "$$python" -m venv --clear $(VENV) && exit 0; \
	    rm -rf $(VENV); \
	    echo "$$python cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; \
	    exit 1; \
	  fi; \
	done; \
	echo "Python 3.11 or later is needed, and none was found on PATH" >&2; \
	exit 1

$(RUN): pyproject.toml | $(PY)
	@echo "installing the project into $(VENV)"
	@$(PIP) install --quiet --upgrade "pip>=25.1"
	@$(PIP) install --quiet --editable .
	@touch $@

$(DEV): $(RUN)
	@echo "installing the tools into $(VENV)"
	@$(PIP) install --quiet --group dev
	@touch $@

# Without npm the tests of the real CLI are skipped; in CI that is an error.
gemini:
	@if [ -e $(GEMINI)/$(GEMINI_CLI) ]; then exit 0; fi; \
	if node -e 'process.exit(+(parseInt(process.versions.node) < $(NODE_MAJOR)))' 2>/dev/null && command -v npm >/dev/null; then \
	  echo "installing the Gemini CLI $(GEMINI_CLI) into $(GEMINI)" && \
	  rm -rf $(GEMINI) && mkdir -p $(GEMINI) && echo '*' > .tools/.gitignore && echo '{}' > $(GEMINI)/package.json && \
	  npm install --prefix $(GEMINI) --silent --no-audit --no-fund --ignore-scripts @google/gemini-cli@$(GEMINI_CLI) && \
	  touch $(GEMINI)/$(GEMINI_CLI) && exit 0; \
	  why="npm could not install it"; \
	else \
	  why="npm with Node $(NODE_MAJOR) or later is not on PATH"; \
	fi; \
	echo "no Gemini CLI: $$why" >&2; \
	if [ -n "$$CI" ]; then exit 1; fi; \
	echo "its tests will be skipped" >&2
