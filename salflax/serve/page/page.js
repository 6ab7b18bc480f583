// The page: form, answer, figures, tables, downloads, history.

import {Areas} from '/areas.js';
import {difference, heat, readMap, shares} from '/maps.js';

const $ = (id) => document.getElementById(id);
let limits = null;
let file = null;
let preview = null; // URL of the chosen file
let result = null; // what stands on the page: file, answer, maps, image

/** Makes an element with properties and children. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

let pending;
function say(text) {
  // Of a row of key presses only the last is read out.
  clearTimeout(pending);
  pending = setTimeout(() => { $('live').textContent = text; }, 300);
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const label = (text) => text || 'free viewing';
const readable = (text) => text ? `“${text}”` : make('em', {textContent: 'free viewing'});

// Sentences.

function addText(value = '') {
  const input = make('input', {type: 'text', value, autocomplete: 'off'});
  input.setAttribute('aria-describedby', 'text-hint');
  if (limits) input.maxLength = limits.text_length;
  const remove = make('button', {type: 'button', textContent: '×'});
  const item = make('li', {}, make('label'), input, remove);
  remove.addEventListener('click', () => {
    const next = item.nextElementSibling || item.previousElementSibling;
    item.remove();
    number();
    next.querySelector('input').focus();
  });
  $('texts').append(item);
  number();
  return input;
}

function number() {
  const items = [...$('texts').children];
  for (const [k, item] of items.entries()) {
    const [name, input, remove] = item.children;
    input.id = `text-${k + 1}`;
    name.htmlFor = input.id;
    name.textContent = `${k + 1}`;
    input.setAttribute('aria-label', `Sentence ${k + 1}`);
    remove.setAttribute('aria-label', `Remove sentence ${k + 1}`);
    remove.hidden = items.length === 1;
  }
  $('add-text').disabled = Boolean(limits) && items.length >= limits.texts;
}

const texts = () => [...$('texts').querySelectorAll('input')].map((i) => i.value.trim());

// The image.

function choose(chosen) {
  file = chosen;
  fail('');
  if (preview) URL.revokeObjectURL(preview);
  preview = URL.createObjectURL(file);
  $('preview').src = preview;
  $('preview').hidden = false;
  $('file-name').textContent = file.name;
  $('status').textContent = `${file.name} chosen.`;
}

function fail(message) {
  $('error').textContent = message;
  if (message) $('status').textContent = '';
}

/** Sends the image and these fields; returns the response, or throws. */
async function ask(image, fields) {
  const form = new FormData();
  for (const [name, value] of fields) form.append(name, value);
  form.append('image', image);
  let response;
  try {
    response = await fetch('/api/predict', {method: 'POST', body: form});
  } catch {
    throw new Error('The server does not answer, or the file cannot be read.');
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Error(body.error || `The server answered ${response.status}.`);
}

async function predict() {
  if (!file) {
    fail('Choose an image first.');
    $('file').focus();
    return;
  }
  if (limits && file.size > limits.file_bytes) {
    fail(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB; allowed are ` +
      `${(limits.file_bytes / 1e6).toFixed(1)} MB.`);
    return;
  }
  fail('');
  $('status').textContent = 'Predicting …';
  $('predict').disabled = true;
  try {
    const image = file;
    const fields = texts().map((text) => ['text', text]);
    const answer = await (await ask(image, fields)).json();
    const maps = answer.sentences.map((sentence) => readMap(sentence.map));
    result = {file: image, answer, maps, image: await decodeImage(image)};
    $('status').textContent = 'Done.';
    show();
    if (history.state?.view === 'result') history.replaceState({view: 'result'}, '');
    else history.pushState({view: 'result'}, '');
    $('result-title').focus();
  } catch (error) {
    fail(error.message);
  } finally {
    $('predict').disabled = false;
  }
}

/** Decodes an image for the canvas; null if this browser cannot. */
async function decodeImage(image) {
  const element = new Image();
  const url = URL.createObjectURL(image);
  element.src = url;
  return element.decode().then(() => element, () => null)
    .finally(() => URL.revokeObjectURL(url));
}

// Figures.

function figure(text, ...buttons) {
  const canvas = make('canvas', {width: result.maps[0].width, height: result.maps[0].height});
  canvas.setAttribute('role', 'img');
  const stage = make('div', {className: 'stage'}, canvas);
  // A tall image fits on the screen.
  stage.style.maxWidth = `calc(80vh * ${canvas.width / canvas.height})`;
  const caption = make('figcaption', {}, make('span', {}, text), ...buttons);
  return {canvas, stage, element: make('figure', {}, stage, caption)};
}

/** Draws the image, pale and grey if need be, and a layer over it. */
function draw(canvas, layer, {pale = false} = {}) {
  const context = canvas.getContext('2d');
  const {width, height} = canvas;
  context.fillStyle = pale ? '#ccc' : '#777';
  context.fillRect(0, 0, width, height);
  context.filter = pale ? 'grayscale(1)' : 'none';
  context.globalAlpha = pale ? 0.4 : 1;
  if (result.image) context.drawImage(result.image, 0, 0, width, height);
  context.filter = 'none';
  context.globalAlpha = $('opacity').value / 100;
  context.drawImage(layer, 0, 0);
  context.globalAlpha = 1;
}

function redraw() {
  $('opacity-value').textContent = `${$('opacity').value} %`;
  for (const {canvas, layer} of result.figures) draw(canvas, layer);
  const {canvas, layer} = result.difference;
  if (layer) draw(canvas, layer, {pale: true});
}

function show() {
  const {answer, maps} = result;
  const {width, height} = answer.image;
  result.shares = maps.map((map) => shares(map, width, height));
  result.figures = answer.sentences.map(({text}, k) => {
    const png = make('button', {type: 'button', textContent: 'PNG'});
    const npy = make('button', {type: 'button', textContent: '.npy'});
    png.setAttribute('aria-label', `Download the overlay of ${label(text)} as PNG`);
    npy.setAttribute('aria-label', `Download the map of ${label(text)} as NumPy file`);
    const view = figure(readable(text), png, npy);
    view.canvas.setAttribute('aria-label', `Map of the predicted gaze: ${label(text)}`);
    png.addEventListener('click', () => view.canvas.toBlob((blob) => save(blob, k, 'png')));
    npy.addEventListener('click', () => download([['text', text], ['format', 'npy']], k, 'npy'));
    return {...view, layer: heat(maps[k])};
  });
  $('figures').replaceChildren(...result.figures.map((f) => f.element));
  $('after').replaceChildren(...answer.sentences.map(({text}, k) =>
    new Option(`${k + 1}: ${label(text)}`, k)).slice(1));
  $('difference').hidden = maps.length < 2;
  result.difference = figure('');
  $('difference-figure').replaceChildren(result.difference.element);
  $('result').hidden = false;
  compare();
  const stages = [...result.figures, result.difference].map((f) => f.stage);
  areas.show(stages, width, height);
}

function compare() {
  const {answer, maps} = result;
  if (maps.length > 1) {
    const after = Number($('after').value);
    result.difference.layer = difference(maps[0], maps[after]);
    const words = `from ${label(answer.sentences[0].text)} to ` +
      `${label(answer.sentences[after].text)}`;
    result.difference.canvas.setAttribute('aria-label', `Where the gaze moves, ${words}`);
    result.difference.element.querySelector('span').textContent = words;
    const measures = answer.differences.find((d) => d.after === after);
    $('moved').replaceChildren(...moved(measures));
  }
  redraw();
}

function moved({information_gain: gain, cc, emd, shift}) {
  const rows = [
    ['Information gain', `${gain.toFixed(2)} bits per fixation`],
    ['Correlation', cc.toFixed(2)],
    ['Distance moved', emd && `${emd.pixels.toFixed(0)} px, ${percent(emd.diagonal)} of the diagonal`],
    ['Centre of gaze', `${Math.abs(shift.dx).toFixed(0)} px ${shift.dx < 0 ? 'left' : 'right'}, ` +
      `${Math.abs(shift.dy).toFixed(0)} px ${shift.dy < 0 ? 'up' : 'down'}`],
  ];
  return rows.filter(([, text]) => text).flatMap(([name, text]) =>
    [make('dt', {textContent: name}), make('dd', {textContent: text})]);
}

// Areas.

const areas = new Areas({onChange: tabulate, onName: (area) => area.input.select(), say});

function tabulate() {
  const table = $('area-table');
  $('area-scroll').hidden = !areas.list.length;
  const head = ['Name', ...result.answer.sentences.map(({text}) => label(text)), ''];
  table.tHead.replaceChildren(make('tr', {}, ...head.map((text) =>
    make(text ? 'th' : 'td', {textContent: text, scope: 'col'}))));
  const body = table.tBodies[0];
  for (const row of [...body.rows]) if (!areas.list.includes(row.area)) row.remove();
  for (const area of areas.list) {
    const row = [...body.rows].find((r) => r.area === area) || newRow(area, body);
    const size = area.width * area.height / (areas.width * areas.height);
    const values = result.shares.map((share) => share(area));
    area.text = values.map(percent).join(', ');
    const cells = values.map((share) => make('td', {}, percent(share), ' ',
      make('small', {textContent: `×${(share / size).toFixed(1)}`})));
    row.replaceChildren(row.firstChild, ...cells, row.lastChild);
    row.lastChild.firstChild.setAttribute('aria-label', `Remove ${area.name}`);
  }
}

function newRow(area, body) {
  area.input = make('input', {value: area.name, autocomplete: 'off', maxLength: 80});
  area.input.setAttribute('aria-label', `Name of ${area.name}`);
  area.input.addEventListener('change', () => {
    const name = area.input.value.trim();
    const taken = areas.list.some((other) => other !== area && other.name === name);
    if (!name || taken) {
      fail(name ? `Another area is called ${name}.` : 'An area needs a name.');
      area.input.value = area.name;
      return;
    }
    fail('');
    area.name = name;
    areas.render();
  });
  const remove = make('button', {type: 'button', textContent: '×'});
  remove.addEventListener('click', () => areas.remove(area));
  const row = make('tr', {}, make('th', {scope: 'row'}, area.input), make('td', {}, remove));
  row.area = area;
  body.append(row);
  return row;
}

// Downloads.

function save(blob, k, ending) {
  const stem = result.file.name.replace(/\.[^.]*$/, '') || 'image';
  const url = URL.createObjectURL(blob);
  const place = k === null ? '' : `-${k + 1}`;
  make('a', {href: url, download: `${stem}${place}.${ending}`}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

async function download(fields, k, ending) {
  fail('');
  $('status').textContent = 'Preparing the file …';
  try {
    save(await (await ask(result.file, fields)).blob(), k, ending);
    $('status').textContent = 'Saved.';
  } catch (error) {
    fail(error.message);
  }
}

// Events.

function listen() {
  $('add-text').addEventListener('click', () => addText().focus());
  // A dialog that was cancelled leaves what was chosen before.
  $('file').addEventListener('change', () => $('file').files[0] && choose($('file').files[0]));
  $('preview').addEventListener('error', () => { $('preview').hidden = true; });
  $('form').addEventListener('submit', (event) => {
    event.preventDefault();
    if (!$('predict').disabled) predict();
  });
  // A file that misses its target would replace the page.
  for (const type of ['dragover', 'dragleave', 'drop']) {
    addEventListener(type, (event) => {
      event.preventDefault();
      $('drop').classList.toggle('over', type === 'dragover');
    });
  }
  addEventListener('drop', ({dataTransfer}) => {
    if (dataTransfer.files.length) choose(dataTransfer.files[0]);
    else fail('What was dropped is no file.');
  });
  $('opacity').addEventListener('input', redraw);
  $('after').addEventListener('change', compare);
  $('json').addEventListener('click', () => download([
    ...result.answer.sentences.map(({text}) => ['text', text]),
    ['map_side', 0],
    ['areas', JSON.stringify(areas)],
  ], null, 'json'));
  $('add-area').addEventListener('click', () => areas.focus(areas.add()));
  const setDrawing = () => {
    areas.drawing = $('draw').checked;
    document.body.classList.toggle('drawing', areas.drawing);
  };
  // A finger scrolls the page unless it is asked to draw.
  $('draw').checked = !matchMedia('(pointer: coarse)').matches;
  $('draw').addEventListener('change', setDrawing);
  setDrawing();
  addEventListener('popstate', ({state}) => {
    $('result').hidden = !(result && state?.view === 'result');
    ($('result').hidden ? $('file') : $('result-title')).focus();
  });
}

async function start() {
  // After a reload there is nothing to go back to.
  if (history.state) history.replaceState(null, '');
  addText();
  addText();
  listen();
  if ($('file').files.length) choose($('file').files[0]);
  const about = await (await fetch('/api/about')).json();
  limits = about.limits;
  $('model').textContent = `Model: ${about.model}.`;
  for (const input of $('texts').querySelectorAll('input')) input.maxLength = limits.text_length;
  number();
}

start();
