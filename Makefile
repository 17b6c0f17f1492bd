# make demo    train ResNet-20 on real images, and evaluate it (about a minute)
# make study   identity against none over depths, 30 runs on digits, and their report (minutes)
# make claims  test every sentence of the idea, and write docs/claims.md (minutes)
# make test    the fast tests
# make lint    style and types
# make docs    the pages as a site, in build/site
# PYTHON=...   the interpreter that .venv is made with; 3.11 or later

PYTHON ?= python3
VENV := .venv
RUN := runs/digits
STUDY := runs/study
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
# uv installs in seconds what takes pip more than a minute: the one that is found, or one that is put into
# .venv; pip, where none can be had.
define install
	@PATH="$$PATH:$(CURDIR)/$(VENV)/bin"; \
	if uv --version >/dev/null 2>&1 || $(PIP) uv 2>/dev/null; \
	then uv pip install --quiet --python $(VENV)/bin/python -c constraints.txt $(1); \
	else $(PIP) -c constraints.txt $(1); fi
endef

.PHONY: demo study claims test lint docs

demo: $(VENV)/installed
	$(VENV)/bin/python scripts/train.py --config=configs/digits.py --workdir=$(RUN)
	@printf '%s\n' 'checkpoints: $(RUN)/checkpoints' \
	  'metrics:     $(RUN)/metrics.jsonl (also TensorBoard: $(RUN)/tensorboard)' \
	  'plots:       $(RUN)/curves.png' \
	  'test split:'
	@$(VENV)/bin/python scripts/evaluate.py --workdir=$(RUN)

study: $(VENV)/installed
	$(VENV)/bin/python scripts/study.py --study=configs/studies/shortcut_on_off.py \
	  --study.scale=small --workdir=$(STUDY)
	$(VENV)/bin/python scripts/report.py --workdir=$(STUDY)

claims: $(VENV)/installed
	$(VENV)/bin/python scripts/claims.py --output=docs --workdir=runs/claims

test: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest -n 2 --dist=worksteal -rs -m 'not slow'

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
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: requirements.txt constraints.txt | $(VENV)/bin/python
	$(call install,-r requirements.txt)
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt requirements-hub.txt requirements-slurm.txt $(VENV)/installed
	$(call install,-r requirements.txt -r requirements-dev.txt -r requirements-hub.txt -r requirements-slurm.txt)
	@touch $@

$(VENV)/installed-docs: requirements-docs.txt $(VENV)/installed
	$(call install,-r requirements.txt -r requirements-docs.txt)
	@touch $@
