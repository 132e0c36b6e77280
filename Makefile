# Every target sets up .venv by itself; all it needs is Python >= 3.10, git and make. Another Python: make PYTHON=python3.12
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

.PHONY: demo test slow adapters matrix docs check audit format clean help gpu gpu-wheels

help:
	@echo "make demo    segment scenes and microscope images with the bundled weights, write demo/"
	@echo "make test    run the tests in two processes, or JOBS=N   (make slow: the long ones too)"
	@echo "make adapters  tests with torchvision, supervision, Ultralytics, transformers, which it installs (300 MB)"
	@echo "make matrix  tests with each promised Python, lowest versions, each extra alone (hours; SUITE=quick: fewer tests)"
	@echo "make gpu     everything that waits for a GPU, MINUTES=12 at a time, into OUT=runs/gpu"
	@echo "make docs    build the site of the docs into site/, and test it"
	@echo "make check   lint, format, types     (make format: fix what can be fixed)"
	@echo "make audit   ask pip-audit for known vulnerabilities of what is installed"
	@echo "make clean   remove the environment and the caches"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "make: $(PYTHON) is older than Python 3.10; name another one: make PYTHON=python3.12"; exit 1; }
	@echo "installing PyTorch and the rest into $(VENV): about 6 GB, some minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/banet demo --out demo

# Files are shared out over two processes of one thread each, so that neither core idles. JOBS=0: in this process.
JOBS ?= 2
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

slow: $(READY)
	$(BIN)/python -m pytest -m 'not gpu'

adapters: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,adapters]'
	$(BIN)/python -m pytest tests/panoptic/test_adapters.py tests/panoptic/test_plug_in_page.py tests/composed

# Environments of their own, each deleted in the end; SESSIONS='lowest core' takes some of `nox --list`.
SESSIONS ?=
ENVS     ?= .nox
matrix: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,matrix]'
	SUITE=$(SUITE) $(BIN)/nox --envdir $(ENVS) $(if $(SESSIONS),-s $(SESSIONS))

# The python with torch that the machine has: a GPU's host needs no network and no environment of its own.
MINUTES ?= 12
OUT     ?= runs/gpu
WORK    ?= $(OUT)/work
WHEELS  := gpu-wheels
gpu:
	@if ls $(WHEELS)/*.whl >/dev/null 2>&1; then \
		$(PYTHON) -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target $(WHEELS)/site $(WHEELS)/*.whl; fi
	PYTHONPATH=$(CURDIR)/$(WHEELS)/site:$(CURDIR) $(PYTHON) benchmarks/gpu.py --minutes $(MINUTES) --out $(OUT) --work $(WORK)

# What a usual host of PyTorch lacks, to be taken to one without a network.
gpu-wheels: $(READY)
	$(BIN)/python benchmarks/gpu_wheels.py $(WHEELS)

docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	BANET_TEST_SITE=site $(BIN)/python -m pytest tests/test_site.py

check: $(READY) audit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(READY)
	@said=$$($(BIN)/pip-audit --skip-editable --progress-spinner off 2>&1); \
	skipped=$$(echo "$$said" | grep -c "could not be audited"); \
	case "$$said" in \
		*"Found "*" known vulnerabilit"*) echo "$$said"; exit 1;; \
		*"No known vulnerabilities found"*) echo "pip-audit: no known vulnerabilities; $$skipped packages could not be looked up";; \
		*) echo "warning: pip-audit reached no service; dependencies were not audited";; \
	esac

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
