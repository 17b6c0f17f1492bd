# make demo    train ResNet-20 on real images, and say what it learned (less than a minute)
# make study   identity against none over depths, 30 runs on digits, and their report (minutes)
# make claims  test every sentence of the idea, and write docs/claims.md (minutes)
# make test    the tests for each change (3 minutes)
# make test-all  these and the thorough ones
# make lint    style and types
# make docs    the pages as a site, in build/site
# PYTHON=...   the interpreter that .venv is made with; 3.11 or later

PYTHON ?= python3
VENV := .venv
RUN := runs/digits
STUDY := runs/study
PYTEST := $(VENV)/bin/python -m pytest -n 2 --dist=worksteal -rs
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
# uv installs in seconds what takes pip more than a minute: the one that is found, or one that is put into
# .venv; pip, where none can be had.
UV := PATH="$$PATH:$(CURDIR)/$(VENV)/bin" uv
define install
	@if $(UV) --version >/dev/null 2>&1 || $(PIP) uv 2>/dev/null; \
	then $(UV) pip install --quiet --python $(VENV)/bin/python -c constraints.txt pip $(1); \
	else $(PIP) -c constraints.txt $(1); fi
endef
# The demo's last words: the accuracy that the run wrote down.
define learned
import json
result = json.load(open("$(RUN)/result.json"))
print(f"The net names {result['top1']:.1%} of {result['n']} handwritten digits that it was not trained on;",
      "guessing would name 10 %.")
endef
export learned

.PHONY: demo study claims test test-all lint docs

demo: $(VENV)/installed
	$(VENV)/bin/python scripts/train.py --config=configs/digits.py --workdir=$(RUN)
	@printf '%s\n' 'checkpoints: $(RUN)/checkpoints' \
	  'metrics:     $(RUN)/metrics.jsonl (also TensorBoard: $(RUN)/tensorboard)' \
	  'curves:      $(RUN)/curves.png'
	@$(VENV)/bin/python -c "$$learned"

study: $(VENV)/installed
	$(VENV)/bin/python scripts/study.py --study=configs/studies/shortcut_on_off.py \
	  --study.scale=small --workdir=$(STUDY)
	$(VENV)/bin/python scripts/report.py --workdir=$(STUDY)

claims: $(VENV)/installed
	$(VENV)/bin/python scripts/claims.py --output=docs --workdir=runs/claims

test: $(VENV)/installed-dev
	$(PYTEST) -m 'not thorough and not slow'

test-all: $(VENV)/installed-dev
	$(PYTEST) -m 'not slow'

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'error: $(PYTHON) must be Python 3.11 or later; name one: make PYTHON=python3.12' >&2; \
	  exit 2; }
	@# Without pip in half the time; uv puts it there.
	$(PYTHON) -m venv $$($(UV) --version >/dev/null 2>&1 && echo --without-pip) $(VENV)

$(VENV)/installed: requirements.txt constraints.txt | $(VENV)/bin/python
	$(call install,-r requirements.txt)
	@touch $@

EXTRAS := $(foreach extra,dev export hub slurm,requirements-$(extra).txt)
$(VENV)/installed-dev: $(EXTRAS) $(VENV)/installed
	$(call install,-r requirements.txt $(EXTRAS:%=-r %))
	@# The converter to ONNX, at the version that the file of its companions names.
	$(call install,--no-deps $(shell grep -o 'jax2onnx==[0-9.]*' requirements-export.txt))
	@touch $@

$(VENV)/installed-docs: requirements-docs.txt $(VENV)/installed
	$(call install,-r requirements.txt -r requirements-docs.txt)
	@touch $@
