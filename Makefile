# Everything a person or CI runs here. `make help` lists the targets; all paths are relative, so the clone may lie anywhere.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

UV_VERSION := 0.13.9
VENV := .venv
STAMP := $(VENV)/.complete
# the stage commands of dvc.yaml say `python`: the environment's one comes first
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export PYTHONUNBUFFERED := 1
# every stage is a process: without bytecode each would compile the project anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup lock pseudo lint test demo compare ablate server bench clean distclean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## (.*)$$/  make \1\t\2/' | expand -t 18

setup: $(STAMP)  ## make the Python environment in .venv from requirements.lock (does nothing when it is there)

# The stamp goes first and comes last: an interrupted set-up, or a changed lock file, is done again.
$(STAMP): requirements.lock pyproject.toml
	@rm -f $@
	@python=""; for candidate in "$${PYTHON:-}" python3.11 python3 python; do \
	  if [ -n "$$candidate" ] && "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make setup: expected Python 3.11 as python3.11 or python3 on PATH, got: $$(python3 --version 2>&1 || true). Install it, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	if ! $(VENV)/bin/python -c 'import pip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
	  echo "Making $(VENV) with $$("$$python" --version)"; "$$python" -m venv --clear $(VENV); \
	fi
	@echo "Installing the pinned packages (about 6 GB on disk; a minute or two, then never again)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(VENV)/bin/python -m uv pip install --python $(VENV)/bin/python --compile-bytecode -r requirements.lock
	@$(VENV)/bin/python -m uv pip install --python $(VENV)/bin/python --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# UV_CONSTRAINT may name a file of versions to stay with.
lock: setup  ## resolve requirements.in into requirements.lock
	python -m uv pip compile --no-header --no-emit-index-url --no-annotate --python-version 3.11 --output-file requirements.lock requirements.in

# Its packages do not go with this project's, so they live beside them; the stage finds them there.
pseudo: setup  ## install what labels photos (mediapipe, 0.9 GB) into an environment of its own, .venv/pseudo
	@python -m uv venv --quiet --allow-existing --python $(VENV)/bin/python $(VENV)/pseudo
	@python -m uv pip install --python $(VENV)/pseudo/bin/python \
	  "$$(python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["pseudo"])')"

lint: setup  ## ruff and mypy
	python -m ruff check .
	python -m mypy handnet pipelines flows

# one more than there are cores: tests of servers wait much of their time
TEST_PROCESSES := $(shell cores=$$(nproc); echo $$((cores < 4 ? cores + 1 : 4)))

test: lint  ## lint, then the whole test suite
	python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

demo: setup  ## the whole chain on the embedded default: data, training, evaluation, submission, report
	@python -m pipelines.preset --check
	python -m dvc repro
	@python -m pipelines.summary

# REVS may name commits, branches, tags, experiments or workspace
compare: setup  ## runs side by side: changed params, headline figures, and a page with all curves on one axis
	@python -m pipelines.compare $(REVS)

# NAME: losses, centers, supervision or augmentation; SEEDS may be given
ablate: setup  ## one of the paper's ablations as DVC experiments, and its table: make ablate NAME=centers SEEDS=0,1,2
	@python -m pipelines.ablate $(NAME) $(if $(SEEDS),--seeds $(SEEDS))

# PORT and GPUS may be given; everything the server keeps is in .prefect/
server: setup  ## a Prefect server, worker and deployments on this machine, until Ctrl-C; then: prefect deployment run train-multi/local
	@exec python -m flows.server $(if $(PORT),--port $(PORT)) $(if $(GPUS),--gpus $(GPUS))

bench: setup  ## measure the fast routines (benchmarks/)
	@for script in benchmarks/*.py; do echo "== $$script"; python "$$script"; done

clean:  ## remove what the stages made (DVC's cache keeps it: `make demo` brings it back) and the tools' caches
	rm -rf data models logs results submissions reports checkpoints checks dvc_plots comparisons ablations build
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean  ## clean, and remove the environment and DVC's cache too
	rm -rf $(VENV) .dvc/cache .dvc/tmp
