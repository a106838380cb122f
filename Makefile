# make demo:     train, attribute and report on the embedded digits; look at runs/digits/report.html
# make quick:    format, lint, import contracts, and the tests of what changed: under a minute
# make test:     format, lint, types, import contracts, all tests that need neither Ray nor another package
# make test-all: the same with Ray and the packages that our scorers are compared with; CI runs this
.PHONY: demo quick test test-all check clean
PYTHON ?= python3.11
IN := .venv/bin
# One process for each core, and each file in one: its tests share what they train.
PYTEST := $(IN)/python -m pytest -n auto --dist loadfile

demo: .venv/demo
	$(IN)/python train.py configs/digits.yaml
	$(IN)/python attribute.py runs/digits

quick: .venv/test
	$(IN)/ruff format --config .ci/ruff.toml .
	$(IN)/ruff check --config .ci/ruff.toml .
	$(IN)/lint-imports --config setup.cfg --no-cache
	$(IN)/python .ci/changed.py | xargs -r $(PYTEST) -m "not slow"

test: .venv/test check
	$(PYTEST)

test-all: .venv/all check
	$(PYTEST)

check:
	$(IN)/ruff format --check --config .ci/ruff.toml .
	$(IN)/ruff check --config .ci/ruff.toml .
	$(IN)/lint-imports --config setup.cfg --no-cache
	$(IN)/basedpyright -p .ci/pyrightconfig.json --pythonpath $(IN)/python

.venv/demo: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	$(IN)/pip install -q -c constraints.txt -e .
	touch $@

.venv/test: .venv/demo
	$(IN)/pip install -q -c constraints.txt -e .[test]
	touch $@

.venv/all: .venv/test .ci/oracles.txt
	$(IN)/pip install -q -c constraints.txt -e .[test,tensorboard,ray]
	$(IN)/pip install -q --no-deps -r .ci/oracles.txt
	touch $@

clean:
	rm -rf .venv runs
