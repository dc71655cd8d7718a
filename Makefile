# Each target sets up .venv from nothing when it is not there, and costs nothing when it stands.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(wildcard plugins/aion-tok-*)
EXAMPLES := $(wildcard examples/*/tests)
STAMP := $(VENV)/.installed
# Benchmarks but for those that ask for files of one's own.
BENCHES := $(filter-out $(addprefix benchmarks/,fast_tokens.py join_mock.py loss_curve.py mock_against_real.py), \
	$(wildcard benchmarks/*.py))
TESTS ?=

# Real survey files, where they are at hand (see docs/development.md).
export AION_SAMPLE_DIR ?= $(wildcard $(abspath ../shared/data))

.PHONY: demo test test-all lint format bench dist clean

demo: $(STAMP)
	$(BIN)/aion demo --out demo-report

# Those of examples run by themselves: what they bring is not to be seen by the tests of the core.
test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal $(TESTS)
	$(if $(TESTS),,$(BIN)/python -m pytest -q -n 2 --dist loadfile $(EXAMPLES))

test-all: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "slow or not slow" $(TESTS)
	$(if $(TESTS),,$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "slow or not slow" $(EXAMPLES))

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks
	MYPYPATH=examples/aion-tok-universal-spectrum/src $(BIN)/mypy -p aion_tok_universal

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	for script in $(BENCHES); do $(BIN)/python $$script || exit 1; done

dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w dist . $(addprefix ./,$(PLUGINS))
	ls dist

clean:
	rm -rf $(VENV) dist demo-report runs

# torch comes first and pinned, so that no other package pulls in gigabytes of CUDA. The peer package is for parity
# tests only, and its own pins are not wanted.
$(STAMP): pyproject.toml constraints.txt $(addsuffix /pyproject.toml,$(PLUGINS))
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt \
		-e '.[demo,test,lint]' $(addprefix -e ./,$(PLUGINS))
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps polymathic-aion==0.0.2
	touch $@
