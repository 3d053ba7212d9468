SHELL := /bin/bash -o pipefail
PYTHON ?= $(shell for v in python3.13 python3.12 python3.11 python3; do command -v $$v >/dev/null 2>&1 && $$v -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$v && break; done)
BIN = .venv/bin
.PHONY: setup demo test quick lint proof bench docs clean

setup: .venv/.installed

.venv/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found on PATH."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "$(PYTHON) cannot make a virtualenv; install its venv module (on Debian: apt install python3-venv)."; exit 1; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/fhirserver demo

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: lint
	@$(BIN)/python -m pytest -n auto --dist worksteal

quick: setup
	@$(BIN)/python -m pytest -q -m "not slow"

proof: setup
	@mkdir -p docs/proof
	@FHIRSERVER_PROOF=1 $(BIN)/python -m pytest -p no:cacheprovider | grep -v '^rootdir' | tee docs/proof/tests.txt

bench: setup
	@$(BIN)/fhirserver bench $(ARGS)

docs: setup
	@$(BIN)/python -m fhirserver.config > docs/configuration.md
	@$(BIN)/python -m fhirserver.cli.reference > docs/cli.md

clean:
	@rm -rf .venv build *.egg-info
