# Everything a newcomer or CI runs. Each target sets up what it needs: a virtual environment in the checkout, packages by name.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo dev test check bench soak format clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vault_pg needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@echo "Setting up $(VENV) (once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --group test --group check
	@touch $(STAMP)

demo: $(STAMP)  ## 30 s of load on real PostgreSQL while its credentials rotate
	@$(BIN)/vault-pg demo $(ARGS)

dev: $(STAMP)  ## a throw-away PostgreSQL and a dev Vault to try things on
	@$(BIN)/vault-pg dev $(ARGS)

test: $(STAMP)  ## all tests but the long ones (ARGS="-k name" to choose)
	@$(BIN)/python -m pytest -m 'not slow' $(ARGS)

soak: $(STAMP)  ## the long tests
	@$(BIN)/python -m pytest -m slow $(ARGS)

check: $(STAMP)  ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(STAMP)  ## benchmarks, as ratios against named peers in the same run
	@$(BIN)/python -m benchmarks $(ARGS)

format: $(STAMP)  ## let ruff lay out the code
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
