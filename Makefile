# `make train`: data, pretraining, transfer, report.  `make test`: the whole test suite;
# `make test-configs`: every config.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test test-configs lint format parity clean

train: $(VENV)/.installed
	$(BIN)/python tools/prepare_data.py digits glyphs
	$(BIN)/python tools/demo.py

# Two files of tests at a time.
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Every config in small: two steps, a restart, every evaluator.
test-configs: $(VENV)/.installed-test
	$(BIN)/python tools/smoke.py --jobs 2

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Against timm, torch and transformers, at random weights.
parity: $(VENV)/.installed-test
	$(BIN)/pip install --quiet --editable '.[parity]'
	$(BIN)/python -m pytest tests/parity

$(VENV)/.installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) runs
