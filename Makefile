# Everything a newcomer needs: `make demo` and `make test`. `make help` lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
VENV ?= .venv
BIN := $(VENV)/bin
UV ?= uv
RUN ?= runs/demo
STUDY ?=
PYTEST ?=

.PHONY: help demo test check lint types imports bench-ensemble bench-fixed-point bench-transforms \
	bench-tensor-product bench-segmentation-s2cnn bench-heal-swin bench-toy-ensemble bench-hmc bench-metrics \
	bench-resnet-ensemble bench-emulator bench-rtl bench-latency bench-resources bench-enet-frame bench-resnet-fpga \
	bench-small-convolutions bench-langevin-steps capabilities \
	paper-equivariance paper-heal-swin paper-stochastic-ensembles paper-cifar paper-image-posteriors paper-svhn \
	paper-enet lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-26s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

check: # says within a second what the machine lacks
	@sh scripts/check_machine.sh "$(PYTHON)"

demo: $(VENV)/.run-installed ## install, run the whole chain on real digits (or go on with it), say where the report is
	@sh scripts/demo.sh "$(BIN)/jaxgeo" "$(RUN)" $(STUDY)

test: $(VENV)/.dev-installed ## install, run all tests with coverage
	@rm -f .coverage .coverage.*
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term $(PYTEST)

$(VENV)/.run-installed: requirements/run.txt pyproject.toml | check
	@sh scripts/install.sh "$(PYTHON)" "$(VENV)" requirements/run.txt
	@touch $@

$(VENV)/.dev-installed: requirements/dev.txt pyproject.toml | check
	@sh scripts/install.sh "$(PYTHON)" "$(VENV)" requirements/dev.txt
	@touch $@ $(VENV)/.run-installed

$(VENV)/.bench-installed: requirements/bench.txt $(VENV)/.dev-installed
	@sh scripts/install.sh "$(PYTHON)" "$(VENV)" requirements/bench.txt --with-dependencies
	@touch $@

lint: $(VENV)/.dev-installed ## ruff: style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev-installed ## pyright
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(VENV)/.dev-installed ## the arrows between the rooms, and what `import jaxgeo` costs
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/import_time.py

bench-ensemble: $(VENV)/.bench-installed ## members per second: vmap, a loop, PyTorch; last line is JSON
	$(BIN)/python -m benchmarks.ensemble $(BENCH)

bench-fixed-point: $(VENV)/.dev-installed ## our quantisers beside HGQ2 on the same network; last line is JSON
	$(BIN)/python -m benchmarks.fixed_point $(BENCH)

bench-transforms: $(VENV)/.bench-installed ## sphere and SO(3) transforms beside s2fft, torch-harmonics, ducc0, healpy; last line is JSON
	$(BIN)/python -m benchmarks.transforms $(BENCH)

bench-tensor-product: $(VENV)/.bench-installed ## tensor products beside e3nn-jax and cuequivariance; last line is JSON
	$(BIN)/python -m benchmarks.tensor_product $(BENCH)

bench-segmentation-s2cnn: $(VENV)/.bench-installed ## the 204k segmentation S2CNN; --peer PATH runs the original beside; last line is JSON
	$(BIN)/python -m benchmarks.segmentation_s2cnn $(BENCH)

bench-heal-swin: $(VENV)/.bench-installed ## HEAL-SWIN at its published size; --peer and --nnx PATH run others beside; last line is JSON
	$(BIN)/python -m benchmarks.heal_swin $(BENCH)

bench-toy-ensemble: $(VENV)/.bench-installed ## 64 toy members in one program beside a PyTorch loop and torch.func; last line is JSON
	$(BIN)/python -m benchmarks.toy_ensemble $(BENCH)

bench-hmc: $(VENV)/.bench-installed ## effective draws per processor second beside NumPyro's and BlackJAX' NUTS; last line is JSON
	$(BIN)/python -m benchmarks.hmc_efficiency $(BENCH)

bench-metrics: $(VENV)/.dev-installed ## scores of 50,000 x 1000 classes x 64 members in bounded memory; last line is JSON
	$(BIN)/python -m benchmarks.metrics_at_size $(BENCH)

bench-resnet-ensemble: $(VENV)/.bench-installed ## training of ResNet-20-FRN members beside a PyTorch loop; last line is JSON
	$(BIN)/python -m benchmarks.resnet_ensemble $(BENCH)

capabilities: $(VENV)/.dev-installed ## what the bridge carries: every layer by backend and io type, exact, rewritten or refused
	$(BIN)/fpga-bridge capabilities

bench-emulator: $(VENV)/.dev-installed ## typed hls4ml designs in JAX beside their compiled C++: words and speed; last line is JSON
	$(BIN)/python -m benchmarks.emulator $(BENCH)

bench-rtl: $(VENV)/.dev-installed ## networks in Verilog beside JAX: words, cycles, cells by Yosys; last line is JSON
	$(BIN)/python -m benchmarks.rtl $(BENCH)

bench-latency: $(VENV)/.dev-installed ## cycles before synthesis beside published designs (DESIGNS=file.csv); last line is JSON
	$(BIN)/python -m benchmarks.latency $(if $(DESIGNS),--designs "$(DESIGNS)") $(BENCH)

bench-resources: $(VENV)/.dev-installed ## DSP, LUT, FF and BRAM before synthesis beside reports and Yosys; last line is JSON
	$(BIN)/python -m benchmarks.resources $(BENCH)

bench-enet-frame: $(VENV)/.dev-installed ## one 240x152 frame through the ENet: JAX beside C++ in all words; last line is JSON
	$(BIN)/python -m benchmarks.enet_frame $(BENCH)

bench-resnet-fpga: $(VENV)/.dev-installed ## ResNet-20 with batch norms on hardware: words, cycles, resources; last line is JSON
	$(BIN)/python -m benchmarks.resnet_fpga $(BENCH)

bench-small-convolutions: $(VENV)/.dev-installed ## training steps of small convolution networks beside XLA's convolution; last line is JSON
	$(BIN)/python -m benchmarks.small_convolutions $(BENCH)

bench-langevin-steps: $(VENV)/.dev-installed ## steps of Langevin dynamics by held-out images (needs JAXGEO_DATA); last line is JSON
	$(BIN)/python -m benchmarks.papers.langevin_steps $(BENCH)

paper-equivariance: $(VENV)/.dev-installed ## equivariance against augmentation, reduced grid (needs JAXGEO_DATA); last line is JSON
	$(BIN)/python -m benchmarks.papers.equivariance_vs_augmentation $(PAPER)

paper-heal-swin: $(VENV)/.dev-installed ## HEAL-SWIN against flat SWIN and a forest, reduced (needs JAXGEO_DATA); last line is JSON
	$(BIN)/python -m benchmarks.papers.heal_swin $(PAPER)

paper-stochastic-ensembles: $(VENV)/.dev-installed ## the toy: four families and HMC on ten domains; last line is JSON
	$(BIN)/python -m benchmarks.papers.stochastic_ensembles $(PAPER)

paper-cifar: $(VENV)/.dev-installed ## ResNet ensembles beside published HMC, with corruptions and OOD, reduced (needs JAXGEO_DATA); last line is JSON
	$(BIN)/python -m benchmarks.papers.cifar_posteriors --size reduced $(PAPER)

paper-image-posteriors: $(VENV)/.dev-installed ## every family beside HMC on small images; last line is JSON
	$(BIN)/python -m benchmarks.papers.image_posteriors $(PAPER)

paper-svhn: $(VENV)/.dev-installed ## pruning and bit widths of the SVHN network, reduced (needs JAXGEO_DATA); last line is JSON
	$(BIN)/python -m benchmarks.papers.svhn_compression $(PAPER)

paper-enet: $(VENV)/.dev-installed ## ENet from float to 4 bits on CamVid, reduced (needs JAXGEO_DATA); last line is JSON
	$(BIN)/python -m benchmarks.papers.enet $(PAPER)

lock: ## renew the lock files (needs uv); see CONTRIBUTING.md
	@sh scripts/lock.sh "$(UV)"

clean: ## remove environments, caches and build products (not runs/)
	rm -rf $(VENV) .bootstrap .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.* build dist
