# Each target sets up all it needs; a machine with python3 (3.11 or later) and make is enough.
PYTHON ?= python3
OUT ?= demo-out

.PHONY: demo test check

demo: .venv/installed
	.venv/bin/unsee demo --out $(OUT)

test: .venv/installed
	.venv/bin/python -m pytest

check: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# One pip command, so that torch and torchvision are resolved together. The stamp comes last: a failed install is tried again.
.venv/installed: pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -e ".[dev]"
	touch $@
