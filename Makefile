# Two commands on a fresh x86-64 Linux with Python 3.11, 3.12 or 3.13: `make demo` and `make test`. Both install what they need
# into .venv: by PYTHON where it is given, with PyTorch's CPU build from TORCH_INDEX where the machine's own pip has none.
PYTHON ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
VENV := .venv
# cpu or gpu; what was installed first is what the environment stays with.
LOCK := $(if $(wildcard $(VENV)/.installed-gpu),gpu,cpu)
UV_VERSION := 0.13.0
BIN := $(VENV)/bin
SEED ?= 0
SECONDS ?= 60
# Processes of unit tests: one more than cores (of which at most 8), since some wait; each takes seconds to collect them.
WORKERS ?= $(shell n=$$(nproc); [ $$n -lt 8 ] || n=8; echo $$((n + 1)))
export HF_HUB_OFFLINE ?= 1

.PHONY: chosen demo test test-install check types unit ray lint docs site fuzz quality quality-published bench chaos install lock uv
.DEFAULT_GOAL := demo

demo: install
	$(BIN)/hydra-ray demo --seed $(SEED)

test: check
	$(MAKE) --no-print-directory ray

# Needs the network and half an hour: a clone is installed from an index of this machine's own, and every pin is looked up.
test-install: install
	HYDRA_SLOW=1 $(BIN)/pytest -s tests/install

# Two at a time: the type checker is one process.
check: install
	$(MAKE) --no-print-directory -j2 --output-sync=target types unit lint

types:
	$(BIN)/pyright

# As many at a time as there are cores, each with one thread: numpy's own threads would only wait for each other.
unit:
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(WORKERS) --dist=worksteal -m "not ray and not integration"

# Two modules at a time: much of their time they wait for processes to start and end. What each kept is told in the end.
ray:
	$(BIN)/pytest -q -n 2 --dist=loadfile -m "(ray or integration) and not alone" --durations=40
	$(BIN)/pytest -q -m alone

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

# After any change to a setting or its description, or to benchmarks/QUALITY.md: docs/configuration.md, the JSON Schemas beside
# the configurations, and the figures of the documents.
docs: install
	$(BIN)/python docs/configuration_files.py

# The documentation as a site, build/site/index.html; a warning or a dead link is an error.
site: docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Each target for SECONDS (minutes for a first look, 600 before a release); what is found is kept in fuzz/corpus.
fuzz: install
	$(BIN)/python fuzz/seeded_replies.py --mutations 20000
	$(BIN)/python fuzz/user_files.py
	$(BIN)/python fuzz/run.py --seconds $(SECONDS)
	$(BIN)/python fuzz/configuration_fuzz.py --cases 20000

# Needs HYDRA_LAMP_DIR (and HYDRA_JESTER_DIR for own heads without a generator); hours where nothing was generated yet, and
# resumable. `quality-published` goes on with the published method, re-implemented: some sets by SETS="LaMP_4 LaMP_5".
quality: install
	$(BIN)/python benchmarks/quality.py

quality-published: install
	$(BIN)/python benchmarks/quality.py --published $(SETS)

# The table of benchmarks/RESULTS.md: every line, or some (make bench LINES="retrieval help"). Hours, and six gigabytes of
# disk; ends with status 1 where a figure does not reach its bar. bm25s is measured where it is installed.
bench: install
	$(BIN)/python benchmarks/bench.py $(LINES)

# About 45 minutes on two cores. Ends with status 1 where work did not end as if it had not been disturbed.
chaos: install
	PYTHONPATH=tests $(BIN)/python benchmarks/chaos.py

install: $(VENV)/.installed-$(LOCK)

$(VENV)/.installed-$(LOCK): requirements/install.sh requirements/build.txt requirements/torch-cpu.txt requirements/$(LOCK).txt pyproject.toml $(if $(PYTHON),chosen)
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" requirements/install.sh $(VENV) $(LOCK)

# After any change to a dependency in pyproject.toml. uv is kept apart, in an environment of its own.
lock: uv
	build/uv-$(UV_VERSION)/bin/python requirements/lock.py

uv: build/uv-$(UV_VERSION)/bin/uv

build/uv-$(UV_VERSION)/bin/uv:
	python3 -m venv build/uv-$(UV_VERSION)
	build/uv-$(UV_VERSION)/bin/python -m pip install --quiet uv==$(UV_VERSION)
