# make demo     the whole loop on this machine: a real Kafka, two workers, training, live traffic, a swap
# make test     lint, format, types and all tests
# make setup    .venv with everything; the other targets call it. PYTHON=python3.13 chooses the interpreter
# make format, make lint, make docs (the generated reference), make constraints (newer pins), make clean

PYTHON ?= python3
UV := uv==0.13.9

.PHONY: setup demo test lint format docs constraints clean

setup: .venv/complete

demo: setup
	@.venv/bin/python -m ops demo

test: lint
	.venv/bin/pytest --numprocesses 2 --dist loadfile

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs: setup
	.venv/bin/python -m ops.reference

constraints: setup
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --upgrade --extra dev \
		--custom-compile-command "make constraints" --output-file constraints.txt pyproject.toml

clean:
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache

.venv/complete: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "$(PYTHON) must be Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check $(UV)
	.venv/bin/uv pip install --python .venv/bin/python --constraints constraints.txt --editable ".[dev]"
	@touch $@
