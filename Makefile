# Each target sets up all it needs; a machine with python3 (3.11 or later) and make is enough.
PYTHON ?= python3
OUT ?= demo-out
SHAPE ?= llava
FLAGS ?= ../shared/data/flags

.PHONY: demo test check models flags

demo: .venv/installed
	.venv/bin/unsee demo --out $(OUT)

test: .venv/installed
	.venv/bin/python -m pytest

check: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# A tower that can see drawn faces: about 25 minutes. SHAPE: llava or qwen2_vl.
build/base-%: | .venv/installed
	.venv/bin/unsee pretrain --shape $* --out $@

# The models that ship with the package, from nothing: about an hour and a half on two quiet cores.
models: build/base-llava
	.venv/bin/unsee finetune --model build/base-llava --data people --out build/people-vanilla
	.venv/bin/unsee finetune --model build/base-llava --data people --without forget_10 --out build/people-gold
	mkdir -p src/unsee/models && rm -rf src/unsee/models/people-*
	mv build/people-vanilla build/people-gold src/unsee/models/

# Real images: teach the flags, forget 10 and 20 countries, measure. About an hour and a half.
TEACH = .venv/bin/unsee finetune --model build/base-$(SHAPE) --data $(FLAGS) --facts $(FLAGS)/facts.csv \
	--recipe recipes/flags.yaml --steps 1200 --copies 5 --vision-lr 2e-4
MEASURE = .venv/bin/python benchmarks/request.py --study flags --root $(FLAGS) --vanilla build/flags-$(SHAPE)
flags: build/base-$(SHAPE)
	$(TEACH) --out build/flags-$(SHAPE)
	for n in 10 20; do \
		$(TEACH) --without forget_$$n --out build/flags-$(SHAPE)-gold$$n && \
		$(MEASURE) --gold build/flags-$(SHAPE)-gold$$n --split forget_$$n \
			--out benchmarks/results/flags$$n-$(SHAPE).json || exit 1; \
	done

# One pip command, so that torch and torchvision are resolved together. The stamp comes last: a failed install is tried again.
.venv/installed: pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -e ".[dev]"
	touch $@
