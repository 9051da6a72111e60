# The front door. `make sweep` and `make test` are all a newcomer needs.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install -q --disable-pip-version-check -c constraints.txt

.PHONY: install install-analysis install-dev sweep sweep-vllm-cpu test test-slow test-analysis test-cluster test-engines test-vllm test-all fuzz faults lint format docs
.PHONY: bench bench-meters bench-client calibration calibration-fit gpu-check clean

install: .venv/.installed
install-analysis: .venv/.installed-analysis
install-dev: .venv/.installed-dev

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $@

.venv/.installed-analysis: .venv/.installed   ## what the predictor needs: torch, scikit-learn
	$(PIP) -e '.[analysis]'
	touch $@

.venv/.installed-dev: .venv/.installed
	$(PIP) -e '.[dev]'
	touch $@

sweep-vllm-cpu: install .venv-vllm-cpu/.installed   ## the main job against a real vLLM server, without a GPU
	$(BIN)/harness traces fetch azure2023-conv || echo "The bundled profile of the trace stands in; the runs say so."
	$(BIN)/harness sweep deployments/vllm-cpu.yaml

.venv-vllm-cpu/.installed: deployments/install_vllm_cpu.py constraints.txt
	$(PYTHON) -m venv .venv-vllm-cpu
	.venv-vllm-cpu/bin/python deployments/install_vllm_cpu.py constraints.txt
	touch $@

sweep: install-analysis   ## set up, then measure two simulated DGX nodes in rounds (no GPU needed): some minutes
	$(BIN)/harness sweep deployments/simulated-dgx.yaml --points 160 --rounds 3

test: install-dev         ## the quick suite
	$(BIN)/pytest --ignore tests/analysis -m 'not slow and not gpu and not vllm and not engines and not cluster and not faults'

test-slow: install-dev    ## kills, wheels, whole sweeps: minutes
	$(BIN)/pytest --ignore tests/analysis -m 'slow and not gpu and not vllm and not engines and not cluster and not faults'

test-vllm: install-dev .venv-vllm-cpu/.installed   ## against a real vLLM server on this machine's CPUs: a quarter of an hour
	HARNESS_VLLM=.venv-vllm-cpu/bin/vllm $(BIN)/pytest -m vllm -rs tests/vllm

test-engines: install-dev .venv-transformers/.installed   ## the plain PyTorch engine on this machine's CPUs: a minute
	HARNESS_TRANSFORMERS_PYTHON=.venv-transformers/bin/python $(BIN)/pytest -m engines -rs tests/engines

test-analysis: install-dev install-analysis   ## the predictor: minutes
	$(BIN)/pytest -rs tests/analysis

.venv-transformers/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-transformers
	.venv-transformers/bin/pip install -q --disable-pip-version-check -c constraints.txt 'torch>=2.5' 'transformers>=4.56'
	touch $@

fuzz: install-dev         ## some 5,000 generated sweep files, traces and command lines, ten minutes; SEED=N for others
	HARNESS_FUZZ_FACTOR=50 HARNESS_FUZZ_SEED=$(SEED) $(BIN)/pytest tests/fuzz

faults: .venv-cluster/.installed   ## kills, full disks and the like, and what became of them: a quarter of an hour; KILLS=N, SEED=N
	HARNESS_FAULTS_KILLS=$(or $(KILLS),200) HARNESS_FAULTS_SEED=$(SEED) .venv-cluster/bin/pytest -m faults -rs tests/faults

test-cluster: .venv-cluster/.installed .venv-transformers/.installed .venv-vllm-cpu/.installed   ## a real Ray cluster on this machine: a quarter of an hour
	HARNESS_TRANSFORMERS_PYTHON=.venv-transformers/bin/python HARNESS_VLLM=.venv-vllm-cpu/bin/vllm \
	    .venv-cluster/bin/pytest -m cluster -rs tests/cluster

.venv-cluster/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-cluster
	.venv-cluster/bin/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,ray,slurm]'
	touch $@

test-all: lint test test-slow test-analysis test-cluster test-engines test-vllm

lint: install-dev         ## linter, formatter, strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install-dev         ## rewrite what is printed from code
	$(BIN)/python docs/make_data_dictionary.py

bench: bench-store bench-simulator bench-windows bench-estimators bench-meters bench-client bench-steplog bench-sampling bench-scale   ## all; results/bench/*.json

bench-meters: install-dev .venv-peers/.installed   ## beside Zeus and CodeCarbon, a quarter of an hour
	$(BIN)/python benchmarks/bench_meters.py --peers .venv-peers/bin/python

.venv-peers/.installed: benchmarks/meters_peers.txt constraints.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install -q --disable-pip-version-check -c constraints.txt -r benchmarks/meters_peers.txt
	touch $@

bench-client: install-dev .venv-vllm-cpu/.installed .venv-client-peers-aiperf/.installed .venv-client-peers-guidellm/.installed
	$(BIN)/python benchmarks/bench_client.py --vllm .venv-vllm-cpu/bin/vllm

# Beside AIPerf, GuideLLM and `vllm bench serve`, a quarter of an hour; the last comes with the vLLM of sweep-vllm-cpu.
.venv-client-peers-%/.installed: benchmarks/client_peers.txt constraints.txt
	$(PYTHON) -m venv .venv-client-peers-$*
	.venv-client-peers-$*/bin/pip install -q --disable-pip-version-check -c constraints.txt "$$(grep '^$*' benchmarks/client_peers.txt)"
	touch $@

bench-sampling: install-dev install-analysis   ## points and GPU-hours beside random sampling: a quarter of an hour
	$(BIN)/python benchmarks/bench_sampling.py --public $(HARNESS_TEST_DATA)/public

bench-scale: install-dev install-analysis   ## what grows from 1,000 to a million stored runs: half an hour, 2 GB in /tmp
	$(BIN)/python benchmarks/bench_scale.py

bench-%: install-dev
	$(BIN)/python benchmarks/bench_$*.py

# Folder of public measurements and traces, for calibration and for the tests that need them.
HARNESS_TEST_DATA ?= ../shared/data

calibration: install-dev .venv-aiconfigurator/.installed   ## published figures beside the simulator's, and what was asked of it
	mkdir -p results/bench
	.venv-aiconfigurator/bin/python benchmarks/calibration/kernel_tables.py --out results/bench/kernel_tables.json
	$(BIN)/python benchmarks/calibration/compare.py --public $(HARNESS_TEST_DATA)/public \
	    --kernel-tables results/bench/kernel_tables.json

calibration-fit: install-dev .venv-aiconfigurator/.installed   ## fit the simulator's constants anew, minutes
	mkdir -p results/bench
	.venv-aiconfigurator/bin/python benchmarks/calibration/kernel_tables.py --out results/bench/kernel_tables.json
	$(BIN)/python benchmarks/calibration/fit.py --public $(HARNESS_TEST_DATA)/public \
	    --kernel-tables results/bench/kernel_tables.json

.venv-aiconfigurator/.installed: benchmarks/calibration/kernel_tables.txt constraints.txt
	$(PYTHON) -m venv .venv-aiconfigurator
	.venv-aiconfigurator/bin/pip install -q --disable-pip-version-check -r benchmarks/calibration/kernel_tables.txt
	touch $@

gpu-check: install-dev    ## on a machine with an NVIDIA GPU: what its counters really do
	$(BIN)/pytest -m gpu -rs tests/gpu

clean:                    ## also the environments of vLLM and torch (gigabytes); results stay
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
