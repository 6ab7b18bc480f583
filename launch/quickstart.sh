#!/usr/bin/env bash
# Sets up, trains on embedded scenes, predicts maps for two of them. Minutes on
# a CPU; no data, GPU or PyTorch. What follows goes to salflax.main:
#
#   bash launch/quickstart.sh --config.text.epochs=2
#
# Run again, it goes on where it was.

cd "$(dirname "$0")/.." || exit 1
# shellcheck source=launch/setup.sh
source launch/setup.sh
setup
RUN=runs/quickstart

run "$VENV/bin/python" -m salflax.main --config=configs/quickstart.py \
  --workdir="$RUN" "$@"

# Images of the test split, each with the sentences it was seen with.
run "$VENV/bin/python" - "$RUN/scenes" <<'PYTHON'
import pathlib
import sys

from PIL import Image
from salflax.data import load_source

out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
source = load_source('scenes', 'test', num=2)
texts = {}
for row in source:
  texts.setdefault(row['image_id'], []).append(row['text'])
  Image.fromarray(row['image']).save(out / f'scene{len(texts) - 1}.png')
for number, said in enumerate(texts.values()):
  (out / f'scene{number}.txt').write_text('\n'.join(filter(None, said)) + '\n')
PYTHON

for scene in scene0 scene1; do
  run "$VENV/bin/python" -m salflax.cli.predict --run="$RUN" \
    --image="$RUN/scenes/$scene.png" --text= \
    --texts="$RUN/scenes/$scene.txt" --out="$RUN/maps/$scene"
done

cat <<END

Maps, as .npy, PNG and laid over the image: $RUN/maps/
Scores by condition, beside the references: $RUN/evaluate/test/tables.md
END
