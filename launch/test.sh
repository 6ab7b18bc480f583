#!/usr/bin/env bash
# Sets up and runs every test, the slow ones too, on up to four cores. What
# follows goes to pytest:
#
#   bash launch/test.sh -m 'not slow'
#   bash launch/test.sh tests/metrics_test.py
#   bash launch/test.sh -n 0 --pdb tests/metrics_test.py  # in one process

cd "$(dirname "$0")/.."
source launch/setup.sh
setup
run "$VENV/bin/python" -m pytest -n logical --maxprocesses=4 --dist=loadfile "$@"
