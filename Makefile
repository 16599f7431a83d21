# Everything runs from here; `make` alone lists what there is. Needed on the machine:
# Python 3.10, 3.11 or 3.12, make, git. The rest is set up on the first use.

# CONFIG and DATA are read from the environment ("$$CONFIG"), into which make puts what its command
# line sets: so a path may hold spaces, quotes and whatever else a shell would take apart.

.DEFAULT_GOAL := help
SHELL := /bin/sh
ARGS ?=

# Thread mode starts the `python` that is first on PATH, whatever python.executable
# says, so the environment goes first for whatever runs Flink.
RUN = PATH="$(CURDIR)/.venv/bin:$$PATH" JAVA_HOME="$$(.venv/bin/python -m services.java)"
PY = .venv/bin/python
TRAINER_PY = .venv-trainer/bin/python

# The first of these that is a Python 3.10, 3.11 or 3.12. Tried, not looked up: version managers put
# names on PATH that fail when called.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3 python; do \
	"$$p" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& { echo "$$p"; break; }; done)
BOOTSTRAP = @if [ -z "$(PYTHON)" ]; then \
	echo "setup: no Python 3.10, 3.11 or 3.12 was found (tried python3.11, python3.12, python3.10, python3, python)." >&2; \
	echo "setup: install it, or run: make PYTHON=/path/to/python3.11 $(or $(MAKECMDGOALS),$@)" >&2; exit 1; fi; \
	PYTHONDONTWRITEBYTECODE=1 "$(PYTHON)" -m services.bootstrap

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-19s %s\n", $$1, $$2 }' Makefile

# --- the two to begin with ---------------------------------------------------------

.PHONY: demo
demo: setup-jobs setup-trainer ## generate traffic, join it into samples, train on them (ARGS="--requests N" or --bundled)
	@$(RUN) $(PY) -m tools.demo $(ARGS)
	@[ ! -f out/demo/trainer.toml ] || $(TRAINER_PY) -m trainer.train --config out/demo/trainer.toml

# Two sets of tests, one in each environment. A set may select nothing (pytest's exit code 5), as
# with -k. Of paths in ARGS each set gets its own; a set without any of them is left out.
JOBS_PATHS = $(filter-out tests/trainer% tests/online%,$(filter tests/%,$(ARGS)))
TRAINER_PATHS = $(filter tests/trainer% tests/online%,$(ARGS))
# The tests of the services start a broker.
RUN_TRAINER = JAVA_HOME="$$(.venv/bin/python -m services.java)" $(TRAINER_PY)
# Two processes: much of the time a test waits for Flink or Kafka. A file's tests stay together,
# since they share what they start. tests/conftest.py orders the files, so xdist does not.
WORKERS ?= 2
PARALLEL = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
RUN_TESTS = jobs=5; trainer=5; \
	$(if $(or $(JOBS_PATHS),$(if $(TRAINER_PATHS),,all)), \
		{ $(RUN) $(PY) -m pytest $(PARALLEL) $(1) $(filter-out $(TRAINER_PATHS),$(ARGS)); jobs=$$?; };) \
	$(if $(or $(TRAINER_PATHS),$(if $(JOBS_PATHS),,all)), \
		{ $(RUN_TRAINER) -m pytest $(PARALLEL) $(1) $(filter-out $(JOBS_PATHS),$(ARGS)) \
			$(if $(TRAINER_PATHS),,tests/trainer tests/online); trainer=$$?; };) \
	case "$$jobs $$trainer" in "0 0" | "0 5" | "5 0") ;; *) exit 1 ;; esac

.PHONY: test
test: setup ## run the tests (ARGS="-k name" passes options to pytest)
	@$(call RUN_TESTS,-m "not thorough")

.PHONY: dashboard-picture
dashboard-picture: setup ## draw the dashboard of docker/grafana with what a test run shows (needs Prometheus): out/dashboard.png
	@mkdir -p out; SAMPLE_STITCH_DASHBOARD_PICTURE="$(CURDIR)/out/dashboard.png" \
		$(RUN) $(PY) -m pytest -q -m "" -k every_panel tests/e2e/test_metrics.py

.PHONY: test-thorough
test-thorough: setup ## run the tests that take longer, and more random inputs
	@export TEST_EFFORT=thorough; $(call RUN_TESTS,-m "thorough or hypothesis" --timeout=1200)

.PHONY: loop
loop: setup ## close the loop on real processes: rank, react, join, learn, rank better (ARGS="--days 2")
	@$(RUN) $(PY) -m examples.closed_loop.live $(ARGS)

# --- training ------------------------------------------------------------------------

.PHONY: train
train: setup-trainer ## train a model: CONFIG=trainer.toml, or on the samples of the demo (ARGS="--set a.b=value")
	@[ -n "$$CONFIG" ] || [ -f out/demo/trainer.toml ] || { \
		echo "train: there is no out/demo/trainer.toml yet: run \`make demo\` first," \
			"or give a file: make train CONFIG=/path/to/trainer.toml" >&2; exit 2; }
	@$(TRAINER_PY) -m trainer.train --config "$${CONFIG:-out/demo/trainer.toml}" $(ARGS)

.PHONY: bench-trainer
bench-trainer: setup-bench-trainer ## measure the trainer's speed and quality beside other learners (ARGS=--quick)
	@$(TRAINER_PY) -m benchmarks.trainer $(ARGS)

# --- the jobs ------------------------------------------------------------------------

.PHONY: kuairand
kuairand: setup-jobs ## check the join on real data: DATA=file.tsv (KEY=user_id for the other key)
	@[ -n "$$DATA" ] || { echo "usage: make kuairand DATA=/path/to/kuairand_extract.tsv" >&2; exit 2; }
	@rm -rf out/kuairand
	@$(RUN) $(PY) examples/kuairand/convert.py --input "$$DATA" --out out/kuairand
	@$(RUN) $(PY) -m jobs.join_samples --config out/kuairand/pipeline.toml \
		--set join.key=$(or $(KEY),request_id)
	@$(RUN) $(PY) examples/kuairand/check.py --input "$$DATA" \
		--config out/kuairand/pipeline.toml --output out/kuairand/out \
		$(if $(KEY),--key $(KEY))
	@$(RUN) $(PY) -m tools.summary out/kuairand/out

.PHONY: archive
archive: setup-jobs ## keep the topics of a pipeline as Parquet: CONFIG=pipeline.toml (ARGS="--restore latest")
	@[ -n "$$CONFIG" ] || { echo "usage: make archive CONFIG=/path/to/pipeline.toml" >&2; exit 2; }
	@$(RUN) $(PY) -m jobs.archive_events --config "$$CONFIG" $(ARGS)

.PHONY: backfill
backfill: setup-jobs ## join hours again and replace them at once: CONFIG=pipeline.toml ARGS="--from HOUR --to HOUR"
	@[ -n "$$CONFIG" ] || { echo "usage: make backfill CONFIG=/path/to/pipeline.toml" \
		'ARGS="--from 2026-11-01T00 --to 2026-11-08T00"' >&2; exit 2; }
	@$(RUN) $(PY) -m jobs.backfill --config "$$CONFIG" $(ARGS)

.PHONY: audit
audit: setup-jobs ## check that every record of a run is accounted for: CONFIG=pipeline.toml (ARGS="--show 50")
	@[ -n "$$CONFIG" ] || { echo "usage: make audit CONFIG=/path/to/pipeline.toml" >&2; exit 2; }
	@$(PY) -m tools.audit --config "$$CONFIG" $(ARGS)

.PHONY: try-mapping
try-mapping: setup-jobs ## show what records become by a mapping: CONFIG=pipeline.toml (ARGS="--stream features --sample FILE")
	@[ -n "$$CONFIG" ] || { echo "usage: make try-mapping CONFIG=/path/to/pipeline.toml" >&2; exit 2; }
	@$(PY) -m tools.try_mapping --config "$$CONFIG" $(ARGS)

.PHONY: correct
correct: setup-jobs ## write corrections from late actions: CONFIG=pipeline.toml
	@[ -n "$$CONFIG" ] || { echo "usage: make correct CONFIG=/path/to/pipeline.toml" >&2; exit 2; }
	@$(PY) -m tools.correct_samples --config "$$CONFIG" $(ARGS)

.PHONY: policies
policies: setup-jobs ## compare the emission policies on a generated day (minutes; ARGS="--requests 1000")
	@rm -rf out/policies
	@$(RUN) $(PY) -m tools.compare_policies --out out/policies $(ARGS)

.PHONY: bench
bench: setup setup-bench-join ## measure speed, state and memory beside Flink SQL (an hour; ARGS=--quick)
	@$(RUN) $(PY) -m benchmarks.join $(ARGS)

.PHONY: chaos
chaos: setup ## make faults on real processes under load, and compare the rows (an hour; ARGS=--short: minutes)
	@$(RUN) $(PY) -m chaos $(ARGS)

.PHONY: advise
advise: setup-advise ## say how long to wait for labels: CONFIG=pipeline.toml (ARGS="--html page.html")
	@[ -n "$$CONFIG" ] || { echo "usage: make advise CONFIG=/path/to/pipeline.toml" >&2; exit 2; }
	@$(RUN) $(PY) -m tools.advise_window --config "$$CONFIG" $(ARGS)

# --- set-up --------------------------------------------------------------------------

.PHONY: setup
setup: ## install everything: environments, Java if there is none, jars
	$(BOOTSTRAP) dev trainer-dev

.PHONY: setup-jobs
setup-jobs: ## install what the jobs need
	$(BOOTSTRAP) jobs

.PHONY: setup-advise
setup-advise: ## install what the jobs and `make advise` need
	$(BOOTSTRAP) advise

.PHONY: setup-trainer
setup-trainer: ## install what the trainer needs
	$(BOOTSTRAP) trainer

.PHONY: setup-online
setup-online: ## install what the services of online/ need, ranking and collecting
	$(BOOTSTRAP) online

.PHONY: setup-iceberg
setup-iceberg: setup-jobs ## install what the jobs need for output.table = "iceberg" (a jar of 39 MB)
	@$(PY) -m services.jars fetch iceberg

.PHONY: setup-bench-trainer
setup-bench-trainer: setup-jobs ## install what `make bench-trainer` needs
	$(BOOTSTRAP) trainer-bench

.PHONY: setup-bench-join
setup-bench-join: ## install what `make bench` compares the join with: Spark, Quix Streams
	$(BOOTSTRAP) join-bench

.PHONY: setup-readers
setup-readers: ## install what docs/reading-samples.md reads with (LEVEL=readers-torch: PyTorch too, 3 GB)
	$(BOOTSTRAP) $(or $(LEVEL),readers)

.PHONY: image
image: ## build the images with buildah (docs/deployment.md; ARGS=jobs or ARGS=trainer for one)
	@if [ -z "$(PYTHON)" ]; then echo "image: no Python 3.10, 3.11 or 3.12 was found" >&2; exit 1; fi
	@"$(PYTHON)" -m services.images $(ARGS)

.PHONY: clean
clean: ## stop the local services, and delete everything that make has created
	@if [ -x .venv/bin/python ]; then \
		$(PY) -m services.flink_cluster down; $(PY) -m services.kafka_broker down; fi
	rm -rf .venv .venv-trainer .venv-join-bench .venv-readers .uv .run pom-free/jars out *.egg-info \
		.pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- checks --------------------------------------------------------------------------

.PHONY: check
check: lint types imports ## run lint, types and imports

# Tables of results are written by programs.
MARKDOWN = $(filter-out %/results.md,$(shell git ls-files '*.md'))

.PHONY: lint
lint: setup ## run ruff, and check Markdown, spelling and Dockerfiles
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mdformat --check $(MARKDOWN)
	$(PY) -m codespell_lib
	.venv/bin/hadolint docker/*Dockerfile

# What imports numba, JAX or Ray is checked where they are: file by file what pyproject.toml excludes.
TRAINER_TYPES = trainer $(shell find tests/trainer tests/online benchmarks/trainer benchmarks/ranking -name '*.py' 2>/dev/null) \
	$(addprefix chaos/trainer_,parameters.py places.py process.py) \
	$(addprefix online/,collector.py http_service.py model_keeper.py ranking.py) \
	$(addprefix examples/closed_loop/headless/,configured.py model.py run.py) \
	$(wildcard examples/closed_loop/sweep/*.py)

.PHONY: types
types: setup ## run mypy, strict
	$(PY) -m mypy
	@# NumPy's own types, of the version that Python 3.11 gets, need 3.11.
	@$(TRAINER_PY) -m mypy --python-version 3.11 --cache-dir .mypy_cache/trainer $(TRAINER_TYPES)

.PHONY: imports
imports: setup ## check which package imports which
	.venv/bin/lint-imports

# --- local services, on loopback -------------------------------------------------------

.PHONY: kafka-up
kafka-up: setup ## start a Kafka broker (ARGS="--port 9092" for a given port)
	@$(RUN) $(PY) -m services.kafka_broker up $(ARGS)

.PHONY: kafka-down
kafka-down: setup ## stop the broker; its data stays (ARGS="--delete" removes it)
	@$(PY) -m services.kafka_broker down $(ARGS)

.PHONY: cluster-up
cluster-up: setup ## start a Flink session cluster with two task managers (ARGS="--set KEY=VALUE")
	@$(RUN) $(PY) -m services.flink_cluster up $(ARGS)

.PHONY: cluster-list
cluster-list: setup ## list the cluster's jobs, with the latest checkpoint of each
	@$(PY) -m services.flink_cluster list

.PHONY: cluster-stop
cluster-stop: setup ## stop a job with a savepoint (JOB=id; ARGS="--folder DIR")
	@$(PY) -m services.flink_cluster stop $(ARGS) $(JOB)

.PHONY: cluster-drain
cluster-drain: setup ## write everything that a job holds, and end it (JOB=id)
	@$(PY) -m services.flink_cluster drain $(ARGS) $(JOB)

.PHONY: cluster-cancel
cluster-cancel: setup ## cancel a job; its checkpoints stay (JOB=id)
	@$(PY) -m services.flink_cluster cancel $(ARGS) $(JOB)

.PHONY: cluster-down
cluster-down: setup ## stop the cluster
	@$(PY) -m services.flink_cluster down

# --- dependencies ------------------------------------------------------------------------

.PHONY: lock
lock: setup lock-python lock-jars ## resolve all locks again (needs the network)

UV_COMPILE = cd requirements && ../.uv/bin/uv pip compile --quiet --universal \
	--python-version 3.10 --fork-strategy requires-python --generate-hashes --no-emit-index-url --no-header $(ARGS)

.PHONY: lock-python
lock-python: ## resolve requirements/*.lock from *.in (ARGS=--upgrade takes newer versions)
	$(UV_COMPILE) bootstrap.in -o bootstrap.lock
	$(UV_COMPILE) jobs.in -o jobs.lock
	$(UV_COMPILE) advise.in -o advise.lock
	$(UV_COMPILE) dev.in -o dev.lock
	$(UV_COMPILE) trainer.in -o trainer.lock
	$(UV_COMPILE) online.in -o online.lock
	$(UV_COMPILE) trainer-dev.in -o trainer-dev.lock
	$(UV_COMPILE) trainer-bench.in -o trainer-bench.lock
	$(UV_COMPILE) join-bench.in -o join-bench.lock
	$(UV_COMPILE) readers.in -o readers.lock
	$(UV_COMPILE) readers-torch.in -o readers-torch.lock
	$(UV_COMPILE) java.in -o java.lock
	$(UV_COMPILE) build.in -o build.lock

.PHONY: lock-jars
lock-jars: ## resolve pom-free/jars.lock.toml from jars.toml
	$(PY) -m services.jars lock
