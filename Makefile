# The two commands of the README are `make demo` and `make test`; everything else is for developers.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all repetitions fuzz kills kill-jobs methods-matrix tasks-matrix openai-conformance other-clients check bench docs update test-versions clean

# Installed once, in the exact versions of constraints.txt; again when these or pyproject.toml change.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "tunesmith needs Python 3.11 to 3.13, and $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	@touch $@

$(VENV)/.test: $(VENV)/.installed
	$(INSTALL) '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(INSTALL) '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/tunesmith demo

# Several processes of one thread each; the tests of a module are done by one of them.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup --no-loadscope-reorder

test: $(VENV)/.test
	$(PYTEST)

# More of what `make test` does once. Each takes at most half an hour; interrupted, it goes on where it was.
PASSED ?= .passed
repetitions: $(VENV)/.test
	$(PYTEST) -m slow --passed=$(PASSED)/repetitions

fuzz: $(VENV)/.test
	$(PYTEST) -m fuzz --passed=$(PASSED)/fuzz

kills: $(VENV)/.test
	$(PYTEST) -m kills --passed=$(PASSED)/kills

# About twenty minutes: of all who work with the queue, on both databases, and of the server. The first one is resumable.
kill-jobs: $(VENV)/.test
	$(BIN)/python scripts/kill_jobs.py --passed $(PASSED)/kill_jobs
	$(BIN)/python scripts/kill_server.py

# Every method on every family of models, ten minutes.
methods-matrix: $(VENV)/.test
	$(BIN)/python scripts/methods_matrix.py --noted $(PASSED)/methods_matrix.json

# Every task with every architecture that it claims, all weights and LoRA: about five minutes.
tasks-matrix: $(VENV)/.test
	$(BIN)/python scripts/tasks_matrix.py --noted $(PASSED)/tasks_matrix.json

# OpenAI's own tests of its client, against our server: about two minutes, and it fetches their source.
openai-conformance: $(VENV)/.test
	$(INSTALL) '.[conformance]'
	$(BIN)/python scripts/openai_conformance.py

# Conversations through LangChain, LlamaIndex and `llm`, in an environment of their own; minutes, the first time.
other-clients: $(VENV)/.test
	$(BIN)/python scripts/other_clients.py

test-all: test repetitions fuzz kills kill-jobs methods-matrix tasks-matrix

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/test_architecture.py tests/test_docs.py

# The reference pages are written from the code.
docs: $(VENV)/.installed
	$(BIN)/python scripts/write_reference.py

# About 80 minutes on two cores. ROWS is a file of chats or instructions; the project's own without one.
# LLAMA_CPP=compile builds llama.cpp first and measures it too.
ROWS ?= hotel
LLAMA_CPP ?=
SFT := $(BIN)/python benchmarks/sft_cpu.py --rows $(ROWS) --write
bench: $(VENV)/.test
	$(BIN)/python benchmarks/start.py --write
	$(BIN)/python benchmarks/job_queue.py --write
	$(BIN)/python benchmarks/api_files.py --write
	$(BIN)/python benchmarks/serve.py --write
	$(SFT) --size 10m --steps 6
	ONEDNN_MAX_CPU_ISA=AVX2 $(SFT) --size 10m --steps 6 --precision fp32 --only tunesmith bfd
	$(SFT) --size 135m --steps 3
	$(SFT) --size 135m --steps 2 --method full --only tunesmith bfd
	$(BIN)/python benchmarks/levers.py --rounds 3 --rows $(ROWS) --write
	$(BIN)/python benchmarks/optimizer.py
	$(BIN)/python benchmarks/hyperparameters.py --write
	$(BIN)/python benchmarks/shards.py
	$(BIN)/python benchmarks/busy.py --write
	$(BIN)/python benchmarks/validation.py
	$(BIN)/python benchmarks/decode.py --dtype bfloat16 $(if $(LLAMA_CPP),--llama-cpp $(LLAMA_CPP)) --write

# The newest versions that pyproject.toml admits become those of constraints.txt. Run the tests, then commit it.
update:
	$(PYTHON) scripts/versions.py update

# The short suite on the oldest and on the newest versions that pyproject.toml admits, and on other Pythons that are here.
test-versions:
	$(PYTHON) scripts/versions.py test

clean:
	rm -rf $(VENV) .versions .passed build dist .pytest_cache .ruff_cache .hypothesis
