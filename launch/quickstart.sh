#!/usr/bin/env bash
# Sets up; shows the model that ships on two embedded scenes; then trains another
# on such scenes and predicts maps for two of them. Minutes on a CPU; no data,
# GPU or PyTorch. What follows goes to salflax.main:
#
#   bash launch/quickstart.sh --config.text.epochs=2
#
# Run again, it goes on where it was.

cd "$(dirname "$0")/.." || exit 1
# shellcheck source=launch/setup.sh
source launch/setup.sh
setup
RUN=runs/quickstart


# Draws two scenes of the test split into a folder, with a table of the sentences
# of some conditions: scenes FOLDER HEIGHT WIDTH CONDITION...
scenes() {
  run "$VENV/bin/python" - "$@" <<'PYTHON'
import csv
import pathlib
import sys

from PIL import Image
from salflax.data import load_source

out, size = pathlib.Path(sys.argv[1]), tuple(map(int, sys.argv[2:4]))
out.mkdir(parents=True, exist_ok=True)
source = load_source('scenes', 'test', num=2, size=size, conditions=sys.argv[4:])
names = {}
with open(out / 'pairs.csv', 'w', encoding='utf-8', newline='') as f:
  table = csv.writer(f)
  table.writerow(['image', 'text'])
  for row in source:
    name = names.setdefault(row['image_id'], f'scene{len(names)}.png')
    Image.fromarray(row['image']).save(out / name)
    table.writerow([name, row['text']])
PYTHON
}

scenes "$RUN/demo" 480 640 salient non_salient
run "$VENV/bin/python" -m salflax.cli.predict "$RUN/demo/pairs.csv" \
  --out="$RUN/demo/maps" --contours=25,50,75

run "$VENV/bin/python" -m salflax.main --config=configs/quickstart.py \
  --workdir="$RUN" "$@"

# Each with the sentences it was seen with, and with none.
scenes "$RUN/scenes" 96 128 pure all salient non_salient
run "$VENV/bin/python" -m salflax.cli.predict "$RUN/scenes/pairs.csv" \
  --run="$RUN" --out="$RUN/maps"

cat <<END

Maps, as .npy, PNG and laid over the image: $RUN/maps/
Scores by condition, beside the references: $RUN/evaluate/test/tables.md
END
