#!/usr/bin/env bash
# Trains every row of a paper's tables, then writes the report. Run again, it
# goes on where it was; what is finished is left alone.
#
#   bash launch/paper.sh text_guided
#   bash launch/paper.sh text_guided --scale=small --free=folder:freeview+osie \
#     --seeds=0,1 --config.model.backbone.weights=resnet50_v1.safetensors
#
#   --scale=paper|small  the published network, or what two CPU cores train
#   --runs=DIR           runs/<paper>; a row's runs are DIR/<row>/seed<n>
#   --seeds=0,1          one run of every row for each; 0
#   --only=a,b           these rows alone
#   --free=DATA          free viewing that the first stage learns from
#   --data_dir=DIR       where prepared data sets are
#   --report=0           leaves the report out
#
# Everything else goes to salflax.main. KIND=gpu sets up for a GPU; DRY_RUN=1
# prints what would be done.

cd "$(dirname "$0")/.."
source launch/setup.sh

usage() { sed -n '2,/^$/s/^# \{0,1\}//p' launch/paper.sh; }

case "${1:-}" in
  text_guided) FIRST=SALICON_pretrained ;;
  -h | --help) usage; exit 0 ;;
  *) die "Which paper? Found '${1:-}', allowed: text_guided. See --help." ;;
esac
PAPER="$1"
shift
scale=paper runs="runs/$PAPER" seeds=0 only='' free='' data_dir='' report=1
more=()
for argument in "$@"; do
  value="${argument#*=}"
  case "$argument" in
    --scale=*) scale="$value" ;;
    --runs=*) runs="$value" ;;
    --seeds=*) seeds="$value" ;;
    --only=*) only="$value" ;;
    --free=*) free="$value" ;;
    --data_dir=*) data_dir="$value" ;;
    --report=*) report="$value" ;;
    -h | --help) usage; exit 0 ;;
    *) more+=("$argument") ;;
  esac
done
setup "${KIND:-cpu}"
[[ -n "$data_dir" ]] && more+=("--config.data_dir=$data_dir")

# The rows, the first stage in front; unknown names in --only are an error.
rows=$("$VENV/bin/python" - "$PAPER" "$only" <<'PYTHON'
import importlib
import sys

from configs import common

rows = importlib.import_module(f'configs.{sys.argv[1]}').ROWS
only = [name for name in sys.argv[2].split(',') if name]
try:
  for name in only:
    common.choice('row in --only', name, rows)
except ValueError as e:
  sys.exit(f'salflax: {e}')
print(*(only or rows))
PYTHON
)

# One folder is of one size: its rows are compared, and the report names the
# command that makes those that are missing.
made="--scale=$scale${free:+ --free=$free}"
if [[ -z "${DRY_RUN:-}" ]]; then
  mkdir -p "$runs"
  before="$(cat "$runs/options.txt" 2>/dev/null || printf '%s' "$made")"
  [[ "$before" == "$made" ]] ||
    die "$runs is of runs with $before, found $made: give another --runs."
  printf '%s\n' "$made" >"$runs/options.txt"
fi

failed=()
# train ROW SEED: trains and evaluates one run, unless it is finished.
train() {
  local where="$runs/$1/seed$2" config="configs/$PAPER.py:row=$1,scale=$scale"
  [[ -n "$free" ]] && config+=",free=$free"
  [[ "$1" != "$FIRST" ]] && config+=",init=$runs/$FIRST/seed$2"
  if [[ ! -f "$where/evaluate/test/summary.json" ]]; then
    say "$1, seed $2: run $((++number)) of $total."
    run "$VENV/bin/python" -m salflax.main --config="$config" \
      --workdir="$where" --config.seed="$2" \
      --config.cache_dir="$runs/cache" ${more[@]+"${more[@]}"} || return
  fi
  # The first stage as it is, on text-guided pictures: Table II.
  if [[ "$1" == "$FIRST" && \
        ! -f "$where/evaluate/sjtu_tis-test/summary.json" ]]; then
    run "$VENV/bin/python" -m salflax.cli.evaluate --run="$where" \
      --data=sjtu_tis --split=test --controls --protocols=mit,course \
      --data_dir="$data_dir"
  fi
}

number=0 total=0
for seed in ${seeds//,/ }; do
  for row in $rows; do
    [[ -f "$runs/$row/seed$seed/evaluate/test/summary.json" ]] || ((++total))
  done
done
for seed in ${seeds//,/ }; do
  if [[ " $rows " != *" $FIRST "* && -z "${DRY_RUN:-}" && \
        ! -f "$runs/$FIRST/seed$seed/free/result.json" ]]; then
    die "$runs/$FIRST/seed$seed is not finished, and every other row starts" \
      "from it: --only=$FIRST trains it."
  fi
  for row in $rows; do
    train "$row" "$seed" && continue
    # Ctrl-C stops everything; another failure only its own row.
    (($? == 130)) && exit 130
    failed+=("$row/seed$seed")
    [[ "$row" == "$FIRST" ]] && break
  done
done
if [[ "$report" != 0 ]]; then
  run "$VENV/bin/python" -m salflax.cli.report --runs="$runs" \
    --out="$runs/report"
fi
((${#failed[@]})) && die "Failed: ${failed[*]}. Run again to go on."
exit 0
