# Each target is the line that you would type. `make help` lists them; ARGS is passed on: make load ARGS=--help
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
ifdef CI
export UV_NO_PROGRESS := 1
endif
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup setup-test demo up down load chaos kind-up kind-down k8s-up k8s-down image test test-fast test-local test-live test-cluster matrix lint bench contracts dashboards docs lock

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

# the package managers wait for the network most of the time, so servers and Python packages are fetched side by side
demo: ## start the lab, drive load through five flows, print the comparison, leave the lab up
	@$(PYTHON) -m lab.targets.local.fetch & servers=$$!; $(MAKE) setup || { kill $$servers; exit 1; }; wait $$servers || true
	$(BIN)/lab demo $(ARGS)
test: lint test-fast test-local test-live test-cluster ## lint, then every test; each part ends with what was skipped and why
up: setup ## start the lab on this machine
	$(BIN)/lab --target local up $(ARGS)
down: setup ## stop it
	$(BIN)/lab --target local down $(ARGS)
load: setup ## drive load through whatever runs
	$(BIN)/lab load $(ARGS)
chaos: setup ## give each flow a bad day, and prove by the audit that nothing was lost or done twice
	$(BIN)/lab chaos $(ARGS)
kind-up: setup ## start the lab on Kubernetes in Docker (kind): cluster, image, chart
	$(BIN)/lab --target kind up $(ARGS)
kind-down: setup ## delete that cluster
	$(BIN)/lab --target kind down $(ARGS)
k8s-up: setup ## install the lab on the cluster of kubectl's current context
	$(BIN)/lab --target k8s up $(ARGS)
k8s-down: setup ## uninstall it there; volumes stay
	$(BIN)/lab --target k8s down $(ARGS)
image: setup ## build the container image
	$(BIN)/python -m lab.targets.cluster.image
setup: .venv/run.stamp ## make .venv and install what running needs
setup-test: .venv/test.stamp ## install what testing needs, too
FAST := tests/domain tests/styles tests/telemetry tests/compare tests/docs
# two tests at a time; a live lab or a cluster is shared by its tests, which go one by one
SIDE_BY_SIDE := -n 2 --dist worksteal --inline-snapshot=disable
test-fast: setup-test ## domain, styles over memory, conventions, renderings (about a minute)
	$(BIN)/pytest -m "not servers and not live and not cluster" $(SIDE_BY_SIDE) $(FAST) $(ARGS)
test-local: setup-test ## the other tests that need no lab; some start a server of their own
	$(BIN)/pytest -m "not live and not cluster" $(SIDE_BY_SIDE) $(addprefix --ignore=,$(FAST)) $(ARGS)
test-live: setup-test ## the tests on a lab of real servers and services, which they start and stop
	$(BIN)/pytest -m "live and not matrix" $(ARGS)
matrix: setup-test ## every style over every transport that can carry it, 20 orders each, on real servers (a few minutes)
	$(BIN)/pytest -m matrix tests/live/test_matrix.py $(ARGS)
test-cluster: setup-test ## the tests on Kubernetes: the cluster of KUBECONFIG, or with LAB_TEST_KIND=1 one of their own
	$(BIN)/pytest -m cluster $(ARGS)
lint: setup-test ## ruff, mypy and the import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
bench: setup-test ## measure: tracing per message, adapters, orders/s, the span store, formats
	$(BIN)/python -m benchmarks $(ARGS)
contracts: setup-test ## regenerate the code in services/contracts from the contracts
	PYTHONPATH="$$($(BIN)/python -m lab.targets.local.ice)" $(BIN)/python -m services.contracts.generate $(ARGS)
dashboards: setup-test ## rebuild Grafana's boards and Prometheus' rules from dashboards/
	$(BIN)/python -m dashboards
docs: setup ## regenerate the pages of docs/ that come from tables in the code
	$(BIN)/python -m docs.generate
lock: setup ## rewrite the locks; what is locked stays unless ARGS="--upgrade"
	$(COMPILE) requirements/bootstrap.in -o requirements/bootstrap.txt
	$(COMPILE) pyproject.toml -o requirements/run.txt
	$(COMPILE) pyproject.toml --extra test -c requirements/run.txt -o requirements/test.txt

# --- how .venv is made: a stamp for each lock, written last, so that a failed setup is done again -------------------

UV = $(BIN)/python -c "$$UV_AS_PIP"
INSTALL = $(UV) pip install $(QUIET) --python $(BIN)/python
QUIET = $(if $(CI),-q,$(if $(MAKE_TERMERR),,-q))
COMPILE = $(UV) pip compile -q --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header $(ARGS)

.venv/run.stamp: requirements/bootstrap.txt requirements/run.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed and $(PYTHON) is older: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@echo "Installing into .venv: requirements/run.txt"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@$(INSTALL) --require-hashes --index-strategy unsafe-best-match -r requirements/run.txt
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

.venv/test.stamp: .venv/run.stamp requirements/test.txt
	@echo "Installing into .venv: requirements/test.txt"
	@$(INSTALL) --require-hashes --index-strategy unsafe-best-match -r requirements/test.txt
	@touch $@

# uv does not read pip's settings (pip.conf, PIP_*): hand on those that say where packages come from.
# Every file is checked against the lock's hashes, so all indexes may be asked, as pip asks them.
define UV_AS_PIP
import ast, os, subprocess, sys
listed = subprocess.run([sys.executable, '-m', 'pip', 'config', 'list'], capture_output=True, text=True).stdout
pip = dict(line.partition('=')[::2] for line in listed.splitlines())
for option, variable, comma in (
    ('index-url', 'UV_DEFAULT_INDEX', ' '), ('extra-index-url', 'UV_INDEX', ' '), ('find-links', 'UV_FIND_LINKS', ','),
    ('trusted-host', 'UV_INSECURE_HOST', ' '), ('timeout', 'UV_HTTP_TIMEOUT', ' '), ('default-timeout', 'UV_HTTP_TIMEOUT', ' '),
    ('proxy', 'ALL_PROXY', ' '), ('cert', 'SSL_CERT_FILE', ' '),
):
    found = [pip[key] for key in (f'{section}.{option}' for section in (':env:', 'install', 'global')) if key in pip]
    if found and not (variable == 'UV_DEFAULT_INDEX' and 'UV_INDEX_URL' in os.environ):
        os.environ.setdefault(variable, comma.join(str(ast.literal_eval(found[0])).split()))
os.execv('$(BIN)/uv', ['uv', *sys.argv[1:]])
endef
export UV_AS_PIP
