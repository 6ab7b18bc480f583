#!/usr/bin/env bash
# Sets up and runs every test, the slow ones too. What follows goes to pytest:
#
#   bash launch/test.sh -m 'not slow'
#   bash launch/test.sh tests/metrics_test.py

cd "$(dirname "$0")/.."
source launch/setup.sh
setup
run "$VENV/bin/python" -m pytest "$@"
