#!/usr/bin/env bash
# Trains every row of a paper's tables, then writes the report. Run again, it
# goes on where it was; what is finished is left alone.
#
#   bash launch/paper.sh text_guided
#   bash launch/paper.sh text_guided --scale=small --free=folder:freeview+osie \
#     --seeds=0,1
#   bash launch/paper.sh loss_study --scale=small --data=osie \
#     --other=folder:freeview --seeds=0,1 --jobs=2 \
#     --config.model.backbone.weights=vgg16.safetensors
#
#   --scale=paper|small  the published network, or what two CPU cores train
#   --runs=DIR           runs/<paper>; a row's runs are DIR/<row>/seed<n>
#   --seeds=0,1          one run of every row for each; 0
#   --only=a,b           these rows alone
#   --free=DATA          text_guided: free viewing of the first stage
#   --data=DATA          loss_study: what every loss is trained and tested on
#   --other=DATA,DATA    loss_study: what Table 3's models are tested on, too
#   --jobs=N             runs side by side, each on its share of the CPU; what
#                        they say goes to DIR/<row>/seed<n>/log.txt
#   --data_dir=DIR       where prepared data sets are
#   --report=0           leaves the report out
#
# Everything else goes to salflax.main. KIND=gpu sets up for a GPU; DRY_RUN=1
# prints what would be done. A run whose loss is no number any more is recorded
# as diverged and not tried again.

cd "$(dirname "$0")/.."
source launch/setup.sh

usage() { sed -n '2,/^$/s/^# \{0,1\}//p' launch/paper.sh; }

case "${1:-}" in
  text_guided) FIRST=SALICON_pretrained ;;
  loss_study) FIRST='' ;;
  -h | --help) usage; exit 0 ;;
  *) die "Which paper? Found '${1:-}', allowed: text_guided, loss_study." \
    "See --help." ;;
esac
PAPER="$1"
shift
scale=paper runs="runs/$PAPER" seeds=0 only='' data_dir='' report=1 jobs=1
free='' data='' other=''
[[ "$PAPER" == loss_study ]] && other='cat2000,fiwi'
more=()
for argument in "$@"; do
  value="${argument#*=}"
  case "$argument" in
    --scale=*) scale="$value" ;;
    --runs=*) runs="$value" ;;
    --seeds=*) seeds="$value" ;;
    --only=*) only="$value" ;;
    --free=*) free="$value" ;;
    --data=*) data="$value" ;;
    --other=*) other="$value" ;;
    --jobs=*) jobs="$value" ;;
    --data_dir=*) data_dir="$value" ;;
    --report=*) report="$value" ;;
    -h | --help) usage; exit 0 ;;
    *) more+=("$argument") ;;
  esac
done
[[ "$PAPER" == text_guided && -n "$data$other" ]] &&
  die "--data and --other are loss_study's; text_guided has --free."
[[ "$PAPER" == loss_study && -n "$free" ]] &&
  die "--free is text_guided's; loss_study has --data."
[[ "$jobs" =~ ^[1-9][0-9]*$ ]] || die "--jobs=$jobs: give a number from 1."
setup "${KIND:-cpu}"
[[ -n "$data_dir" ]] && more+=("--config.data_dir=$data_dir")

[[ -x "$VENV/bin/python" ]] || die 'Run bash launch/setup.sh first.'
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
# Rows of Table 3: trained on one data set, tested on others.
generalise='mlnet_mse lc1_r lc2_r'

# One folder is of one size: its rows are compared, and the report names the
# command that makes those that are missing.
settings="--scale=$scale${free:+ --free=$free}${data:+ --data=$data}"
if [[ -z "${DRY_RUN:-}" ]]; then
  mkdir -p "$runs"
  before="$(cat "$runs/options.txt" 2>/dev/null || printf '%s' "$settings")"
  [[ "$before" == "$settings" ]] ||
    die "$runs is of runs with $before, found $settings: give another --runs."
  printf '%s\n' "$settings" >"$runs/options.txt"
fi

# python_run WHERE ARGUMENTS: runs Python, on its share of the CPU and with a
# log of its own where there are several jobs.
python_run() {
  local where="$1" pin=()
  shift
  if ((jobs == 1)) || [[ -n "${DRY_RUN:-}" ]]; then
    run "$VENV/bin/python" "$@"
    return
  fi
  mkdir -p "$where"
  command -v taskset >/dev/null && [[ "${KIND:-cpu}" == cpu ]] &&
    pin=(taskset -c "$(share "$worker")")
  ${pin[@]+"${pin[@]}"} "$VENV/bin/python" "$@" >>"$where/log.txt" 2>&1
}

# share K: the CPUs of job K, those this shell may use dealt out in turn.
share() {
  "$VENV/bin/python" -c 'import os, sys
k, jobs = map(int, sys.argv[1:])
cpus = sorted(os.sched_getaffinity(0))
print(*(cpus[k::jobs] or [cpus[k % len(cpus)]]), sep=",")' "$1" "$jobs"
}

# scores WHERE DATA SPLIT OPTIONS: evaluates a run on other data, once.
scores() {
  local where="$1" on="$2" split="$3"
  shift 3
  [[ -f "$where/evaluate/$on-$split/summary.json" ]] && return
  python_run "$where" -m salflax.cli.evaluate --run="$where" --data="$on" \
    --split="$split" --data_dir="$data_dir" --out="$where/evaluate/$on-$split" \
    "$@"
}

diverged() { compgen -G "$1/*/diverged.json" >/dev/null; }

# train ROW SEED: trains and evaluates one run, unless it is finished.
train() {
  local where="$runs/$1/seed$2" config="configs/$PAPER.py:row=$1,scale=$scale"
  local code on
  [[ -n "$free" ]] && config+=",free=$free"
  [[ -n "$data" ]] && config+=",data=$data"
  [[ -n "$FIRST" && "$1" != "$FIRST" ]] &&
    config+=",init=$runs/$FIRST/seed$2"
  if diverged "$where"; then
    say "$1, seed $2: diverged; remove $where to try it again."
    return 0
  fi
  if [[ ! -f "$where/evaluate/test/summary.json" ]]; then
    say "$1, seed $2."
    code=0
    python_run "$where" -m salflax.main --config="$config" \
      --workdir="$where" --config.seed="$2" \
      --config.cache_dir="$runs/cache" ${more[@]+"${more[@]}"} || code=$?
    if ((code)) && diverged "$where"; then
      say "$1, seed $2: diverged, which is recorded."
      return 0
    fi
    ((code)) && return $code
  fi
  if [[ "$1" == "$FIRST" ]]; then
    # The first stage as it is, on text-guided images: Table II.
    scores "$where" sjtu_tis test --controls --protocols=mit,course || return
  fi
  if [[ "$PAPER" == loss_study && " $generalise " == *" $1 "* ]]; then
    for on in ${other//,/ }; do
      scores "$where" "$on" all --store --train_split=none || return
    done
  fi
}

# work K PAIRS: trains every jobs-th pair of row/seed, from the K-th.
work() {
  local worker="$1" pair number=0
  shift
  for pair in "$@"; do
    ((number++ % jobs == worker)) || continue
    train "${pair%/*}" "${pair#*/}" && continue
    # Ctrl-C stops everything; another failure only its own row.
    (($? == 130)) && exit 130
    printf '%s\n' "$pair" >>"$failures"
  done
}

# train_all PAIRS: trains them, several side by side.
train_all() {
  local worker pids=()
  if ((jobs == 1)); then
    work 0 "$@"
    return
  fi
  for ((worker = 0; worker < jobs; worker++)); do
    work "$worker" "$@" &
    pids+=($!)
  done
  wait "${pids[@]}"
}

failures="$(mktemp)"
trap 'rm -f "$failures"' EXIT
first=() rest=()
for seed in ${seeds//,/ }; do
  for row in $rows; do
    if [[ "$row" == "$FIRST" ]]; then
      first+=("$row/$seed")
    else
      rest+=("$row/$seed")
    fi
  done
done
say "$((${#first[@]} + ${#rest[@]})) runs in $runs, those that are finished" \
  "among them."
((${#first[@]})) && train_all "${first[@]}"
ready=()
for pair in ${rest[@]+"${rest[@]}"}; do
  if [[ -n "$FIRST" && -z "${DRY_RUN:-}" && \
        ! -f "$runs/$FIRST/seed${pair#*/}/free/result.json" ]]; then
    ((${#first[@]})) || die "$runs/$FIRST/seed${pair#*/} is not finished, and" \
      "every other row starts from it: --only=$FIRST trains it."
    printf '%s\n' "$pair" >>"$failures"
    continue
  fi
  ready+=("$pair")
done
((${#ready[@]})) && train_all "${ready[@]}"
if [[ "$report" != 0 ]]; then
  run "$VENV/bin/python" -m salflax.cli.report --paper="$PAPER" \
    --runs="$runs" --out="$runs/report" ${data_dir:+--data_dir="$data_dir"}
fi
[[ -s "$failures" ]] &&
  die "Failed: $(paste -sd' ' "$failures"). Run again to go on."
exit 0
