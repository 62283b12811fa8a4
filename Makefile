# The two commands: `make run` and `make test`. Each sets up what it needs and is quick the second time.
PYTHON ?= python3
CACHE  := $(HOME)/.cache/mlx-sidecar-dev
VENV   := .venv
BIN    := $(CURDIR)/$(VENV)/bin
DATA   ?= $(CACHE)/data
PORT   ?= 60315

export MLX_SIDECAR_DATA_DIR ?= $(DATA)
export CARGO_TARGET_DIR ?= $(CACHE)/cargo-target
WITH_BLAS = env $$(tools/blas.sh)

.PHONY: run test setup starter lint freeze sidecar-dist requirements storm chaos seed-check starter-eval clean

run: setup starter ## the host service on 127.0.0.1:60315, which starts the sidecar on 127.0.0.1:60316
	@MLX_SIDECAR_OPEN=1 exec $(WITH_BLAS) $(BIN)/mlx-host serve --port $(PORT)

test sidecar-dist: ONEFILE = 1
test: setup starter lint sidecar-dist ## lint, types, the frozen build and every test
	OPENBLAS_NUM_THREADS=1 $(WITH_BLAS) $(BIN)/python -m pytest $(ARGS)

lint: setup
	cd src-tauri-snippets && cargo fmt --all --check && cargo clippy -q --all-targets -- -D warnings && cargo test -q
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/.ready

$(VENV)/.ready: requirements/dev.txt requirements/uv.txt pyproject.toml tools/setup.sh
	PYTHON=$(PYTHON) CACHE=$(CACHE) tools/setup.sh $(VENV)

starter: setup ## the starter model, fetched and converted once
	@$(WITH_BLAS) $(BIN)/mlx-sidecar starter install

freeze: setup ## the frozen program in dist/mlx-sidecar/ (ONEFILE=1: one file)
	@CACHE=$(CACHE) ONEFILE=$(ONEFILE) tools/freeze.sh $(BIN)/python

sidecar-dist: freeze ## what a Tauri bundle takes, in dist/tauri/
	tools/sidecar_dist.sh $(BIN)/python

requirements: setup ## pin anew what pyproject.toml asks for
	CACHE=$(CACHE) tools/pin.sh

storm: setup ## launchers of both kinds at once, many rounds (ARGS=--help)
	$(BIN)/python tools/storm.py $(ARGS)

chaos: setup ## random kills and garbage, many rounds (ARGS=--help)
	$(BIN)/python tools/chaos.py $(ARGS)

seed-check: setup starter ## the prototype's test plan as a checklist
	$(WITH_BLAS) $(BIN)/python -m tests.host.seed_check

starter-eval: setup starter ## what the starter model sees, scored on held-out pictures; exits 1 while goals are missed
	$(WITH_BLAS) $(BIN)/python -m tools.starter_eval --serve $(BIN)/mlx-sidecar --folder $$MLX_SIDECAR_DATA_DIR/models/starter --text auto $(ARGS)

clean:
	rm -rf $(VENV) dist artifacts
