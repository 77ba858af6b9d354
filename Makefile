# One door to everything. Each target makes what it needs from nothing: a Python 3.11 is enough.
#   make demo   a cluster of two nodes, a budget, a distributed training, its cost      (18 s to 2 min)
#   make demo-serve  a model behind a gateway: from zero, load, an update, no money, the bill    (< 2 min)
#   make demo-cloud  a spot machine that is rented, taken back and replaced, without an account    (~1 min)
#   make check  lint, types, layers and the tests in one process; TESTS=PATH… for a few    (~8 min, ~1 min)
#   make test   lint, types, layers, generated code, and every test
#   make judge  what a hostile judge would do: fuzz, kill -9, damaged directories, mutants    (hours)
.DEFAULT_GOAL := help
.PHONY: help demo demo-serve demo-cloud check golden test oldest browser pictures nightly judge judge-fuzz judge-kill judge-damage judge-mutants lint ruff format types layers pytest pure real programs proto proto-check clients docs bench venv clean
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
BIN := .venv/bin
# pip would compile all of PyTorch, Ray and SciPy: a minute and a half, for the tenth of it that is ever loaded.
# What is loaded is compiled then, once, wherever Python may write it down.
PIP := $(BIN)/pip install -qq --disable-pip-version-check --no-compile
unexport PYTHONDONTWRITEBYTECODE
PACKAGES := sdk policies daemon agents web gateway
# The recorded traces that two of the benchmarks read.
export BURSAR_BENCH_DATA ?= ../shared
# In this order: the whole system, one agent alone, one plan of a large site, placement on a recorded trace,
# large arrays, what a day leaves on disk.
BENCHES := $(basename $(notdir $(wildcard bench/end_to_end.py bench/agent_noop.py bench/plan_scale.py bench/openb.py bench/sim_openb.py bench/large_arrays.py bench/growth.py bench/profiling.py bench/forecast.py bench/anomalies.py bench/gateway.py bench/books.py bench/turns.py bench/serving.py)))
# gRPC's fork handlers only cost; no process here forks after it has loaded gRPC.
export GRPC_ENABLE_FORK_SUPPORT := 0

help:
	@echo "make demo    see it work: two nodes, a budget, a distributed training, its cost"
	@echo "make demo-serve  a model behind a gateway: from zero, under load, updated, without money, and its bill"
	@echo "make demo-cloud  rent a spot machine, lose it, go on with another one: no account is needed"
	@echo "make check   lint and the tests in one process; while working: make check TESTS='tests/docs tests/unit/test_ends.py'"
	@echo "make golden  write down again what is printed, sent and stored (tests/golden), to be read as a diff"
	@echo "make test    lint, types, layers, generated code and every test"
	@echo "make oldest  what submit, run and show print, under the system's own Python 3.11"
	@echo "make browser the pages in a real browser: keyboard, no scripts, axe-core, content policy"
	@echo "make pictures the pictures of pages in docs/pictures, made anew"
	@echo "make nightly the property tests with many more examples"
	@echo "make judge   an hour of fuzzing, 1,000 kill -9, 100 damaged directories, 100 mutants"
	@echo "make lint    ruff, formatting, mypy --strict, import-linter"
	@echo "make bench   measured speed, beside the machine's own limits"
	@echo "make proto   generate sdk/bursar/v1 from proto/ again"
	@echo "make clients write the clients that wait from those that await"
	@echo "make docs    write the pages that the program knows itself: cli, jobfile, policies, api, from-slurm"
	@echo "make format  put every file into the house's format"
	@echo "make clean   remove what the other targets made"

# --- environments: a stamp newer than what it was made from means there is nothing to do ----------

.venv/.made:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: apt-get install python3.11-venv" >&2; exit 1; }
	@"$(PYTHON)" -m venv .venv \
	  || { echo "The venv module is needed: apt-get install python3.11-venv" >&2; exit 1; }
	@touch $@

.venv/.installed: .venv/.made pyproject.toml constraints.txt
	@echo "installing bursar and its tools into .venv ..."
	@$(PIP) -c constraints.txt -e '.[agent,daemon,nvml,web,gateway,dev]'
	@$(BIN)/python -m compileall -q $(PACKAGES)  # as pip does for what is not editable
	@touch $@

# PyTorch is large and only the demo and its test train something.
.venv/.torch: .venv/.installed
	@echo "installing PyTorch into .venv ..."
	@$(PIP) -c constraints.txt torch
	@touch $@

.venv-proto/.installed: constraints-proto.txt
	@"$(PYTHON)" -m venv .venv-proto
	@.venv-proto/bin/pip install -qq --disable-pip-version-check --no-compile \
	  -c constraints-proto.txt grpcio-tools mypy-protobuf setuptools
	@touch $@

venv: .venv/.installed

# --- the targets ----------------------------------------------------------------------------------

demo: .venv/.torch
	@$(BIN)/python docs/examples/demo/demo.py

demo-serve: .venv/.torch
	@$(BIN)/python docs/examples/demo/serve.py

demo-cloud: .venv/.installed
	@$(BIN)/python docs/examples/demo/cloud.py

# What takes a second fails first. All else goes on beside each other: daemons that are waited for leave a core idle
# half of the time, which the rest takes; it is nicer, and takes it from nobody who is waited for.
AGAIN := $(MAKE) --no-print-directory
test:
	@.ci/beside "$(AGAIN) .venv/.torch" "$(AGAIN) .venv-proto/.installed programs"
	@$(AGAIN) ruff
	@.ci/beside "nice -n 10 $(AGAIN) pure" "$(AGAIN) real" "nice -n 10 $(AGAIN) types layers proto-check"

lint: ruff types layers

ruff: .venv/.installed
	@$(BIN)/ruff check --quiet --output-format=concise .
	@$(BIN)/ruff format --check --quiet --output-format=concise . || { echo "run make format" >&2; exit 1; }

types: .venv/.torch
	@$(BIN)/mypy $(PACKAGES)

layers: .venv/.installed
	@$(BIN)/lint-imports --no-logo

format: .venv/.installed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Pure ones each by itself on any worker. Those that start daemons and clusters one file on one worker, since a
# cluster is shared by a file; all of them wait for what they need, on a busy machine for longer.
# One that fails is run again and named ("rerun"): a kernel that schedules otherwise once is no fault of the product,
# one that fails each time is. `make nightly` gives no second try.
FAST := tests/docs tests/unit tests/scenario tests/contract tests/access
PURE := $(FAST) tests/property tests/sim
REAL := tests/integration tests/acceptance
WORKERS ?= 2

TESTS ?= $(FAST)
check: lint proto-check
	@$(BIN)/pytest -q -n $(WORKERS) $(TESTS)

# What people, brokers and files get, as it was the last time somebody read it: a change of it is read, then kept.
golden: .venv/.installed
	@BURSAR_GOLDEN=write $(BIN)/pytest -q -n 0 $$(grep -rl BURSAR_GOLDEN --include='test_*.py' tests)
	@git diff --stat tests/golden

# The oldest 3.11 that is supported may be the system's, while .venv has a later one: the same packages serve both.
OLDEST ?= /usr/bin/python3.11
oldest: .venv/.installed
	@"$(OLDEST)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	  || { echo "a Python 3.11 is needed at $(OLDEST): make oldest OLDEST=/path/to/python3.11" >&2; exit 1; }
	@test -d .venv/lib/python3.11 \
	  || { echo "a .venv of Python 3.11 is needed: its packages are used" >&2; exit 1; }
	@"$(OLDEST)" --version
	@PYTHONPATH=$(CURDIR)/.venv/lib/python3.11/site-packages:$$(printf '$(CURDIR)/%s:' $(PACKAGES)) \
	  "$(OLDEST)" -m pytest -q -n 0 -p no:cacheprovider tests/unit/test_cli_submits.py tests/unit/test_cli_verbs.py

pytest: pure real

pure: .venv/.torch
	@$(BIN)/pytest -q -n $(WORKERS) --durations=5 --reruns 2 -rR $(PURE)

real: .venv/.torch programs
	@$(BIN)/pytest -q -n $(WORKERS) --dist loadfile --durations=5 --reruns 2 -rR $(REAL)

# Not part of `make test`: Debian's chromium and the driver are 500 MB that nothing else needs. The driver brings no
# browser and looks for none; a machine without chromium fails here, it skips nothing.
.venv/.browser: .venv/.installed
	@echo "installing the driver of the browser into .venv ..."
	@$(PIP) -c constraints.txt -e '.[browser]'
	@touch $@

browser: .venv/.browser
	@.ci/need chromium=chromium
	@$(BIN)/pytest -q tests/browser

# Six pages of a simulated cluster, for the docs: of the same seed and virtual time each time.
pictures: .venv/.browser
	@.ci/need chromium=chromium
	@$(BIN)/python bench/web_pictures.py docs/pictures

nightly: .venv/.installed
	@$(BIN)/pytest -q -n $(WORKERS) --hypothesis-profile=nightly --timeout 3600 $(PURE)
	@$(BIN)/pytest -q -n $(WORKERS) --dist loadfile $(REAL)

# As docs/judging.md says; each of them alone too, with a seed of its own: make judge-kill SEED=7
SEED ?= 1
COVERING ?= .covering
judge: judge-fuzz judge-kill judge-damage judge-mutants

judge-fuzz: .venv/.installed
	@BURSAR_FUZZ_ROUNDS=$${BURSAR_FUZZ_ROUNDS:-300} $(BIN)/pytest -q -n $(WORKERS) tests/contract/test_rpc_fuzz.py \
	  tests/contract/test_agent_sessions.py

judge-kill: .venv/.installed
	@$(BIN)/python bench/chaos.py --seed $(SEED)

judge-damage: .venv/.installed
	@$(BIN)/python bench/damage.py --seed $(SEED)

judge-mutants: .venv/.installed
	@$(BIN)/python bench/mutants.py record $(COVERING)
	@$(BIN)/python bench/mutants.py try $(COVERING) --seed $(SEED)

# Programs that tests run as they are; a test that skipped them would prove nothing.
programs:
	@.ci/need mosquitto=mosquitto systemd-analyze=systemd

proto: .venv-proto/.installed
	@.ci/generate-proto sdk

proto-check: .venv-proto/.installed
	@.ci/generate-proto --check

clients: .venv/.installed
	@$(BIN)/python .ci/generate-clients

docs: .venv/.installed
	@$(BIN)/python docs/generate_cli.py
	@$(BIN)/python docs/generate_slurm.py
	@$(BIN)/python docs/generate_pages.py
	@$(BIN)/python docs/generate_man.py

bench: .venv/.installed
	@for each in $(BENCHES); do echo "== bench/$$each.py"; $(BIN)/python "bench/$$each.py"; done

clean:
	@rm -rf .venv .venv-proto .demo demo-focus.csv .covering .mypy_cache .ruff_cache .hypothesis .import_linter_cache
