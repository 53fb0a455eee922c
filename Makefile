# Each target sets up all it needs; a machine with python3 (3.11 or later) and make is enough.
PYTHON ?= python3
OUT ?= demo-out

.PHONY: demo test check models

demo: .venv/installed
	.venv/bin/unsee demo --out $(OUT)

test: .venv/installed
	.venv/bin/python -m pytest

check: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# The models that ship with the package, from nothing: about 40 minutes on two quiet cores.
models: .venv/installed
	.venv/bin/unsee pretrain --shape llava --out build/people-base
	.venv/bin/unsee finetune --model build/people-base --data people --out build/people-vanilla
	.venv/bin/unsee finetune --model build/people-base --data people --without forget_10 --out build/people-gold
	mkdir -p src/unsee/models && rm -rf src/unsee/models/people-*
	mv build/people-vanilla build/people-gold src/unsee/models/

# One pip command, so that torch and torchvision are resolved together. The stamp comes last: a failed install is tried again.
.venv/installed: pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -e ".[dev]"
	touch $@
