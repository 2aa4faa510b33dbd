# Two commands for a fresh machine: `make demo` and `make test`. Each makes its own environment in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo
# a plain path, not an import hook: in the folder above, Python would take the clone itself for the package
EDITABLE := --config-settings editable_mode=compat

.PHONY: help demo test check format clean

help:
	@echo "make demo    train on the embedded data for a few minutes, print a table, draw a picture"
	@echo "make test    run the tests"
	@echo "make check   format, lint, types, and the floors of the house"
	@echo "make format  let ruff rewrite what it can"

$(VENV)/core: pyproject.toml constraints.txt
	@echo "== making the environment in $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "openjepa needs Python 3.10 or newer: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "== installing openjepa and what it needs (torch is the large one)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(EDITABLE) -e .
	@touch $@

$(VENV)/dev: $(VENV)/core
	@echo "== installing what the tests and checks need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(EDITABLE) -e '.[dev]'
	@touch $@

demo: $(VENV)/core
	@echo "== pretraining on scenes, then probing frozen features"
	@$(BIN)/openjepa demo --out $(RUN)

test: $(VENV)/dev
	@echo "== running the tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: $(VENV)/dev
	@echo "== format"; $(BIN)/ruff format --check .
	@echo "== lint"; $(BIN)/ruff check .
	@echo "== types"; $(BIN)/mypy
	@echo "== floors"; $(BIN)/python -m pytest tests/test_house.py

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
