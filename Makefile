# make demo: train, attribute and report on the embedded digits; look at runs/digits/report.html
# make test: format, lint, types, import contracts, tests
.PHONY: demo test clean
PYTHON ?= python3.11
IN := .venv/bin

demo: .venv/demo
	$(IN)/python train.py configs/digits.yaml
	$(IN)/python attribute.py runs/digits

test: .venv/test
	$(IN)/ruff format --check --config .ci/ruff.toml .
	$(IN)/ruff check --config .ci/ruff.toml .
	$(IN)/lint-imports --config setup.cfg --no-cache
	$(IN)/basedpyright -p .ci/pyrightconfig.json --pythonpath $(IN)/python
	$(IN)/python -m pytest

.venv/demo: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	$(IN)/pip install -q -c constraints.txt -e .
	touch $@

.venv/test: .venv/demo .ci/oracles.txt
	$(IN)/pip install -q -c constraints.txt -e .[test,tensorboard,ray]
	$(IN)/pip install -q --no-deps -r .ci/oracles.txt
	touch $@

clean:
	rm -rf .venv runs
