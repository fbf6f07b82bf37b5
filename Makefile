# make demo and make test are all a newcomer needs; the environment is made on the way, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs

.PHONY: help demo test check format docs bench bench-gpu bench-page clean

help:  ## say what there is
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/'

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "fewseg needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	@touch $@

demo: $(STAMP)  ## teach with a few images, segment others, say where the sheet is
	$(BIN)/fewseg demo

test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

check: $(STAMP)  ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DOCS_STAMP)  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(STAMP)  ## measure speed and memory on this machine
	$(BIN)/fewseg bench --out bench_output/cpu --device cpu
	@for script in benchmarks/bulk.py benchmarks/server_load.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

bench-gpu: $(STAMP)  ## the same tables on a GPU, after the correctness tests of its kernels
	$(BIN)/python -m pytest tests/models/test_mask_aggregation*.py tests/benchmarks
	$(BIN)/fewseg bench --out bench_output/gpu --device cuda

bench-page: $(STAMP)  ## put what make bench and make bench-gpu measured into docs/lab/performance.md
	@for place in cpu gpu; do test ! -f bench_output/$$place/results.json || $(BIN)/python scripts/fill_performance.py \
	  bench_output/$$place --place $$place || exit 1; done

clean:  ## remove the environment and everything that was built
	rm -rf $(VENV) build dist site demo_output bench_output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
