# make demo   sets up a virtual environment, runs the closed loop on sample anatomy, writes report.html
# make test   sets up if needed, then scripts/check and scripts/test
# make bench  every speed claim beside its peer, under 20 minutes; writes bench.json, bench.md, bench.svg
# make gpu    where there is a CUDA device: the same numbers, whole scans, memory, times; minutes
# make torture  what a host and its readers bear: kills, cuts, fuzz, soak, concurrency, idle peers; takes hours,
#               make torture SHORT=1 seconds
# make audit  known faults of what is installed (pip-audit), and a list of it (sbom.json, CycloneDX)
# make docs   the pages of docs/ as a site in site/
# make setup  only the virtual environment
#
# TORCH=cpu or TORCH=cuda chooses the build of torch on Linux: at first the CPU's, later the one that is there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= $(or $(patsubst $(VENV)/.installed-%,%,$(firstword $(wildcard $(VENV)/.installed-*))),cpu)
STAMP := $(VENV)/.installed-$(TORCH)
PIP := $(BIN)/python -m pip install --disable-pip-version-check
CPU_INDEX := https://download.pytorch.org/whl/cpu
CPU_TORCH := $(shell sed -n 's/^torch==.*/&+cpu/p' constraints.txt)

ifeq ($(filter $(TORCH),cpu cuda),)
$(error TORCH is '$(TORCH)', expected cpu or cuda)
endif

.PHONY: demo test bench gpu torture audit docs setup clean

demo: setup
	@echo "== the closed loop: host and scanner in two processes; writes report.html"
	$(BIN)/mnet demo

test: setup
	@echo "== format, lint and types"
	scripts/check
	@echo "== tests"
	scripts/test

bench: setup
	@echo "== benchmarks; other work on this machine distorts them"
	$(BIN)/python -m tests.benchmarks.bench

gpu: setup
	@$(BIN)/python -c "import torch, sys; torch.cuda.is_available() or sys.exit('no CUDA device: TORCH=cuda, mnet doctor')"
	$(BIN)/python -m pytest tests/gpu -m gpu
	$(BIN)/python -m tests.benchmarks.bench --only gpu

torture: setup
	$(BIN)/python -m tests.torture $(if $(SHORT),--short)

audit: setup
	$(PIP) --quiet -c constraints.txt -e ".[$(TORCH),audit]" || { echo \
	  "the tools of the audit are not here and cannot be loaded: is there a network?" >&2; exit 1; }
	scripts/audit

docs: setup
	scripts/docs

setup: $(STAMP)

# PyTorch's index is asked for torch alone. Where it cannot be reached, a file that pip is told of
# (`pip config list`: find-links) does as well, and nothing else waits for it.
$(STAMP): pyproject.toml constraints.txt
	@echo "== virtual environment in $(VENV), torch for $(TORCH) (docs/install.md says what this downloads)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(TORCH) $(shell uname -s),cpu Linux)
	$(PIP) --quiet --no-deps --index-url $(CPU_INDEX) $(CPU_TORCH) || { echo \
	  "$(CPU_TORCH) is not at $(CPU_INDEX), nor where \`pip config list\` points: make setup TORCH=cuda" >&2; exit 1; }
endif
	$(PIP) --quiet -c constraints.txt -e ".[$(TORCH),demo,docs,test,check]"
	rm -f $(VENV)/.installed*
	touch $(STAMP)

clean:
	rm -rf $(VENV) site report.html
