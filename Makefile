# Everything runs from here; `make` alone lists what there is. Needed on the machine:
# Python 3.11, make, git. The rest is set up on the first use.

.DEFAULT_GOAL := help
SHELL := /bin/sh
ARGS ?=

# Thread mode starts the `python` that is first on PATH, whatever python.executable
# says, so the environment goes first for whatever runs Flink.
RUN = PATH="$(CURDIR)/.venv/bin:$$PATH" JAVA_HOME="$$(.venv/bin/python -m services.java)"
PY = .venv/bin/python

# python3.11, or a python3 that is one. Tried, not looked up: version managers put
# names on PATH that fail when called.
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	&& { echo "$$p"; break; }; done)
BOOTSTRAP = @if [ -z "$(PYTHON)" ]; then \
	echo "setup: Python 3.11 was not found (tried python3.11, python3, python)." >&2; \
	echo "setup: install it, or run: make PYTHON=/path/to/python3.11 $(or $(MAKECMDGOALS),$@)" >&2; exit 1; fi; \
	PYTHONDONTWRITEBYTECODE=1 "$(PYTHON)" -m services.bootstrap

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

# --- the two to begin with ---------------------------------------------------------

.PHONY: demo
demo: setup-jobs ## run the joining job on the bundled events and show what came out
	@$(RUN) $(PY) -m jobs.demo $(ARGS)

.PHONY: test
test: setup ## run all tests (ARGS="-k name" passes options to pytest)
	@$(RUN) $(PY) -m pytest $(ARGS)

.PHONY: kuairand
kuairand: setup-jobs ## real data: DATA=file.tsv, and KEY=user_id for the other key
	@[ -n "$(DATA)" ] || { echo "usage: make kuairand DATA=/path/to/kuairand_extract.tsv" >&2; exit 2; }
	@rm -rf out/kuairand
	@$(RUN) $(PY) examples/kuairand/convert.py --input "$(DATA)" --out out/kuairand
	@$(RUN) $(PY) -m jobs.join_samples --config out/kuairand/pipeline.toml \
		--set join.key=$(or $(KEY),request_id)
	@$(RUN) $(PY) examples/kuairand/check.py --input "$(DATA)" \
		--config out/kuairand/pipeline.toml --output out/kuairand/out \
		$(if $(KEY),--key $(KEY))
	@$(RUN) $(PY) -m jobs.summary out/kuairand/out

.PHONY: audit
audit: setup-jobs ## is every record of a run accounted for? CONFIG=pipeline.toml (ARGS="--show 50")
	@[ -n "$(CONFIG)" ] || { echo "usage: make audit CONFIG=/path/to/pipeline.toml" >&2; exit 2; }
	@$(PY) -m jobs.audit --config "$(CONFIG)" $(ARGS)

.PHONY: correct
correct: setup-jobs ## corrections from late actions, beside the samples: CONFIG=pipeline.toml
	@[ -n "$(CONFIG)" ] || { echo "usage: make correct CONFIG=/path/to/pipeline.toml" >&2; exit 2; }
	@$(PY) -m jobs.correct_samples --config $(CONFIG) $(ARGS)

.PHONY: policies
policies: setup-jobs ## emission policies side by side on a generated day (minutes; ARGS="--requests 1000")
	@rm -rf out/policies
	@$(RUN) $(PY) -m jobs.compare_policies --out out/policies $(ARGS)

.PHONY: bench
bench: setup ## speed, state and memory beside Flink SQL (an hour; ARGS=--quick)
	@$(RUN) $(PY) -m benchmarks.join $(ARGS)

.PHONY: advise
advise: setup-advise ## how long to wait for labels: CONFIG=pipeline.toml (ARGS="--html page.html")
	@[ -n "$(CONFIG)" ] || { echo "usage: make advise CONFIG=/path/to/pipeline.toml" >&2; exit 2; }
	@$(RUN) $(PY) -m jobs.advise_window --config "$(CONFIG)" $(ARGS)

# --- set-up --------------------------------------------------------------------------

.PHONY: setup
setup: ## environment, Java if none is there, jars: all that the targets here need
	$(BOOTSTRAP) dev

.PHONY: setup-jobs
setup-jobs: ## the part of it that the jobs need
	$(BOOTSTRAP) jobs

.PHONY: setup-advise
setup-advise: ## the same with what `make advise` needs
	$(BOOTSTRAP) advise

.PHONY: clean
clean: ## stop the local services and remove everything the targets here have made
	@if [ -x .venv/bin/python ]; then \
		$(PY) -m services.flink_cluster down; $(PY) -m services.kafka_broker down; fi
	rm -rf .venv .uv .run pom-free/jars out *.egg-info \
		.pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- checks --------------------------------------------------------------------------

.PHONY: check
check: lint types imports ## lint, types and imports

.PHONY: lint
lint: setup ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

.PHONY: types
types: setup ## mypy, strict
	$(PY) -m mypy

.PHONY: imports
imports: setup ## which package may import which
	.venv/bin/lint-imports

# --- local services, on loopback -------------------------------------------------------

.PHONY: kafka-up
kafka-up: setup ## start a Kafka broker (ARGS="--port 9092" for a given port)
	@$(RUN) $(PY) -m services.kafka_broker up $(ARGS)

.PHONY: kafka-down
kafka-down: setup ## stop it (its data stays; ARGS="--delete" removes them)
	@$(PY) -m services.kafka_broker down $(ARGS)

.PHONY: cluster-up
cluster-up: setup ## start a Flink session cluster with two task managers
	@$(RUN) $(PY) -m services.flink_cluster up $(ARGS)

.PHONY: cluster-down
cluster-down: setup ## stop it
	@$(PY) -m services.flink_cluster down

# --- dependencies ------------------------------------------------------------------------

.PHONY: lock
lock: setup lock-python lock-jars ## resolve all locks anew (needs the network)

UV_COMPILE = cd requirements && ../.uv/bin/uv pip compile --quiet --universal \
	--python-version 3.11 --generate-hashes --no-emit-index-url --no-header $(ARGS)

.PHONY: lock-python
lock-python: ## requirements/*.lock from *.in (ARGS=--upgrade takes newer versions)
	$(UV_COMPILE) bootstrap.in -o bootstrap.lock
	$(UV_COMPILE) jobs.in -o jobs.lock
	$(UV_COMPILE) advise.in -o advise.lock
	$(UV_COMPILE) dev.in -o dev.lock
	$(UV_COMPILE) java.in -o java.lock
	$(UV_COMPILE) build.in -o build.lock

.PHONY: lock-jars
lock-jars: ## pom-free/jars.lock.toml from jars.toml
	$(PY) -m services.jars lock
