# Earwitness. Two commands start everything: `make run` serves, `make test` proves.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
WORKERS ?= 2
BIN := .venv/bin

# a file's tests share what they need, so one process runs them all
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: run env test test-containers soak check format demonstration

run: .venv/serving ## the service with the demonstration bundle; make run PORT=8010
	$(BIN)/python -m service serve --host $(HOST) --port $(PORT)

env: .venv/complete ## everything for training and development

test: .venv/complete ## the tests, as CI runs them: two processes, of 1.5 GB each; make test WORKERS=0 for one
	$(PYTEST)

test-containers: ## docker compose up, on the engine that is here or on a throw-away one (root, Debian)
	tests/containers/run

soak: .venv/complete ## the same tests at full numbers, for the record
	$(BIN)/python -m pytest --soak --timeout 7200

check: .venv/complete ## format, lint, types, import contracts, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST)

format: .venv/complete
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/python: ## an empty environment, or a sentence about what this machine lacks
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || \
	  { echo "Earwitness needs Python 3.11 to 3.13 as '$(PYTHON)'. On Debian: apt-get install python3 python3-venv; elsewhere: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "This Python cannot make virtual environments. On Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/serving: pyproject.toml constraints.txt | .venv/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu]'
	@touch $@

.venv/complete: pyproject.toml constraints.txt | .venv/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,openvino,postgres,tracing,training,dev]'
	@touch $@ .venv/serving

# How the committed demonstration bundle and its clips were made; the bundle must not exist yet, and is made anew only
# when the format changes.
MADE := build/demonstration
CLIPS := models/bundles/demonstration-clips
PUMP := $(MADE)/recordings/dev_data/pump

demonstration: .venv/complete
	$(BIN)/python -m training synthesize $(MADE)/recordings --seed 2021 --sections 2 --train-clips 30 --test-clips 6
	$(BIN)/python -m training train $(MADE)/recordings --recipe smoke --work $(MADE)/work --bundle models/bundles/demonstration --demonstration
	mkdir -p $(CLIPS)
	cp $(PUMP)/source_test/section_00_source_test_normal_0000.wav $(CLIPS)/normal.wav
	cp $(PUMP)/source_test/section_00_source_test_anomaly_0003.wav $(CLIPS)/faulty.wav
	cp $(PUMP)/target_test/section_00_target_test_anomaly_0001.wav $(CLIPS)/target-faulty.wav
	cp $(PUMP)/train/section_00_target_train_normal_0000_*.wav $(CLIPS)/target-1.wav
	cp $(PUMP)/train/section_00_target_train_normal_0001_*.wav $(CLIPS)/target-2.wav
	cp $(PUMP)/train/section_00_target_train_normal_0002_*.wav $(CLIPS)/target-3.wav
