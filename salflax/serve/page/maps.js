// Maps: read from the answer, coloured, summed over boxes.

/** Reads a map: {height, width, values: Float32Array that sums to 1}. */
export function readMap({height, width, data}) {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  return {height, width, values: new Float32Array(bytes.buffer)};
}

// The polynomial fit of the colour map Turbo, for x in [0, 1].
const TURBO = [
  [0.13572138, 4.6153926, -42.66032258, 132.13108234, -152.94239396, 59.28637943],
  [0.09140261, 2.19418839, 4.84296658, -14.18503333, 4.27729857, 2.82956604],
  [0.1066733, 12.64194608, -60.58204836, 110.36276771, -89.90310912, 27.34824973],
];
const polynomial = (c, x) => c.reduceRight((sum, k) => sum * x + k, 0);
const turbo = Array.from({length: 256}, (_, k) =>
  TURBO.map((c) => Math.round(255 * Math.min(1, Math.max(0, polynomial(c, k / 255))))));
const LESS = [33, 102, 172];
const MORE = [214, 24, 43];

/** Makes a canvas of colour(value) = [[r, g, b], alpha in 0..1]. */
function paint({height, width}, values, colour) {
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext('2d');
  const image = context.createImageData(width, height);
  values.forEach((value, k) => {
    const [rgb, alpha] = colour(value);
    image.data.set(rgb, 4 * k);
    image.data[4 * k + 3] = 255 * alpha;
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

const range = (values) => values.reduce(
  ([least, most], v) => [Math.min(least, v), Math.max(most, v)], [Infinity, -Infinity]);

/** Paints a map from its minimum to its maximum; the least shows no heat. */
export function heat(map) {
  const [least, most] = range(map.values);
  const scale = most > least ? 1 / (most - least) : 0;
  return paint(map, map.values, (value) => {
    const x = (value - least) * scale;
    return [turbo[Math.round(255 * x)], Math.sqrt(x)];
  });
}

/** Paints what one map has more or less than another. */
export function difference(before, after) {
  const values = after.values.map((v, k) => v - before.values[k]);
  const [least, most] = range(values);
  const top = Math.max(-least, most) || 1;
  return paint(after, values, (v) =>
    [v < 0 ? LESS : MORE, Math.abs(v) / top]);
}

/** Makes share(box) of a map; boxes are in pixels of an image of that size. */
export function shares(map, imageWidth, imageHeight) {
  const {width, height, values} = map;
  const sums = new Float64Array((width + 1) * (height + 1));
  for (let y = 0; y < height; y++) {
    for (let x = 0, row = 0; x < width; x++) {
      row += values[y * width + x];
      sums[(y + 1) * (width + 1) + x + 1] = sums[y * (width + 1) + x + 1] + row;
    }
  }
  const at = (x, y) => sums[y * (width + 1) + x];
  // Between pixels, since a map may be smaller than its image.
  const upTo = (x, y) => {
    const left = Math.min(Math.floor(x), width - 1);
    const top = Math.min(Math.floor(y), height - 1);
    const [u, v] = [x - left, y - top];
    return (1 - v) * ((1 - u) * at(left, top) + u * at(left + 1, top)) +
      v * ((1 - u) * at(left, top + 1) + u * at(left + 1, top + 1));
  };
  const [sx, sy] = [width / imageWidth, height / imageHeight];
  return ({x, y, width: w, height: h}) => {
    const [x0, y0, x1, y1] = [x * sx, y * sy, (x + w) * sx, (y + h) * sy];
    return Math.max(0, upTo(x1, y1) - upTo(x0, y1) - upTo(x1, y0) + upTo(x0, y0));
  };
}
