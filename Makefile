# `make demo` and `make test` need python3.11 and make, nothing else.
# For another Python: make test PYTHON=python3.13 VENV=.venv3.13

PYTHON ?= python3.11
VENV ?= .venv
LOCK := requirements/python$(shell $(PYTHON) -c \
  'import sys; print("%d.%d" % sys.version_info[:2])').txt
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo install test lock clean

demo: $(READY)
	$(BIN)/tff-secagg demo

install: $(READY)

test: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses=2 --dist=worksteal

# The package goes last and by itself: the lock already has all it needs. What
# is compiled here, each process of the tests and of the demo need not compile.
$(READY): $(LOCK) setup.py pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python \
	  --require-hashes $(LOCK)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps \
	  --no-build-isolation --editable .
	touch $@

# One lock for each Python, with the newest versions that setup.py allows.
lock: $(READY)
	for version in 3.10 3.11 3.12 3.13; do \
	  $(BIN)/uv pip compile --quiet --upgrade pyproject.toml --all-extras \
	    requirements/tff.txt --python-version $$version \
	    --python-platform x86_64-manylinux_2_31 --generate-hashes \
	    --no-emit-index-url --no-annotate \
	    --custom-compile-command 'make lock' \
	    --output-file requirements/python$$version.txt || exit 1; \
	done

clean:
	rm -rf $(VENV)
