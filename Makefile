# make demo   sets up a virtual environment, runs the closed loop on sample anatomy, writes report.html
# make test   sets up if needed, then scripts/check and scripts/test
# make bench  every speed claim beside its peer, under 20 minutes; writes bench.json, bench.md, bench.svg
# make setup  only the virtual environment

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test bench setup clean

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

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "== virtual environment in $(VENV) (the first time this downloads some 400 MB)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo,test,check]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) report.html
