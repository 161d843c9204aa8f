# The two commands to know: make demo, make test. Each makes .venv first, and again when what it depends on changed.
# PYTHON=python3.12 chooses another interpreter (3.10 to 3.13); PIP_FLAGS is handed to every pip install, for
# example PIP_FLAGS=--find-links=<folder of wheels>; EXTRAS are the extras of setup.py that are installed.

PYTHON ?= python3
PIP_FLAGS ?=
EXTRAS ?= test,pretrain,lora,search,api,tune,serve,track
SCALE ?= small
# A worker a core, each with one thread: threads of many workers would only wait for each other. Tests that start a Ray
# share a worker (loadgroup).
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt

.PHONY: install demo test test-slow test-gpu test-heavy coverage lint bench bench-gpu wheel clean

install: $(STAMP)

$(STAMP): setup.py constraints.txt pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v < (3, 14) else "error: " + sys.executable + " is Python %d.%d; recbole_blair needs 3.10 to 3.13: run make again with PYTHON=python3.12" % v)'
	@rm -f $(STAMP)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) --quiet --upgrade pip
	$(PIP) -e '.[$(EXTRAS)]'
	$(PIP) --no-deps recbole
	@touch $(STAMP)

demo: install
	$(BIN)/python run_recbole.py --model=UniSRecBlair --dataset=sample

test: install
	$(PYTEST)

test-slow: install
	$(PYTEST) -m "slow and not heavy and not gpu and not network and not bench"

test-gpu: install
	$(BIN)/python -m pytest -n 0 -m gpu tests/test_gpu.py

test-heavy: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 -m "heavy and not gpu and not network and not bench"

coverage: install
	$(PYTEST) --cov=recbole_blair --cov=dataset_tools --cov-report=term:skip-covered

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy recbole_blair dataset_tools
	$(BIN)/lint-imports

bench: install
	$(BIN)/python tests/bench/run_all.py --scale=$(SCALE)

bench-gpu: install
	@$(BIN)/python tests/bench/bench_gpu.py

wheel: install
	rm -rf build dist
	$(BIN)/python -m build --wheel

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
