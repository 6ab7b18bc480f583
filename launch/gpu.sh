#!/usr/bin/env bash
# Trains on every GPU of this machine; arguments as for salflax.main:
#
#   bash launch/gpu.sh --config=configs/sjtu_tis.py --workdir=runs/tsn
#
# CUDA_VISIBLE_DEVICES=0,1 takes some of them. CUDA=12 for a driver older than
# 580. DRY_RUN=1 prints what would be done.

cd "$(dirname "$0")/.." || exit 1
# shellcheck source=launch/setup.sh
source launch/setup.sh
kind=gpu
[[ "${CUDA:-13}" == 12 ]] && kind=gpu12
if [[ -z "${DRY_RUN:-}" ]] && ! nvidia-smi -L >&2; then
  die 'No NVIDIA GPU here: nvidia-smi -L failed.'
fi
setup "$kind"
environment
# Without this a driver that does not fit would train on the CPU, and say so in
# a line that nobody reads.
run env JAX_PLATFORMS=cuda,cpu "$VENV/bin/python" -m salflax.main "$@"
