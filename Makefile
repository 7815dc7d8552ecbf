# `make demo` and `make test` need python3.11 and make, nothing else.
# For another Python: make test PYTHON=python3.13 VENV=.venv3.13

PYTHON ?= python3.11
VENV ?= .venv
LOCK := requirements/python$(shell $(PYTHON) -c \
  'import sys; print("%d.%d" % sys.version_info[:2])').txt
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The site is made in an environment of its own: it needs none of the package,
# whose docstrings are read and not imported.
SITE_VENV := $(VENV)-docs

.PHONY: demo install test docs notebooks lock clean

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

# The pages are in build/site. A warning is an error.
docs: $(SITE_VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(SITE_VENV)/bin/mkdocs build --quiet --strict \
	  --config-file .ci/site/mkdocs.yml

# Executes colabs/, and keeps the outputs in it.
notebooks: $(READY)
	$(BIN)/python .ci/notebooks.py --write

$(SITE_VENV)/.ready: requirements/docs.txt
	$(PYTHON) -m venv --clear $(SITE_VENV)
	$(SITE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(SITE_VENV)/bin/uv pip sync --quiet --python $(SITE_VENV)/bin/python \
	  --require-hashes requirements/docs.txt
	touch $@

# One lock for each Python, with the newest versions that setup.py allows, and
# one for the site.
lock: $(READY)
	for version in 3.10 3.11 3.12 3.13; do \
	  $(BIN)/uv pip compile --quiet --upgrade pyproject.toml --all-extras \
	    requirements/tff.txt --python-version $$version \
	    --python-platform x86_64-manylinux_2_31 --generate-hashes \
	    --no-emit-index-url --no-annotate \
	    --custom-compile-command 'make lock' \
	    --output-file requirements/python$$version.txt || exit 1; \
	done
	$(BIN)/uv pip compile --quiet --upgrade --group docs --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_31 --generate-hashes \
	  --no-emit-index-url --no-annotate --custom-compile-command 'make lock' \
	  --output-file requirements/docs.txt

clean:
	rm -rf $(VENV) $(SITE_VENV) build/site
