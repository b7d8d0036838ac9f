# `make compare` and `make test` work in an empty clone: every target sets itself up through a
# stamp file. All that must be there is Python 3.11 or newer and make. `make help` lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
PRESET ?= quick
OUT ?= runs/$(PRESET)
# A CPU build of torch is enough. To choose where it comes from, pass TORCH_FLAGS="--index-url URL".
TORCH ?= torch==2.13.0
TORCH_FLAGS ?=
PYTEST_FLAGS ?=

BIN := $(VENV)/bin
# Twice quiet: errors still show, the progress of eighty wheels does not.
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
VLLM_PIP := $(VLLM_VENV)/bin/python -m pip --disable-pip-version-check -qq
TRAIN := $(VENV)/.stamp-train
DEV := $(VENV)/.stamp-dev
VLLM := $(VLLM_VENV)/.stamp-vllm

.DEFAULT_GOAL := help
.PHONY: help setup compare test test-vllm lint format type imports pytest bench lock lock-vllm clean distclean

help: ## list the targets
	@echo "pedrl: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(TRAIN) ## install what training and comparing need into .venv
	@echo "ready: $(BIN)/pedrl --help"

compare: $(TRAIN) ## train pedagogical, GRPO and OPSD from one base model and draw their curves
	$(BIN)/pedrl compare --preset $(PRESET) --out $(OUT)

test: lint type imports pytest ## lint, types, import direction, all tests, the wheel in a clean environment

test-vllm: $(VLLM) ## set up .venv-vllm and run the tests of sampling with vLLM there
	@echo "== tests with vLLM"
	$(VLLM_VENV)/bin/python -m pytest $(PYTEST_FLAGS) -p no:logging -s tests/vllm

lint: $(DEV) ## ruff: rules and formatting
	@echo "== lint"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(DEV) ## mypy --strict on all packages, tests and examples
	@echo "== types"
	$(BIN)/mypy --strict .

imports: $(DEV) ## the one direction of imports between the five packages
	@echo "== imports"
	$(BIN)/lint-imports --no-logo

pytest: $(DEV) ## the tests alone
	@echo "== tests"
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

bench: $(TRAIN) ## what one verification costs on this machine, beside its peers
	$(BIN)/pedrl bench sandbox

lock: $(DEV) ## write requirements.lock anew from what .venv holds
	@awk '/^#/ {print; next} {exit}' requirements.lock > requirements.lock.new
	@$(BIN)/python -m pip freeze --exclude pedrl | sed 's/+cpu$$//' >> requirements.lock.new
	@mv requirements.lock.new requirements.lock
	@echo "requirements.lock: $$(grep -c == requirements.lock) packages"

lock-vllm: $(VLLM) ## write requirements-vllm.lock anew from what .venv-vllm holds
	@awk '/^#/ {print; next} {exit}' requirements-vllm.lock > requirements-vllm.lock.new
	@$(VLLM_VENV)/bin/python -m pip freeze --exclude pedrl | sed 's/+cpu$$//' >> requirements-vllm.lock.new
	@mv requirements-vllm.lock.new requirements-vllm.lock
	@echo "requirements-vllm.lock: $$(grep -c == requirements-vllm.lock) packages"

clean: ## remove caches and build outputs; .venv and runs/ stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -not -path './$(VLLM_VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv and .venv-vllm as well
	rm -rf $(VENV) $(VLLM_VENV)

# torch goes in first and alone: whatever build of it this machine provides is kept, because every
# later install finds the pinned version already there and pulls no other.
$(TRAIN): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "pedrl needs Python 3.11 or newer; none was found (set PYTHON=)"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "pedrl needs Python 3.11 or newer, $(PYTHON) is older; set PYTHON="; exit 1; }
	@test -x $(BIN)/python || { echo "== $(VENV): a virtual environment of $(PYTHON)"; "$(PYTHON)" -m venv $(VENV); }
	@echo "== $(VENV): torch"
	@$(PIP) install $(TORCH_FLAGS) -c requirements.lock "$(TORCH)"
	@echo "== $(VENV): pedrl and what training needs"
	@$(PIP) install -c requirements.lock -e ".[train]"
	@touch $@

# The parity tests compare our losses with Liger's and TRL's, which are plain torch. Liger's kernels,
# which are not, make it require triton and, with that, a CUDA build of torch: so it comes alone, by
# the lock's version, and is in no extra; TRL, which the benches race, comes with it.
$(DEV): $(TRAIN)
	@echo "== $(VENV): linters, type stubs and test tools"
	@$(PIP) install -c requirements.lock -e ".[train,dev]"
	@$(PIP) install -c requirements.lock --no-deps liger-kernel trl
	@touch $@

# vLLM pins older versions than ours of much that both need, and asks for packages that pedrl has no
# use for and that have no CPU build (torchvision, torchaudio, torchcodec): so it has an environment
# of its own, and its lock is the whole of it, installed without asking anyone what else they need.
$(VLLM): pyproject.toml requirements-vllm.lock
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "pedrl needs Python 3.11 or newer: set PYTHON="; exit 1; }
	@test -x $(VLLM_VENV)/bin/python || { echo "== $(VLLM_VENV): a virtual environment of $(PYTHON)"; "$(PYTHON)" -m venv $(VLLM_VENV); }
	@echo "== $(VLLM_VENV): torch"
	@$(VLLM_PIP) install $(TORCH_FLAGS) -c requirements-vllm.lock "$(TORCH)"
	@echo "== $(VLLM_VENV): vLLM and pedrl"
	@$(VLLM_PIP) install --no-compile --no-deps -r requirements-vllm.lock
	@$(VLLM_PIP) install --no-deps -e .
	@$(VLLM_VENV)/bin/python -c 'import vllm'
	@touch $@
