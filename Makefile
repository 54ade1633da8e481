# make demo   train and reconstruct on two photographs, about two minutes from a fresh clone
# make test   lint, types and tests; without chromium, the tests of the report are skipped
# make test-fast   the quick tests, for daily work: some minutes on two cores
# make test-long   the long tests, which `make test` leaves out: whole benchmarks and other repeats
# make test-processors   the rounding tests under each of three arithmetics of other processors;
#   `make test` runs them once, under all three together
# make lint   lint and types
# make docs   the documentation, in site/index.html; needs no network once installed
# make clean  remove the environment, the documentation and the tools' caches; runs/ stays

VENV ?= .venv
PYTHON ?= python3

BIN := $(VENV)/bin
# Without --no-compile, pip compiles every file of every package: a minute, for the few that are used.
# Those must then be kept when they are first imported: compiling them takes longer than the import.
unexport PYTHONDONTWRITEBYTECODE
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt

.PHONY: demo test test-long test-fast test-processors other-processor other-mkl no-vectors \
  three-threads lint docs clean
.DELETE_ON_ERROR: # an incomplete environment must not count as installed

demo: $(VENV)/.installed
	$(BIN)/python train.py

# lint and the rounding tests keep one core busy, so they run beside each other. Then one start of
# pytest: each of its processes imports for ten seconds.
test: $(VENV)/.installed-test
	$(BESIDE) lint other-processor
	$(PYTEST) -m "not long"

test-long: $(VENV)/.installed-test
	$(PYTEST) -m long

test-fast: $(VENV)/.installed-test
	$(PYTEST) -m "not slow and not browser and not long"

# A file stays in one process, for its fixtures; tests/conftest.py puts the files in order.
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Three settings: other MKL kernels (no effect without MKL), torch's own kernels without vector
# instructions, and three threads. `make test` has all three at once; alone, each says which of them
# a test fails with. Only files with such tests are collected: this saves ten seconds.
# POLISHING asks for an error of 0.8 times the one before, and all three at once gave 0.82 (1e-7 in
# each of twelve problems, where float32 ends); so it runs with each alone, and in plain arithmetic.
# Two at a time, because each alone keeps one core busy; their output does not mix, where make is
# new enough for that.
BESIDE = $(MAKE) -j2 --no-print-directory $(if $(filter output-sync,$(.FEATURES)),--output-sync)
MKL = MKL_CBWR=COMPATIBLE
VECTORS = ATEN_CPU_CAPABILITY=default
THREADS = OMP_NUM_THREADS=3 MKL_NUM_THREADS=3 MKL_DYNAMIC=FALSE TEST_THREADS=3
ROUNDING = $(BIN)/python -m pytest $(shell grep -l mark.rounding tests/test_*.py) -m
POLISHING = tests/test_stages.py::test_polishing_lowers_the_error
test-processors: $(VENV)/.installed-test
	$(BESIDE) other-mkl no-vectors three-threads

other-processor: $(VENV)/.installed-test
	$(MKL) $(VECTORS) $(THREADS) $(ROUNDING) "rounding and not long" --deselect $(POLISHING)

other-mkl: $(VENV)/.installed-test
	$(MKL) $(ROUNDING) rounding

no-vectors: $(VENV)/.installed-test
	$(VECTORS) $(ROUNDING) rounding

three-threads: $(VENV)/.installed-test
	$(THREADS) $(ROUNDING) rounding

lint: $(VENV)/.installed-test
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

# The variable turns off an advertisement, which would look like a warning.
docs: $(VENV)/.installed-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# The stamp has the time of the installation, so a changed requirement starts a new one.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV): some minutes and, with CUDA, 6 GB, the first time."
	$(INSTALL) -e .
	@touch $@

# This installation contains the other one, so it writes both stamps.
$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV): some minutes and, with CUDA, 6 GB, the first time."
	$(INSTALL) -e '.[test]'
	@touch $(VENV)/.installed $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "lit_recon needs Python 3.10 or newer: make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)

# Remove $(VENV) only if it is a virtual environment, because a user can set VENV to any folder.
clean:
	@if [ -f $(VENV)/pyvenv.cfg ]; then rm -rf $(VENV); fi
	rm -rf .pytest_cache .mypy_cache .ruff_cache dist site
