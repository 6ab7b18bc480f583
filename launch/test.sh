#!/usr/bin/env bash
# Sets up and runs the tests on all cores, but for the nightly ones. What
# follows goes to pytest:
#
#   bash launch/test.sh -m 'not slow and not nightly'
#   bash launch/test.sh tests/metrics/metrics_test.py
#   bash launch/test.sh -n 0 --pdb tests/metrics/metrics_test.py  # one process
#   bash launch/test.sh -m nightly

cd "$(dirname "$0")/.." || exit 1
# shellcheck source=launch/setup.sh
source launch/setup.sh
setup
run "$VENV/bin/python" -m pytest -n logical --dist=loadfile "$@"
