# The front door. `make sweep` and `make test` are all a newcomer needs.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install -q --disable-pip-version-check -c constraints.txt

.PHONY: install install-dev sweep test test-slow test-all lint format docs bench bench-meters gpu-check clean

install: .venv/.installed
install-dev: .venv/.installed-dev

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(PIP) -e '.[dev]'
	touch $@

sweep: install            ## set up, then measure two simulated DGX nodes (no GPU needed)
	$(BIN)/harness sweep deployments/simulated-dgx.yaml

test: install-dev         ## the quick suite
	$(BIN)/pytest -m 'not slow and not gpu'

test-slow: install-dev    ## kills, wheels, whole sweeps: minutes
	$(BIN)/pytest -m 'slow and not gpu'

test-all: lint test test-slow

lint: install-dev         ## linter, formatter, strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install-dev         ## rewrite what is printed from code
	$(BIN)/python docs/make_data_dictionary.py

bench: bench-store bench-simulator bench-windows bench-estimators bench-meters   ## all; results/bench/*.json

bench-meters: install-dev .venv-peers/.installed   ## beside Zeus and CodeCarbon, a quarter of an hour
	$(BIN)/python benchmarks/bench_meters.py --peers .venv-peers/bin/python

.venv-peers/.installed: benchmarks/meters_peers.txt constraints.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install -q --disable-pip-version-check -c constraints.txt -r benchmarks/meters_peers.txt
	touch $@

bench-%: install-dev
	$(BIN)/python benchmarks/bench_$*.py

gpu-check: install-dev    ## on a machine with an NVIDIA GPU: what its counters really do
	$(BIN)/pytest -m gpu -rs tests/gpu

clean:
	rm -rf .venv .venv-peers build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
