# Every target works in a virtual environment of its own making. Variables, given as `make test VENV=elsewhere`:
PYTHON ?= python3
VENV ?= .venv
# Further flags for pip, for instance the index of PyTorch's CPU builds (see README.md).
PIP_FLAGS ?=
# Which tests `make test` runs, and further arguments for pytest.
MARKS ?= not slow and not gpu
PYTEST_FLAGS ?=

# The model of early fusion that stands beside the default in the demo.
EARLY := openmoji-4-concat-early

BIN := $(VENV)/bin

.PHONY: help install install-dev demo test test-slow lint format types site site-deploy train-smoke wheel clean

help:
	@echo "make demo         install, draw with an early and the intermediate model, judge counts and relations, write the report"
	@echo "make test         the tests (test-slow: those that take long; PYTEST_FLAGS=\"-n 2\" on two cores)"
	@echo "make lint         ruff's checks and format (make format applies them), and the contract of imports"
	@echo "make types        pyright"
	@echo "make site         the documentation as a site, in out/site (site-deploy: on GitHub Pages)"
	@echo "make train-smoke  the whole way on the CPU in minutes: scenes, encoding, training, images"
	@echo "make wheel        build dist/*.whl"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The package is installed editable: only a change of its requirements needs another installation.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

demo: $(VENV)/.installed
	$(BIN)/ifuvit generate --prompts-file examples/demo-prompts.txt --guidance-scale 2 --beside $(EARLY) --out demo
	$(BIN)/ifuvit generate --prompt-set paper --images-per-prompt 5 --guidance-scale 2 --beside $(EARLY) --out demo/counting
	$(BIN)/ifuvit generate --prompt-set relations --guidance-scale 2 --beside $(EARLY) --out demo/relations
	for images in counting counting/beside-$(EARLY) relations relations/beside-$(EARLY); do \
	    $(BIN)/ifuvit evaluate demo/$$images --metrics counts --out demo/$$images/counts.json || exit 1; \
	done
	$(BIN)/ifuvit report results demo --out demo/report.html
	@echo
	@echo "Open in a browser:"
	@echo "  $(CURDIR)/demo/index.html    the images"
	@echo "  $(CURDIR)/demo/report.html   how good the model is, what it costs, and how sure that is"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "$(MARKS)" $(PYTEST_FLAGS)

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "slow and not gpu" $(PYTEST_FLAGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

# mkdocs-material says on every build that it has a successor.
site: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

site-deploy: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs gh-deploy --strict --force

train-smoke: $(VENV)/.installed-dev # matplotlib draws the loss
	PATH="$(abspath $(BIN)):$$PATH" bash examples/train_smoke.sh out/train-smoke

wheel: $(BIN)/python
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist .

clean:
	rm -rf build dist demo out/train-smoke .pytest_cache .ruff_cache .import_linter_cache
