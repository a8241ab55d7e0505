# hedgerow's tasks. `make` alone lists them; each installs what it needs first.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS := dev,pipelines,serving,device,client,governance,postgres,traces

# The first Python that is new enough; `make setup PYTHON=...` names another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && exit; \
	done; echo python3)

PROTOS := $(wildcard proto/*/v1/*.proto)
# protoc finds mypy's plug-ins on PATH. $(1) is the folder that the stubs go to.
PROTOC = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto \
	--python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) $(PROTOS)

BENCHMARKS := $(patsubst benchmarks/%.py,benchmarks.%,$(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)))

.PHONY: help setup demo test test-all check check-lint check-types check-imports check-proto proto bench

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## Install everything into .venv, once; again only when pyproject.toml or constraints.txt change

$(READY): pyproject.toml constraints.txt Makefile
	@command -v $(PYTHON) >/dev/null || { echo "problem  no $(PYTHON) on PATH: install Python 3.11 or newer" >&2; exit 2; }
	@$(PYTHON) -I governance/doctor.py
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "Creating $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing hedgerow and its dependencies into $(VENV) (2 to 5 minutes the first time) ..."
	@start=$$SECONDS; $(BIN)/python -m pip install -qq --no-input --disable-pip-version-check --progress-bar off \
		-e ".[$(EXTRAS)]" -c constraints.txt; echo "Installed in $$((SECONDS - start)) s."
	@touch $@

demo: $(READY) ## Run the whole platform on generated events and write its report
	@$(BIN)/hedgerow demo

test: check ## Run the checks, then the tests
	@$(BIN)/python -m pytest -q -m "not long"

test-all: check ## The same, with the tests that take long
	@$(BIN)/python -m pytest -q

check: check-lint check-types check-imports check-proto ## Lint, formatting, types, import contracts, generated code

check-lint: $(READY)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check || { $(BIN)/ruff format --check; exit 1; }

check-types: $(READY)
	@$(BIN)/mypy --no-error-summary

check-imports: $(READY)
	@report=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$report"; exit 1; }

check-proto: $(READY)
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; $(call PROTOC,"$$fresh"); \
	for folder in $(sort $(patsubst proto/%,%,$(dir $(PROTOS)))); do \
		diff -r --exclude=__pycache__ --exclude=__init__.py "$$fresh/$$folder" "$$folder" \
			|| { echo "generated code in $$folder is not what proto/ gives: run make proto" >&2; exit 1; }; \
	done
	@$(BIN)/buf lint proto
	@$(BIN)/buf breaking proto --against proto/baseline.binpb

proto: $(READY) ## Generate the gRPC code beside its packages from proto/
	@$(call PROTOC,.)

bench: $(READY) ## Run every benchmark; each prints JSON
	@for benchmark in $(BENCHMARKS); do $(BIN)/python -m "$$benchmark"; done
