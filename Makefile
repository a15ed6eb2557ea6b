# `make` lists what there is. Each target sets up what it needs by itself and is safe to repeat.
.PHONY: help setup demo test unit pages example-reports lab test-vm test-driver test-vm-driver test-vm-tuning lint bench bench-smoke bench-tuning clean test-soak test-service test-podman test-rented

BIN := .venv/bin

help:
	@echo "make demo    provision a throw-away host on this machine and show the smoke report (as root or with sudo)"
	@echo "make test    lint, unit tests, the tests on throw-away hosts, the facts of VMs (as root or with sudo; half an hour or more)"
	@echo "make unit    the unit tests alone (under a minute)"
	@echo "make pages   the tests of the report's pages in a real browser (under a minute)"
	@echo "make lab     the tests on throw-away hosts alone"
	@echo "make test-driver the tests of the NVIDIA driver's step alone (25 minutes on a busy machine with two cores)"
	@echo "make test-service kill tests of the service, TLS and tokens, with the real vLLM (half an hour on a busy machine with two cores; not part of make test)"
	@echo "make test-rented a host like a rented container, without systemd (ten minutes; its faults are not part of make test)"
	@echo "make test-podman the engine in a container, on a host with Debian 13 and Podman (half an hour on a busy machine; not part of make test)"
	@echo "make test-soak fifty restarts of the service in a row (an hour on a busy machine with two cores; not part of make test)"
	@echo "make test-vm the tests on virtual machines (QEMU without KVM): facts, host settings with reboots, limits of the service, Debian's own NVIDIA driver (an hour; facts alone are part of make test)"
	@echo "make test-vm-driver Debian's own NVIDIA driver in a virtual machine alone, with real kernel modules, reboots and a kernel update"
	@echo "make test-vm-tuning host settings in a virtual machine alone"
	@echo "make lint    ruff, mypy, shellcheck"
	@echo "make bench   what plans and samples cost, and a host's facts over a slow link, in SSH commands and seconds (as root; about five minutes)"
	@echo "make bench-tuning what a setting of the host brings on this machine: A/B pairs with intervals (as root)"
	@echo "make bench-smoke how true the smoke benchmark is: against known times, its start, its size (a minute)"
	@echo "make example-reports the pages in docs/reports, from the records there"
	@echo "make clean   remove throw-away hosts, caches and the virtual environment"

setup:
	@tools/setup.sh

demo: setup
	@$(BIN)/bringup demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck -s sh bringup/probe/*.sh deploys/steps/driver.sh deploys/steps/cuda.sh deploys/steps/toolkit.sh tools/setup.sh

unit: setup
	$(BIN)/pytest tests/unit

pages: setup
	$(BIN)/pytest tests/browser

# the pages beside the records in docs/reports, made anew
example-reports: setup
	@for record in docs/reports/*.json; do $(BIN)/bringup report html "$$record" -o "$${record%.json}.html" || exit 1; done
	@$(BIN)/bringup report html docs/reports/*.json -o docs/reports/fleet.html

# long ones with targets of their own, which are not part of make test
LONG := service exposure rented_faults podman soak
LAB := $(filter-out $(LONG:%=tests/lab/test_%.py),$(wildcard tests/lab/test_*.py))

lab: setup
	$(BIN)/pytest $(LAB)

test-driver: setup
	$(BIN)/pytest $(wildcard tests/lab/test_driver*.py)

test-service: setup
	$(BIN)/pytest tests/lab/test_service.py tests/lab/test_exposure.py

test-rented: setup
	$(BIN)/pytest tests/lab/test_rented.py tests/lab/test_rented_faults.py

test-podman: setup
	$(BIN)/pytest tests/lab/test_podman.py

test-soak: setup
	$(BIN)/pytest -s tests/lab/test_soak.py

test-vm: setup
	$(BIN)/pytest tests/vm

test-vm-tuning: setup
	$(BIN)/pytest tests/vm/test_tuning.py

test-vm-driver: setup
	$(BIN)/pytest tests/vm/test_driver.py

# one run of pytest, so that its last lines name everything that was skipped, and why
test: lint
	$(BIN)/pytest tests/unit tests/browser $(LAB) tests/vm/test_facts.py
	@echo "All that this machine can run has passed; skipped tests, if any, are listed above with their reasons."
	@echo "Next: make demo"

bench: setup
	@$(BIN)/python -m benchmarks.plans
	@$(BIN)/python -m benchmarks.sampler
	@$(BIN)/python -m benchmarks.round_trips

# SETTINGS="cpus=0-7 thp=madvise", URL= and UNIT= of a server on this machine; without them the demo's
bench-tuning: setup
	@$(BIN)/python -m benchmarks.tuning $(if $(URL),--url $(URL)) $(if $(UNIT),--unit $(UNIT)) $(OPTIONS) $(SETTINGS)

bench-smoke: setup
	@$(BIN)/python -m benchmarks.smoke

clean:
	@[ ! -x $(BIN)/bringup ] || $(BIN)/bringup lab down --base
	rm -rf $${BRINGUP_LAB_DIR:-/var/lib/bringup-lab}
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
