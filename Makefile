# The commands of the house. They need make and Python >= 3.11; everything else is brought into .venv.

VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

# The settings of the caller's shell must not reach into .venv; and without bytecode every start
# of pitr would compile the whole package again.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help demo demo-postgres test test-matrix lint check fast format docs bench soak test-s3 clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/run-ready ## See rows lost and brought back, on a throw-away database
	@$(BIN)/pitr demo

demo-postgres: $(VENV)/run-ready ## The same on a PostgreSQL server that is started for it
	@sh tools/demo_postgres.sh

test: lint ## Everything CI runs: lint, types and every test but soak and s3
	$(BIN)/python -m pytest -n $(WORKERS)

test-matrix: lint ## The PostgreSQL tests on every version, 13 to 18
	$(BIN)/python -m pytest -n $(WORKERS) --every-major -k pg1

lint: $(VENV)/dev-ready ## ruff, its formatter, and mypy --strict
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

check: lint ## lint and the rules of the house: no slow test
	$(BIN)/python -m pytest tests/test_tidy.py tests/test_import_order.py tests/test_docs.py

fast: $(VENV)/dev-ready ## The tests that need no second process, in seconds
	$(BIN)/python -m pytest tests/unit tests/test_tidy.py tests/test_import_order.py

format: $(VENV)/dev-ready ## Rewrite the source as `check` wants it
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/dev-ready ## Write the generated documents again
	$(BIN)/python tools/gen_errors_doc.py
	$(BIN)/python tools/gen_row_classes_doc.py

bench: $(VENV)/dev-ready ## Measure beside plain SQLite and a peer; prints ratios
	$(BIN)/python -m bench

soak: $(VENV)/dev-ready ## Hours of kills, outages and repairs, and of damaged bytes for every decoder
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check 'atheris>=3,<4'
	$(BIN)/python -m pytest --hypothesis-profile=search tests/unit tests/property
	$(BIN)/python -m pytest -m soak -o timeout=7200 -o faulthandler_timeout=0

test-s3: $(VENV)/dev-ready ## The store tests against a real S3 server, brought along
	$(BIN)/python tools/s3_servers.py ceph
	$(BIN)/python -m pytest -m s3; code=$$?; $(BIN)/python tools/s3_servers.py stop; exit $$code

clean: ## Remove .venv, caches and everything built
	rm -rf $(VENV) build dist *.egg-info .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find pitr tests tools bench sql -name __pycache__ -prune -exec rm -rf {} +
	rm -f pitr/_speedups*.so

C_SOURCE := $(wildcard pitr/_speedups.c)

$(VENV)/run-ready: pyproject.toml tools/bootstrap.sh $(C_SOURCE)
	@sh tools/bootstrap.sh run

$(VENV)/dev-ready: pyproject.toml tools/bootstrap.sh $(C_SOURCE)
	@sh tools/bootstrap.sh dev
