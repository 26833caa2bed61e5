# The only interface to the tools. Each target works alone, in any order, on a machine with Python 3.11+ and nothing installed.
#
#   make demo DEVICE=numpy ARGS="--epochs 3"     options of `needle train`
#   make test ARGS="-k loader"                   options of pytest
#   make test DEVICE=loopback                    on another default device

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test mutants docs bench lint types clean

DEVICE ?=
ARGS ?=

# uv keeps the environment: the one on PATH, else one of our own in .tools. It takes the system's Python and downloads none.
UV := $(or $(shell command -v uv),.tools/bin/uv)
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv
READY := .venv/.ready

help:  ## show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# One thread for the linear algebra: matrices are small here, and OpenBLAS's threads wait by spinning. Beside another busy process
# the demo took 212 s with two threads, 6 s with one.
demo test mutants: export OPENBLAS_NUM_THREADS ?= 1

demo: $(READY)  ## train a network on handwritten digits
	.venv/bin/needle train $(if $(DEVICE),--device $(DEVICE)) $(ARGS)

test: $(READY)  ## run all tests
	$(if $(DEVICE),NEEDLE_DEVICE=$(DEVICE)) .venv/bin/python -m pytest $(ARGS)

mutants: $(READY)  ## plant bugs and see that the conformance kit finds them
	.venv/bin/python -m tests.mutants $(ARGS)

docs: $(READY)  ## write the pages of docs/ that are made from the code
	.venv/bin/python docs/generate.py

bench: $(READY)  ## measure
	.venv/bin/python -m pytest benchmarks --quiet --capture=no $(ARGS)

lint: $(READY)  ## check style, format and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	@$(MAKE) --no-print-directory types

types: $(READY)  ## check types, strictly
	.venv/bin/mypy

clean:  ## remove what the other targets made, except for training runs
	rm -rf .venv .tools uv.lock .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first Python that is new enough, unless PYTHON names one.
find_python = for name in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
		python=$$("$$name" -c 'import sys; print(sys.executable if sys.version_info >= (3, 11) else "")' 2> /dev/null) || continue; \
		[ -z "$$python" ] || break; \
	done; \
	if [ -z "$$python" ]; then \
		echo "error: no Python 3.11 or newer found$(if $(PYTHON), as $(PYTHON)); name one: make PYTHON=/path/to/python" >&2; exit 1; \
	fi

$(READY): pyproject.toml $(wildcard plugins/*/pyproject.toml) | $(filter .tools/%,$(UV))
	@$(find_python); $(UV) sync --all-packages --python "$$python"
	@touch $@

.tools/bin/uv:
	@$(find_python); \
	if ! "$$python" -c 'import ensurepip, venv' 2> /dev/null; then \
		echo "error: $$python cannot make environments; install the package python3-venv, or uv" >&2; exit 1; \
	fi; \
	"$$python" -m venv --clear .tools && .tools/bin/python -m pip install --quiet uv
