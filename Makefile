# make demo | test | check | fix: each makes .venv first where it is missing.

PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check fix results lock clean

demo: $(READY)
	rm -rf runs/demo
	$(BIN)/decoct compress recipes/digits.toml -o runs/demo

test: $(READY)
	$(BIN)/python -m pytest -q

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m decoct.report.results --check
	$(BIN)/python -m pytest -q
	PYTHON=$(BIN)/python bash tests/wheel.sh

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Draws what is shown of results/*.json.
results: $(READY)
	$(BIN)/python -m decoct.report.results
	$(BIN)/python benchmarks/picture.py

# Asked in one go, so that torch's pin holds for everything that depends on torch.
$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -r requirements.lock
	$(BIN)/python -m pip install -q --no-build-isolation --no-deps -e .
	touch $@

# Pins what is installed now: pip install the wanted versions into .venv first.
lock:
	{ echo "# Every package that the make targets use, exactly. Renew it with: make lock"; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' | grep -v -i -E '^(decoct|pip|setuptools)[=@ ]'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf .venv build dist runs .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
