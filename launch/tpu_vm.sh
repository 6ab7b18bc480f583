#!/usr/bin/env bash
# Trains on a Cloud TPU, a slice of one or many hosts; arguments as for
# salflax.main. From a machine with gcloud:
#
#   TPU=my-tpu ZONE=us-central2-b bash launch/tpu_vm.sh \
#     --config=configs/sjtu_tis.py --workdir=gs://my-bucket/tsn \
#     --config.data_dir=gs://my-bucket/data
#
# It copies the last commit to every host, sets up there and starts one process
# a host, which find each other. With several hosts the workdir and
# --config.data_dir lie in a bucket, or on a disk that all of them mount. A run
# that was stopped has saved itself: the same command goes on. PROJECT names the
# project; DRY_RUN=1 prints what would be done.

cd "$(dirname "$0")/.." || exit 1
# shellcheck source=launch/setup.sh
source launch/setup.sh
: "${TPU:?Set TPU to the name of the TPU VM.}"
: "${ZONE:?Set ZONE to the zone of the TPU VM.}"
where=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"} --worker=all)
if [[ -z "${DRY_RUN:-}" ]] && ! command -v gcloud >/dev/null; then
  die 'gcloud was not found: see https://cloud.google.com/sdk/docs/install'
fi

archive="${TMPDIR:-/tmp}/salflax.tar.gz"
run git archive --format=tar.gz --prefix=salflax/ --output="$archive" HEAD
run gcloud compute tpus tpu-vm scp "$archive" "$TPU:salflax.tar.gz" "${where[@]}"
arguments="$(printf '%q ' --coordinator=auto "$@")"
run gcloud compute tpus tpu-vm ssh "$TPU" "${where[@]}" --command="set -e
tar -xzf salflax.tar.gz
cd salflax
bash launch/setup.sh tpu
source launch/setup.sh
environment
JAX_PLATFORMS=tpu .venv/bin/python -m salflax.main $arguments"
