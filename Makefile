# Newcomers need two commands: `make demo` and `make test`. Both create .venv on the first run and reuse it afterwards; it is
# brought up to date when pyproject.toml changes. `make PYTHON=/path/to/python3.12 test` chooses the interpreter.

VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
BIN := $(VENV)/bin
MINUTES ?= 10
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test coverage mutants check lint format docs wheel bench faults soak clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.installed ## Run the demonstration: request, approvals, one execution, evidence
	@$(BIN)/nexus-attest demo

test: $(VENV)/.installed-dev ## Run every test, on all processors
	@$(BIN)/python -m pytest -n auto

coverage: $(VENV)/.installed-dev ## Run the tests of the code that verifies evidence; fail unless they take every branch of it
	@$(BIN)/python scripts/check_coverage.py

mutants: $(VENV)/.installed-dev ## Change the code that judges, one thing at a time, and see whether its tests notice (hours)
	@$(BIN)/python scripts/mutants.py

check: lint test coverage wheel ## Run every gate: format, lint, types, import contracts, tests and documents, coverage, wheel

lint: $(VENV)/.installed-dev ## Check format, lint rules, types and import contracts
	@echo "==> ruff check"
	@$(BIN)/ruff check .
	@echo "==> ruff format"
	@$(BIN)/ruff format --check .
	@echo "==> pyright"
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@echo "==> import-linter"
	@$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## Format the code and apply the safe fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(VENV)/.installed-dev ## Regenerate what code prints (error codes, tool list, schema of adapter files), then run the documents (`test` does too)
	@$(BIN)/python scripts/errors_table.py > docs/errors.md
	@$(BIN)/python scripts/mcp_tools.py > docs/mcp-tools.json
	@$(BIN)/python scripts/mcp_tools.py --by-option > docs/mcp-tools-by-option.json
	@$(BIN)/python scripts/adapters_schema.py > schemas/nexus-attest.adapters.v1.json
	@$(BIN)/python scripts/witness_schema.py > schemas/nexus-attest.witness.v1.json
	@$(BIN)/python scripts/key_tables.py
	@$(BIN)/python -m pytest tests/test_docs.py tests/contract/test_errors_table.py tests/contract/test_mcp_tools.py

wheel: $(VENV)/.installed-dev ## Build the wheel, then try it in empty environments
	@$(BIN)/python scripts/check_wheel.py

bench: $(VENV)/.installed-dev ## Measure
	@$(BIN)/python -m bench

faults: $(VENV)/.installed-dev ## Kill every command at every step, fail every system call, cut every message (about an hour)
	@NEXUS_EVERY_STEP=1 NEXUS_MODEL_RUNS=2000 NEXUS_WITNESS_RUNS=1000 \
		$(BIN)/python -m pytest -o faulthandler_timeout=3600 tests/faults tests/test_attestation_xrpl_exactly_once.py

soak: $(VENV)/.installed-dev ## Keep stores busy, with faults, and watch that nothing is lost and nothing grows: make soak MINUTES=10 POSTGRES=1
	@PYTHONPATH=.:tests $(BIN)/python tests/soak.py --minutes $(MINUTES) $(if $(POSTGRES),--postgres)

clean: ## Remove everything that was made
	rm -rf $(VENV) build dist nexus-attest-demo .coverage .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found. Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is not Python 3.11 or newer." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) cannot create virtual environments: its module ensurepip is missing." >&2; \
		     echo "Debian and Ubuntu ship it apart: sudo apt install python3-venv   Then run make again." >&2; exit 1; }
	@echo "==> Creating $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv "$(VENV)"
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	@echo "==> Installing nexus-attest and its dependencies (about a minute on the first run)"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml
	@echo "==> Installing nexus-attest, its dependencies and the development tools (about two minutes on the first run)"
	@$(PIP) install --editable '.[dev]'
	@touch $(VENV)/.installed $@
