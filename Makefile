# `make help` lists the targets. Needed: Python 3.11 or newer and its venv module; all else comes into .venv.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--extra worker --extra msk --extra traces --extra devstack --extra dev --extra docs --extra notebooks pyproject.toml
COMPILE_IMAGE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --extra worker --extra msk --constraint requirements.lock pyproject.toml
COMPILE_BUILD = $(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], \
	sep='\n')" | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -
SPARK := .venv-spark
SPARK_STAMP := $(SPARK)/.installed
COMPILE_SPARK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate benchmarks/peers/spark-requirements.in
# Tests and demo start hundreds of processes: each would compile all that it imports, a second and a half of it.
unexport PYTHONDONTWRITEBYTECODE
# Arguments for pytest, e.g. make test ARGS="tests/app -k settings"
ARGS ?=

.PHONY: help setup setup-spark demo docs test test-long laws chaos soak check lint types imports agreement dependencies format bench bench-long \
	lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with everything; .venv/bin/trs is the command

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=... setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

setup-spark: $(SPARK_STAMP) ## Make .venv-spark with Spark and its Java (500 MB), which only bench-long needs

$(SPARK_STAMP): $(STAMP) benchmarks/peers/spark-requirements.lock
	test -x $(SPARK)/bin/python || $(PYTHON) -m venv $(SPARK)
	$(BIN)/uv pip install --quiet --python $(SPARK)/bin/python --require-hashes \
		--requirement benchmarks/peers/spark-requirements.lock
	touch $@

demo: setup ## Show the whole path on real parts: database, Kafka, worker, lake, features as of two times
	$(BIN)/trs demo

docs: setup ## Build the documents as a site in build/site; a link or an anchor that leads nowhere ends it
	$(BIN)/python -m devstack.diagrams
	$(BIN)/zensical build --clean --strict

test: setup ## Run all tests but the long ones; those of the stack start it by themselves
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not long" $(ARGS)

test-long: setup ## Run the tests that say at more cost what others say as well: memory, kills, peers, statements by hand
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m long $(ARGS)

laws: setup ## Play RUNS (default 100) times 60 random histories through the laws of tests/processors, twice
	TRS_LAW_RUNS=$(or $(RUNS),100) $(BIN)/python -m pytest -n 2 tests/processors/test_rows_laws.py \
		tests/processors/test_cluster_laws.py tests/processors/test_sets_by_article.py $(ARGS)

chaos: setup ## Hurt workers, Kafka and S3 while the source changes (SEED=n FAULTS=n); the lake must be right
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(FAULTS),--faults $(FAULTS)) $(ARGS)

soak: setup ## Keep workers busy for MINUTES (default 30): memory, files, freshness must stay flat, the lake right
	$(BIN)/python -m tests.soak $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

check: lint types imports agreement dependencies ## Lint, format, types, import rules, lock files, vulnerabilities

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

agreement: setup
	@echo "requirements.lock agrees with pyproject.toml" && copy=$$(mktemp) && trap 'rm -f "$$copy"' EXIT && \
		cp requirements.lock "$$copy" && $(COMPILE) --output-file "$$copy" > /dev/null && diff requirements.lock "$$copy"
	@echo "requirements-worker.lock agrees with both" && copy=$$(mktemp) && trap 'rm -f "$$copy"' EXIT && \
		cp requirements-worker.lock "$$copy" && $(COMPILE_IMAGE) --output-file "$$copy" > /dev/null && \
		diff requirements-worker.lock "$$copy"
	@echo "docker-compose.yml agrees with devstack/declared.py" && \
		$(BIN)/python -m devstack.compose | diff docker-compose.yml -
	@echo "docs/data.md agrees with the declarations" && $(BIN)/python -m processors.dictionary | diff docs/data.md -
	@echo "docs/exit_codes.md agrees with the errors" && $(BIN)/python -m processors.exit_codes | diff docs/exit_codes.md -
	@echo "deploy/*.json agree with the declarations, and with CloudFormation" && $(BIN)/python -m deploy --check && \
		$(BIN)/cfn-lint --regions eu-west-1 us-east-1 -- deploy/*.json
	@! docker compose version > /dev/null 2>&1 || docker compose config --quiet

dependencies: setup ## Look for known vulnerabilities in the image's packages; its bill of materials into build/sbom.json
	$(BIN)/python -m deploy.dependencies

format: setup ## Sort imports and format the code
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

bench: setup ## Measure catch-up (beside stock Faust), freshness, epochs, workers, some 10 minutes (ARGS="--only NAME ...")
	$(BIN)/python -m benchmarks $(ARGS)

bench-long: setup setup-spark ## The same with larger states, longer runs, Spark as another peer (about an hour)
	$(BIN)/python -m benchmarks --long $(ARGS)

lock: setup ## Resolve both requirements.lock (newest versions) and the Maven artifacts of the stack and of Spark anew
	$(COMPILE) --upgrade --output-file requirements.lock > /dev/null
	$(COMPILE_IMAGE) --output-file requirements-worker.lock > /dev/null
	$(COMPILE_BUILD) --upgrade --output-file requirements-build.lock > /dev/null
	$(COMPILE_SPARK) --upgrade --output-file benchmarks/peers/spark-requirements.lock > /dev/null
	$(BIN)/python -m devstack.lock
	$(BIN)/python -m benchmarks.peers.spark_jars

clean: ## Remove .venv, caches and the stack of this folder (.trs)
	@test ! -x $(BIN)/trs || TRS_HOME=.trs $(BIN)/trs devstack down --wipe
	rm -rf .venv $(SPARK) .trs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
