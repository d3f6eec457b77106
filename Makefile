# Everything happens in .venv, which is made once and again when pyproject.toml changes.

ifndef PYTHON
FIT := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
CANDIDATES := python3.11 python3.12 python3.13 python3
PYTHON := $(firstword $(foreach p,$(CANDIDATES),$(shell $(p) -c '$(FIT)' 2>/dev/null && echo $(p))))
endif
# The builds of PyTorch on package indexes differ in size by gigabytes; this one is named so that
# the tests run on the version they were written with. TORCH="torch>=2.5" takes what is newest.
TORCH ?= torch==2.13.0
# More than cores: tests wait for processes, sockets and disks as well.
WORKERS ?= 3

VENV := .venv
BIN := $(VENV)/bin
# One thread each: processes of several threads on few cores wait for each other, PyTorch's 50 times
# as long as they compute.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=30
export TF_CPP_MIN_LOG_LEVEL ?= 2
# What is imported is compiled once, not by each of the processes that tests start, for which it is
# most of the time; also where the environment asks for no byte code beside the sources.
export PYTHONDONTWRITEBYTECODE =
export PYTHONPYCACHEPREFIX ?= $(CURDIR)/$(VENV)/pycache

.PHONY: help demo test test-quick lint test-tensorflow test-jax test-torch texts bench faults \
  docs docs-serve clean

help:  ## show what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 18

# Where there is no GPU, what TensorFlow says of not finding one comes before all else, whatever the
# level of its logs; everything that is no such line passes, and the exit status is that of Python.
NO_GPU := ^(WARNING: All log messages before absl|[IWE]0000 .* (cudart_stub|cuda_platform)\.cc)
QUIETLY := $(if $(wildcard /dev/nvidia*),,bash -c '{ "$$0" "$$@"; } 2> >(grep -vE "$(NO_GPU)" >&2); \
  status=$$?; wait $$!; exit $$status')

demo: $(VENV)/.demo  ## fine-tune the small Chinese BERT on reviews; ARGS="…" goes to the script
	@$(QUIETLY) $(BIN)/python examples/quickstart.py $(ARGS)

# A file or two of each part; whole models are compared with the original's outputs, nothing trains
# for long, no process is started that imports an engine for seconds.
QUICK := attention backend checkpoints checks layers losses masks migrate migrate_files models \
  snippets tokenizers

test-quick: $(VENV)/.test  ## while working: the telling tests of each part on TensorFlow, minutes
	KERAS_BACKEND=tensorflow $(PYTEST) -m "not long" $(QUICK:%=tests/*/test_%.py)

# All steps run even if one fails; the exit status tells.
test: $(VENV)/.test  ## lint, the suite on TensorFlow, what runs through Keras on the others
	@$(MAKE) --no-print-directory --keep-going --jobs=1 lint test-tensorflow test-jax test-torch

# Types: what was wrong when they were first checked stands in .basedpyright/baseline.json, which
# basedpyright makes smaller by itself, and never larger.
lint: $(VENV)/.test  ## ruff, rules and format; types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright -p pyproject.toml

# Experiments and guides build and train models for a few steps each, for which TensorFlow traces
# graphs and PyTorch does not: such tests have the mark `eager`.
test-tensorflow: $(VENV)/.test  ## the whole suite on TensorFlow, without experiments and guides
	KERAS_BACKEND=tensorflow $(PYTEST) -m "not eager"

test-jax: $(VENV)/.test  ## what runs through Keras on JAX
	KERAS_BACKEND=jax $(PYTEST) -m backend

test-torch: $(VENV)/.test  ## what runs through Keras on PyTorch; experiments, examples and guides
	KERAS_BACKEND=torch $(PYTEST) -m "backend or eager"

texts: $(VENV)/.test  ## tokenizers against transformers on 20 000 texts, some 300 in `make test`
	TEXTS=20000 $(PYTEST) tests/text/test_json_tokenizers.py -k transformers

bench: $(VENV)/.test  ## the benchmarks, one after the other
	set -e; for file in benchmarks/*.py; do $(BIN)/python $$file; done

# Each of them ends with an error if anything fell.
faults: $(VENV)/.test  ## attack, kill and damage what there is, for an hour; tables of what fell
	FAULTS=1 KERAS_BACKEND=tensorflow $(PYTEST) tests/checkpoints/test_writers.py
	set -e; for file in tests/support/faults_*.py; do $(BIN)/python $$file; done
	set -e; for backend in tensorflow jax torch; do \
	  KERAS_BACKEND=$$backend $(BIN)/python tests/models/test_threads.py 60; done

# The theme announces its successor at each start, which nobody who builds this can act on.
export NO_MKDOCS_2_WARNING = 1

docs: $(VENV)/.test  ## build the site of the documents in build/docs; the tests do so too
	$(BIN)/python -m mkdocs build --strict

docs-serve: $(VENV)/.test  ## serve it at http://127.0.0.1:8000, built again after each change
	$(BIN)/python -m mkdocs serve

clean:  ## remove the environment and all that tools have left
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installed in place, so that an edited file takes effect without a new installation. Without byte
# code of modules that nothing imports, which takes longer to make than all the rest.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --no-compile

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found; run make PYTHON=/path/to/one"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(PIP) -e ".[examples]"
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(PIP) "$(TORCH)"
	$(PIP) -e ".[test]"
	@touch $@ $(VENV)/.demo
