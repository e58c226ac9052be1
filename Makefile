# make demo   from nothing to a trained hierarchy that plans in a maze
# make test   everything that must hold before a change is merged
# Both make the virtual environment first; once it is there, that costs nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PARTIAL := $(VENV)/.partial

# pyright's wheel is complete, so let it not ask whether there is a newer one
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo install test lint clean

demo: $(STAMP)
	@$(BIN)/echelon demo

install: $(STAMP)

test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --project pyproject.toml

# The stamp is written last, and the mark of an install under way is removed last: one that was
# interrupted begins afresh, and one that was complete is brought up to date in place.
$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (minutes the first time) ..."
	@rm -f $(STAMP)
	@if [ -e $(PARTIAL) ]; then echo "The last install was interrupted: starting over"; rm -rf $(VENV); fi
	@mkdir -p $(VENV) && touch $(PARTIAL)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Echelon needs Python 3.11 or newer: make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@rm -f $(PARTIAL) && touch $(STAMP)
	@echo "Installed"

# Runs, data and records are left alone.
clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
