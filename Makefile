# SPDX-License-Identifier: Apache-2.0
# make help lists the targets; most of them want root
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
BIN := .venv/bin
WORKERS ?= 4

help:
	@sed -n 's/^## //p' Makefile

## make demo [KEEP=1]   a lab of three nodes, example Services, every path shown; KEEP=1 leaves it up
demo: as-root run-setup bpf
	@KEEP="$(KEEP)" $(BIN)/netaccel lab demo

## make cluster [ARGS=…] a real Kubernetes cluster on this machine, netaccel as its service proxy (first time: builds Kubernetes)
cluster: as-root cluster-setup bpf image
	@$(BIN)/netaccel cluster up $(ARGS)

## make cluster-down    take it down again
cluster-down: as-root cluster-setup
	@$(BIN)/netaccel cluster down

## make image           dist/netaccel-image.tar for containerd, without a container engine
image: as-root cluster-setup bpf
	@$(BIN)/python -m deploy.image

## make test            every test: units, properties, programs in the kernel, the lab end to end
test: as-root dev-setup bpf
	$(BIN)/python -m netaccel.cluster.binaries
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup $(ARGS)

## make test-cluster    the same in a real cluster: kubelets, the image, rolling restarts under load
test-cluster: as-root dev-setup cluster-setup bpf image
	$(BIN)/python -m netaccel.cluster.binaries
	$(BIN)/pytest tests/cluster -n 2 --dist loadgroup $(ARGS)

## make bench [PART=…]  the budgets, each beside a floor or a peer in the same run
bench: as-root bench-setup bpf
	$(BIN)/python -m bench $(PART)

## make soak            agent killed and restarted 1,000 times under load; 100,000 accelerated connections, every byte checked
soak: as-root dev-setup bpf
	$(BIN)/python -m bench.soak
	$(BIN)/python -m bench.soakaccel

## make test-kernels    older kernels in QEMU: do they take the programs, do the tests pass (half an hour; docs/kernels.md)
test-kernels: dev-setup bpf
	$(BIN)/python -m tests.kernels $(ARGS)

## make lint            ruff, mypy, import layers, clang-format
lint: dev-setup bpf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	clang-format --dry-run --Werror bpf/include/*.h bpf/*/*.c bench/bpf/*.c bench/load/*.c bench/load/*/*.[ch]

## make format          put right what lint would say of layout
format: dev-setup
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	clang-format -i bpf/include/*.h bpf/*/*.c bench/bpf/*.c bench/load/*.c bench/load/*/*.[ch]

## make bpf             compile the BPF programs (seconds)
bpf:
	@$(MAKE) --no-print-directory -C bpf

## make wheel           dist/netaccel-*.whl with the compiled programs inside
wheel: dev-setup
	$(BIN)/pip wheel -q --disable-pip-version-check --no-deps -w dist .

## make clean           remove what was built
clean:
	@$(MAKE) --no-print-directory -C bpf clean
	rm -rf build dist .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

as-root:
	@[ "$$(id -u)" = 0 ] || { echo "make $(MAKECMDGOALS): it loads BPF programs: run as root" >&2; exit 1; }

run-setup dev-setup bench-setup cluster-setup: %-setup:
	@scripts/setup $*

.PHONY: help as-root demo cluster cluster-down image test test-cluster test-kernels bench soak lint format bpf \
  wheel clean run-setup dev-setup bench-setup cluster-setup
