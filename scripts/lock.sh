#!/bin/sh
# Resolve pyproject.toml around requirements/known-good.in into lock files that name no address. Usage: lock.sh UV
set -eu
compile() {
    output=$1
    shift
    "${UV}" pip compile pyproject.toml --constraint requirements/known-good.in --universal --python-version 3.11 \
        --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet --output-file "requirements/$output" "$@"
}
UV=$1
compile run.txt --extra fpga
compile dev.txt --extra fpga --extra dev --extra docs
# Proof that one version of everything resolves together.
compile all.txt --all-extras
# Peers of the benchmarks, on top of dev.txt; what they need beside themselves pip finds for the machine at hand.
grep -E '^(blackjax|torch|torch-harmonics|cuequivariance-jax|s2fft)==' requirements/all.txt > requirements/bench.txt
