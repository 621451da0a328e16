# `make demo` and `make test` need only Python 3.11 or newer and make; each sets up .venv by itself.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
# Every test process uses one thread; pytest-xdist runs as many processes as there are cores, each its own part of the files
# (what a file sets up is set up once), and whoever is done first takes over from the others.
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

.PHONY: demo test lint format realdata soak browser clean

demo: $(VENV)/.plots
	$(BIN)/ilrec demo

test: $(VENV)/.test
	$(PYTEST) -n auto --maxprocesses 4 --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

realdata: $(VENV)/.test
	$(PYTEST) -m realdata

soak: $(VENV)/.test
	$(PYTEST) -m soak

# Needs Chromium: `apt-get install chromium`, or `.venv/bin/playwright install chromium`.
browser: $(VENV)/.browser
	$(PYTEST) -m browser

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; set PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# One stamp per extra; the package is installed in place, so code changes need no new install.
$(VENV)/.plots $(VENV)/.test $(VENV)/.dev $(VENV)/.browser: $(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing ilrec[$*] into $(VENV) (once; a few minutes)"
	$(PIP) -e '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info ilrec-demo
