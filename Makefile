# Two commands on a fresh machine with Python 3.11: `make demo` and `make test`. Both install what they need into .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 0
SECONDS ?= 60
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test check types unit lint fuzz quality bench-heads chaos install
.DEFAULT_GOAL := demo

demo: install
	$(BIN)/hydra-ray demo --seed $(SEED)

test: install
	$(BIN)/pytest

# Two at a time: the type checker takes as long as the unit tests.
check: install
	$(MAKE) --no-print-directory -j2 --output-sync=target types unit lint

types:
	$(BIN)/pyright

unit:
	$(BIN)/pytest -q -m "not ray"

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

# Each target for SECONDS (minutes for a first look, 600 before a release); what is found is kept in fuzz/corpus.
fuzz: install
	$(BIN)/python fuzz/run.py --seconds $(SECONDS)

# Needs HYDRA_LAMP_DIR; hours where nothing was generated yet, and resumable.
quality: install
	$(BIN)/python benchmarks/quality.py

# Six gigabytes of disk for the largest size, and some minutes.
# The second ends with status 1 where a figure is not good enough.
bench-heads: install
	$(BIN)/python benchmarks/lifecycle.py
	$(BIN)/python benchmarks/heads.py

# About 40 minutes on two cores. Ends with status 1 where a run did not end as an undisturbed one.
chaos: install
	PYTHONPATH=tests $(BIN)/python benchmarks/chaos.py

install: $(VENV)/.installed

# The lock names every package, and --no-deps keeps out what breaks or bloats it (torchvision, triton, llama_cpp).
$(VENV)/.installed: requirements/cpu.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --no-deps -r requirements/cpu.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@
