# The only interface to the tools. Each target works alone, in any order, on a machine with Python 3.11+ and a C++ compiler.
#
#   make demo DEVICE=numpy ARGS="--epochs 3"     options of `needle train`
#   make test ARGS="-k loader"                   options of pytest
#   make test DEVICE=loopback                    on another default device than numpy, the reference
#   make test WORKERS=0                          in one process; without it, in one for each core

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test mutants docs bench gpu lint types native fuzz sanitize valgrind clean

DEVICE ?=
ARGS ?=
test: DEVICE := $(or $(DEVICE),numpy)
WORKERS ?= auto

# uv keeps the environment: the one on PATH, else one of our own in .tools. It takes the system's Python and downloads none.
UV := $(or $(shell command -v uv),.tools/bin/uv)
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv
READY := .venv/.ready
BUILT := .venv/.built
NATIVE := plugins/cpp_backend
CUDA := plugins/cuda_backend/needle_cuda_backend

help:  ## show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# One thread for the linear algebra: matrices are small here, and OpenBLAS's threads wait by spinning. Beside another busy process
# the demo took 212 s with two threads, 6 s with one.
demo test mutants: export OPENBLAS_NUM_THREADS ?= 1
# The threads of the C++ backend, more than there are cores where tests run in several processes, sleep while they wait.
test: export OMP_WAIT_POLICY ?= passive

demo: $(BUILT)  ## train a network on handwritten digits
	.venv/bin/needle train $(if $(DEVICE),--device $(DEVICE)) $(ARGS)

test: $(BUILT)  ## run all tests
	$(if $(DEVICE),NEEDLE_DEVICE=$(DEVICE)) .venv/bin/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal $(ARGS)

mutants: $(READY)  ## plant bugs and see that the conformance kit finds them
	.venv/bin/python -m tests.mutants $(ARGS)

docs: $(READY)  ## write the pages of docs/ that are made from the code
	.venv/bin/python docs/generate.py

bench: $(BUILT)  ## measure
	.venv/bin/python -m pytest benchmarks --quiet --capture=no $(ARGS)

# CUDA's libraries are a gigabyte: only who has a GPU gets them.
gpu: $(READY)  ## test and measure on a GPU, and write a report; `make gpu ARGS=--simulated` in small without one
	$(if $(findstring --simulated,$(ARGS)),,$(UV) pip install --quiet --python .venv/bin/python \
		-e 'plugins/cuda_backend[cuda13]' nvidia-cuda-sanitizer-api)
	.venv/bin/python benchmarks/gpu/visit.py $(ARGS)

lint: $(READY)  ## check style, format and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/clang-format --dry-run -Werror $(NATIVE)/src/* $(wildcard $(CUDA)/kernels/* $(CUDA)/simulated/*.cpp $(CUDA)/simulated/*.h)
	@$(MAKE) --no-print-directory types

types: $(READY)  ## check types, strictly
	.venv/bin/mypy

CMAKE := .venv/bin/cmake
# $(call build_native,FOLDER,OPTIONS): the native modules, built in a folder that is kept and put where Python finds them.
build_native = $(CMAKE) -S $(NATIVE) -B $(NATIVE)/build/$(1) -G Ninja -DCMAKE_MAKE_PROGRAM="$$PWD/.venv/bin/ninja" \
		-DPython_EXECUTABLE="$$PWD/.venv/bin/python" $(2) > $(NATIVE)/build/$(1).log \
	&& $(CMAKE) --build $(NATIVE)/build/$(1) && $(CMAKE) --install $(NATIVE)/build/$(1) --prefix "$(PLATLIB)" > /dev/null \
	|| exit 1
PLATLIB = $(shell .venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')

native: $(BUILT)  ## build what has changed of the C++ backend

# Installing it has built it once; this is for edits.
$(BUILT): $(wildcard $(NATIVE)/src/*) | $(READY)
	@if [ -n "$$(find $(NATIVE)/src -newer $(READY))" ]; then mkdir -p $(NATIVE)/build; $(call build_native,dev,); fi
	@touch $@

EXAMPLES ?= 1000
fuzz: $(BUILT)  ## run random programs on the C++ backend, as many as EXAMPLES says
	FUZZ_EXAMPLES=$(EXAMPLES) .venv/bin/python -m pytest --quiet $(NATIVE)/tests/test_random_programs.py $(ARGS)

# The sanitized modules take the place of the others while the kit, the six steps and random plans run, and then give it back.
sanitize: $(READY)  ## run the C++ backend under AddressSanitizer and UndefinedBehaviorSanitizer
	@mkdir -p $(NATIVE)/build; $(call build_native,dev,)
	@trap '$(CMAKE) --install $(NATIVE)/build/dev --prefix "$(PLATLIB)" > /dev/null' EXIT; \
	$(call build_native,sanitize,-DSANITIZE=address$(comma)undefined); \
	export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=halt_on_error=1 NEEDLE_DEVICE=cpp \
		LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so) $$($(CXX) -print-file-name=libstdc++.so)"; \
	.venv/bin/needle conform cpp --full; \
	.venv/bin/python -m pytest --quiet $(NATIVE)/tests/test_cpp_backend.py $(NATIVE)/tests/test_random_programs.py \
		tests/graph/test_workloads.py

# Python and what it loads have findings of their own; ours are those with a frame in a native module or in oneDNN.
valgrind: $(BUILT)  ## start the C++ backend and compute a little under Valgrind
	@mkdir -p $(NATIVE)/build
	PYTHONMALLOC=malloc OMP_NUM_THREADS=1 NEEDLE_DEVICE=cpp valgrind --quiet --log-file=$(NATIVE)/build/valgrind.log \
		.venv/bin/python -c 'import needle_core as ndl; x = ndl.ones((64, 64)); print((ndl.gelu(x @ x) + 1).sum().item())'
	@! grep -E '_x86_64_v[34]|libdnnl' $(NATIVE)/build/valgrind.log

comma := ,

clean:  ## remove what the other targets made, except for training runs
	rm -rf .venv .tools uv.lock .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks build dist plugins/*/build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first Python that is new enough, unless PYTHON names one.
find_python = for name in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
		python=$$("$$name" -c 'import sys; print(sys.executable if sys.version_info >= (3, 11) else "")' 2> /dev/null) || continue; \
		[ -z "$$python" ] || break; \
	done; \
	if [ -z "$$python" ]; then \
		echo "error: no Python 3.11 or newer found$(if $(PYTHON), as $(PYTHON)); name one: make PYTHON=/path/to/python" >&2; exit 1; \
	fi

$(READY): pyproject.toml $(wildcard plugins/*/pyproject.toml plugins/*/CMakeLists.txt) | $(filter .tools/%,$(UV))
	@$(find_python); $(UV) sync --all-packages --python "$$python"
	@touch $@

.tools/bin/uv:
	@$(find_python); \
	if ! "$$python" -c 'import ensurepip, venv' 2> /dev/null; then \
		echo "error: $$python cannot make environments; install the package python3-venv, or uv" >&2; exit 1; \
	fi; \
	"$$python" -m venv --clear .tools && .tools/bin/python -m pip install --quiet uv
