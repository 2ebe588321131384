# Every target sets up what it needs. All that has to be there is Python 3.11 or later, make and git.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
UV     := UV_PROJECT_ENVIRONMENT=$(CURDIR)/$(VENV) UV_PYTHON=$(CURDIR)/$(BIN)/python UV_PYTHON_DOWNLOADS=never $(BIN)/uv
UV_VERSION := 0.13.9
# Tests start hundreds of processes: what Python compiled is kept, whatever the caller's environment says.
export PYTHONDONTWRITEBYTECODE :=
SOURCES := proto/src gateway/src supervisor_sim/src sdk/src sdk/unasync.py tests benchmarks

.PHONY: setup demo test test-long cancel-check fault-matrix flood-check mutants bench bench-quick bench-targets bench-report bench-compare bench-resume bench-sparse bench-liar conformance conformance-quick lint format proto proto-check docs docs-check sync-check clean help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## Make .venv with every command, from the lock file

$(VENV)/.ready: uv.lock pyproject.toml proto/pyproject.toml gateway/pyproject.toml supervisor_sim/pyproject.toml sdk/pyproject.toml tests/conformance/pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no python3 found; install Python 3.11 or later" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"make: {sys.executable} is Python {sys.version.split()[0]}; 3.11 or later is needed (set PYTHON=...)")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(UV) sync --quiet --locked --group setup --group test --inexact
	@touch $@

$(VENV)/.lint: $(VENV)/.ready
	$(UV) sync --quiet --locked --all-groups --inexact
	@touch $@

proto/node_modules/.package-lock.json: proto/package-lock.json $(VENV)/.lint
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/npm ci --silent --no-audit --no-fund --prefix proto
	@touch $@

demo: setup ## The main job: a real file in and out of a sandbox
	@$(BIN)/openshell-files-gateway demo

test: setup ## The whole test suite
	$(BIN)/pytest -m "not long"

test-long: setup ## The tests that take minutes
	$(BIN)/pytest -m long --timeout=1800 --hypothesis-profile=search

cancel-check: setup ## Cancel uploads of RFC-only callers on a busy machine, and count the published files
	PYTHONPATH=tests $(BIN)/python tests/cancellation/check.py

# The reference is judged as a foreign implementation would be. JOBS, SEED and SELECT change what is run.
CONFORMANCE = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/openshell-files-conformance
CONFORMANCE_RUN = for role in gateway supervisor sdk; do $(CONFORMANCE) run --target $$role --config tests/conformance/adapters/reference.toml \
	  --jobs $(or $(JOBS),4) --out conformance-results/$$role $(if $(SEED),--shuffle $(SEED)) $(if $(SELECT),--select '$(SELECT)')

conformance: setup ## Judge gateway, supervisor and SDK by every case of the conformance suite
	@$(CONFORMANCE) coverage --check
	@$(CONFORMANCE_RUN) || exit; done

conformance-quick: setup ## The same, by few cases that still name every clause
	@$(CONFORMANCE_RUN) --quick || exit; done

fault-matrix: setup ## Kill each process at every point of a transfer, and print the outcomes
	PYTHONPATH=tests $(BIN)/python tests/faults/matrix.py

mutants: setup ## Apply mutants to a copy of the tree, and check that tests fail: ONLY, NAME, SAMPLE, SEED
	@PYTHONPATH=tests $(BIN)/python -m mutants.run $(if $(ONLY),--only '$(ONLY)') $(if $(NAME),--name '$(NAME)') \
	  $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED)) $(if $(JOBS),--jobs $(JOBS))

# RESULTS is where figures go. ROUNDS and MIB (of the large file) change what is run; K is a subset, as pytest's -k.
RESULTS := benchmarks/results
BENCH = mkdir -p $(RESULTS) && $(BIN)/pytest -c benchmarks/pytest.ini benchmarks $(if $(K),-k '$(K)') \
	$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(MIB),--large-mib $(MIB)) -q

bench: setup ## All benchmarks, against every baseline; takes hours. K=... chooses
	$(BENCH) --benchmark-json=$(RESULTS)/bench.json
	@PYTHONPATH=benchmarks $(BIN)/python -m harness.report $(RESULTS)/bench.json $(RESULTS)/bench.html

bench-quick: ROUNDS ?= 3
bench-quick: MIB ?= 64
bench-quick: setup ## The most important benchmarks at small sizes, in minutes
	$(BENCH) -m quick --benchmark-json=$(RESULTS)/quick.json
	@PYTHONPATH=benchmarks $(BIN)/python -m harness.report $(RESULTS)/quick.json $(RESULTS)/quick.html

bench-targets: setup ## The table of figures that must hold
	$(BENCH) -m target --benchmark-json=$(RESULTS)/targets.json

bench-report: FROM ?= $(RESULTS)/bench.json
bench-report: setup ## One HTML file of a result: FROM=a.json
	@PYTHONPATH=benchmarks $(BIN)/python -m harness.report $(FROM) $(FROM:.json=.html)

bench-compare: setup ## Two results side by side: BEFORE=a.json AFTER=b.json
	@PYTHONPATH=benchmarks $(BIN)/python -m harness.compare $(if $(BEFORE),'$(BEFORE)') $(if $(AFTER),'$(AFTER)')

bench-resume: setup ## Cost of resuming a 2 GiB upload that broke at half
	$(BIN)/python benchmarks/resume.py

bench-liar: setup ## Cost of a hostile supervisor for the transfers of other sandboxes
	$(BIN)/python benchmarks/liar.py

flood-check: setup ## Cost of a flood of unauthenticated streams for an authenticated caller
	$(BIN)/python benchmarks/floods.py

bench-sparse: setup ## Cost of the zeros in a sparse file of 4 GiB
	$(BIN)/python benchmarks/sparse.py

lint: $(VENV)/.lint proto/node_modules/.package-lock.json proto-check docs-check sync-check ## Formatting, lint, types, generated files
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	# Apart: both have a module conftest.
	$(BIN)/mypy $(filter-out benchmarks,$(SOURCES))
	$(BIN)/mypy benchmarks
	$(BIN)/pyright
	cd proto && PATH="$(CURDIR)/$(BIN):$$PATH" node_modules/.bin/buf lint && PATH="$(CURDIR)/$(BIN):$$PATH" node_modules/.bin/buf format --diff --exit-code

format: $(VENV)/.lint proto/node_modules/.package-lock.json ## Format everything
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format
	cd proto && PATH="$(CURDIR)/$(BIN):$$PATH" node_modules/.bin/buf format --write

proto: setup ## Generate the messages from the .proto files
	$(UV) run --quiet --script --locked proto/generate.py

proto-check: setup
	$(UV) run --quiet --script --locked proto/generate.py --check

docs: setup ## Write the generated documents
	$(BIN)/python -m openshell_files_protocol.error_docs > docs/errors.md
	$(BIN)/python -m openshell_files_gateway.config.docs > docs/settings.md
	$(BIN)/python tests/clause_index.py > docs/clauses.md
	$(BIN)/python -m openshell_files_conformance.clauses docs/protocol.md
	$(BIN)/openshell-files-conformance coverage > tests/conformance/COVERAGE.md

docs-check: setup
	@$(BIN)/python -m openshell_files_gateway.config.docs | diff -u docs/settings.md - || { echo "run \`make docs\`" >&2; exit 1; }
	@$(BIN)/python -m openshell_files_protocol.error_docs | diff -u docs/errors.md - || { echo "run \`make docs\`" >&2; exit 1; }
	@$(BIN)/python -m openshell_files_conformance.clauses docs/protocol.md --check
	@$(BIN)/openshell-files-conformance coverage | diff -u tests/conformance/COVERAGE.md - || { echo "run \`make docs\`" >&2; exit 1; }

sync-check: setup
	$(BIN)/python sdk/unasync.py --check

clean: ## Remove what the targets made
	rm -rf $(VENV) proto/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis
