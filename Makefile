# One command per purpose; `make help` lists them. Nothing here needs an activated environment.
comma := ,
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV   := .venv
PIP    := $(VENV)/bin/python -m pip install -q --no-compile # half the time: most modules are never imported
# What torch needs is there before it comes, so that it can be installed beside the rest. Its CUDA builds bring more.
FOR_TORCH := filelock fsspec jinja2 networkx sympy typing_extensions
STAMP  := $(VENV)/.stamp-$(shell cat constraints.txt pyproject.toml | cksum | tr ' ' '-')
KERNELS := $(VENV)/.kernels-$(shell cat constraints.txt ldebm/kernels/*.{cpp,h,py} | cksum | tr ' ' '-')
RUN    ?=
SEEDS  ?=
EPOCHS ?=
JOBS   ?= 3# of the tests, some of which wait for servers: one more than there are cores

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUNBUFFERED := 1
unexport PYTHONHOME VIRTUAL_ENV PYTHONDONTWRITEBYTECODE

PYTEST := python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder
SELECT := $(strip $(subst $(comma), ,$(RUN)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(EPOCHS),--epochs $(EPOCHS)))

.PHONY: help setup repro select test test-all lint types unit bench bench-check report experiments results docs gpu-campaign server worker clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/' | \
	  awk -F'\t' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(STAMP) $(KERNELS) ## Make .venv with the pinned packages, and the kernels (nothing when they are there)

$(STAMP): # its name holds the hash of the pins: a checkout that only touches them installs nothing
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"Python {v[0]}.{v[1]}: expected 3.11 to 3.13; give another with PYTHON=")'
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "setup: installing into $(VENV) (log: setup.log)"
	@{ $(PIP) -c constraints.txt pip && $(PIP) -c constraints.txt setuptools $(FOR_TORCH) && \
	   { $(PIP) -c constraints.txt "$$(grep '^torch==' constraints.txt)" & torch=$$!; \
	     $(PIP) --no-deps -r <(grep -vE '^(#|torch==)' constraints.txt); rest=$$?; wait $$torch && (exit $$rest); } && \
	   $(PIP) -c constraints.txt --no-build-isolation -e '.[pipeline,docs,dev]'; \
	 } > setup.log 2>&1 || { grep -vE '^WARNING' setup.log | tail -n 20; echo "setup: failed, see setup.log"; exit 1; }
	@rm -f $(VENV)/.stamp-* && touch $@

$(KERNELS): $(STAMP) # where there is no compiler it says so once, and plain PyTorch is used
	@python -m ldebm.kernels.build
	@rm -f $(VENV)/.kernels-* && touch $@

repro: setup ## Build what params.yaml selects; RUN=group or experiment, SEEDS=0,1,2 and EPOCHS=n select first
	@$(if $(SELECT),ldebm select $(SELECT))
	@ldebm build
	@echo "report: site/index.html"

test: setup lint ## Lint, strict types, and all tests (mypy and the smoke pipeline are two of them)
	@$(PYTEST) -m "not long"

test-all: setup lint ## The same with the long tests: Postgres, two workers, every command of the guides
	@$(PYTEST)

unit: setup ## Only the quick tests
	@python -m pytest -q -m "not slow and not gpu and not pipeline"

lint: setup ## ruff: rules and format
	@ruff check .
	@ruff format --check .

types: setup ## mypy, strict
	@mypy

bench: setup ## Measure speed against the published procedure in plain PyTorch; writes reports/bench.json
	@python -m benchmarks.run

bench-check: setup ## Measure the ratios of results/bench.json again, quickly; fails where one fell by half
	@python -m benchmarks.run --check results/bench.json

report: setup ## Build the report of what is there: site/index.html
	@dvc repro -s report
	@echo "report: site/index.html"

experiments: setup ## List the runs of `dvc exp`: what was changed, and what came out
	@ldebm experiments

results: setup ## Record evaluated runs in results/ and write docs/results.md; RUN=experiment records one
	@python -m stages.results $(RUN)

docs: setup ## Build the documentation into docs-site/ (guides, and the reference from the docstrings)
	@NO_MKDOCS_2_WARNING=1 mkdocs build -q
	@echo "docs: docs-site/index.html"

CAMPAIGN ?= campaign
MINUTES  ?= 0
gpu-campaign: setup ## Queue of the PTB runs and benchmarks for a GPU machine; resumable; CAMPAIGN=folder MINUTES=n
	@python -m benchmarks.campaign --prepare $(CAMPAIGN)
	@python -m benchmarks.campaign --run $(CAMPAIGN) --out $(CAMPAIGN)/out --minutes $(MINUTES)

server: setup ## Start Prefect's server on this machine (http://127.0.0.1:4200); docs/operations.md
	@prefect server start

worker: setup ## Register prefect.yaml with the server and work on its runs
	@deploy/worker.sh

clean: ## Remove stage outputs and half-finished work, not the DVC cache and not .venv
	@git clean -qfdX -- data models reports site lineage .ckpt dvc_plots
