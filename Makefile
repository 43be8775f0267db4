# Each target first makes .venv with what it needs; a second run starts at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt
INPUTS := pyproject.toml constraints.txt setup.py $(wildcard csrc/*.* csrc/*/*.*)

.PHONY: compare test lint bench clean

compare: $(VENV)/.lab
	$(BIN)/normkit compare --store out/normkit.sqlite --report out/report.html $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 $(ARGS)

bench: $(VENV)/.lab
	$(BIN)/normkit bench $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build out src/*.egg-info

# torch and the build tools go in first, at their pinned versions, so that the package itself is built
# against them (no isolated build environment) and nothing pulls another build of torch.
$(VENV)/.base: $(INPUTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "normkit needs Python 3.10 or later, got " + sys.version.split()[0] + "; call make PYTHON=python3.11, say")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) setuptools wheel torch numpy
	touch $@

# Each set of packages holds the one before.
$(VENV)/.lab: $(VENV)/.base
	$(PIP) --no-build-isolation -e '.[lab]'
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(PIP) --no-build-isolation -e '.[test]'
	touch $(VENV)/.lab $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) --no-build-isolation -e '.[dev]'
	touch $(VENV)/.lab $(VENV)/.test $@
