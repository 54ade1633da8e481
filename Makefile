# make demo   the main job on two photographs, about two minutes from a fresh clone
# make test   lint, types and tests; those that look at a report need chromium, and are skipped without
# make test-fast   the quick ones of them, for daily work: about a minute on two cores
# make test-processors   what must hold on every processor, in the arithmetic of three others
# make lint   lint and types
# make clean  remove the environment and the tools' caches; runs/ stays

VENV ?= .venv
PYTHON ?= python3

BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-fast test-processors lint clean
.DELETE_ON_ERROR: # half an environment must not pass for a whole one

demo: $(VENV)/.installed
	$(BIN)/python train.py

test: lint
	$(MAKE) test-fast
	$(BIN)/python -m pytest -m "slow or browser"
	$(MAKE) test-processors

test-fast: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow and not browser" -n 2 --dist loadfile

# Other kernels of MKL, torch's own without vector instructions, and sums that threads divide. A
# torch without MKL ignores the first. Only files with such tests are read: that saves ten seconds.
test-processors: ROUNDING = -m rounding $(shell grep -l mark.rounding tests/test_*.py)
test-processors: $(VENV)/.installed-test
	MKL_CBWR=COMPATIBLE $(BIN)/python -m pytest $(ROUNDING)
	ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest $(ROUNDING)
	OMP_NUM_THREADS=3 MKL_NUM_THREADS=3 MKL_DYNAMIC=FALSE TEST_THREADS=3 \
	  $(BIN)/python -m pytest $(ROUNDING)

lint: $(VENV)/.installed-test
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

# A stamp is as old as the installation that it stands for, so a changed requirement redoes it.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV): some minutes and, with CUDA, 6 GB, the first time."
	$(INSTALL) -e .
	@touch $@

# The test installation contains the other one; both stamps spare `make demo` a second look.
$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV): some minutes and, with CUDA, 6 GB, the first time."
	$(INSTALL) -e '.[test]'
	@touch $(VENV)/.installed $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "lit_recon needs Python 3.10 or newer: make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)

# Only what looks like a virtual environment is removed, whatever VENV was set to.
clean:
	@if [ -f $(VENV)/pyvenv.cfg ]; then rm -rf $(VENV); fi
	rm -rf .pytest_cache .mypy_cache .ruff_cache dist
