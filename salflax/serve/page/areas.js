// Areas of interest: boxes over the images, moved by mouse, touch and keys.

const LEAST = 4; // pixels of the image, the least side of a box
const clamp = (v, least, most) => Math.min(Math.max(v, least), most);

/**
 * Boxes in pixels of the image, drawn on several stages at once.
 *
 * onChange is called after every change, onName with the area whose name is
 * to be typed, say with a sentence for screen readers.
 */
export class Areas {
  constructor({onChange, onName, say}) {
    Object.assign(this, {onChange, onName, say});
    this.list = [];
    this.stages = [];
    this.drawing = false;
    this.count = 0;
  }

  /** Shows the boxes on these stages; the first one takes the keyboard. */
  show(stages, width, height) {
    if (this.list.length && (width !== this.width || height !== this.height)) {
      this.list = [];
      this.say('The image has another size: its areas were removed.');
    }
    Object.assign(this, {stages, width, height});
    for (const stage of stages) {
      stage.addEventListener('pointerdown', (event) => this.grab(event, stage));
    }
    this.render();
  }

  /** Adds a box; by default in the middle of the image. */
  add(box) {
    const side = {width: this.width / 4, height: this.height / 4};
    const middle = {x: (this.width - side.width) / 2, y: (this.height - side.height) / 2};
    const area = {name: this.freeName(), ...(box || {...middle, ...side})};
    this.list.push(area);
    this.place(area, area);
    return area;
  }

  freeName() {
    do this.count += 1;
    while (this.list.some((area) => area.name === `area ${this.count}`));
    return `area ${this.count}`;
  }

  remove(area) {
    const place = this.list.indexOf(area);
    this.list.splice(place, 1);
    this.say(`${area.name} removed.`);
    this.render();
    const next = this.list[Math.min(place, this.list.length - 1)];
    if (next) this.focus(next);
    else document.getElementById('add-area').focus();
  }

  /** Brings a box to whole pixels inside the image. */
  place(area, {x, y, width, height}) {
    area.width = clamp(Math.round(width), Math.min(LEAST, this.width), this.width);
    area.height = clamp(Math.round(height), Math.min(LEAST, this.height), this.height);
    area.x = clamp(Math.round(x), 0, this.width - area.width);
    area.y = clamp(Math.round(y), 0, this.height - area.height);
    this.render();
  }

  element(area, stage = this.stages[0]) {
    return [...stage.querySelectorAll('.area')].find((e) => e.area === area);
  }

  focus(area) {
    this.element(area).focus();
  }

  render() {
    for (const [k, stage] of this.stages.entries()) {
      for (const element of stage.querySelectorAll('.area')) {
        if (!this.list.includes(element.area)) element.remove();
      }
      for (const area of this.list) {
        const element = this.element(area, stage) || this.make(area, stage, !k);
        element.style.left = `${100 * area.x / this.width}%`;
        element.style.top = `${100 * area.y / this.height}%`;
        element.style.width = `${100 * area.width / this.width}%`;
        element.style.height = `${100 * area.height / this.height}%`;
        element.firstChild.textContent = area.name;
        element.setAttribute('aria-label', `${area.name}, area at ${area.x}, ` +
          `${area.y}, ${area.width} by ${area.height} pixels`);
      }
    }
    this.onChange();
  }

  make(area, stage, first) {
    const element = document.createElement('div');
    element.className = 'area';
    element.area = area;
    element.append(document.createElement('b'), document.createElement('i'));
    if (first) {
      element.tabIndex = 0;
      element.setAttribute('role', 'button');
      element.setAttribute('aria-describedby', 'area-hint');
      element.addEventListener('keydown', (event) => this.press(event, area));
    } else {
      element.setAttribute('aria-hidden', 'true');
    }
    stage.append(element);
    return element;
  }

  press(event, area) {
    const arrows = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    const {x, y, width, height} = area;
    if (event.key in arrows) {
      const [dx, dy] = arrows[event.key];
      const step = Math.max(1, Math.round(Math.max(this.width, this.height) / 100));
      // A side that meets the border stays there; the box does not move.
      this.place(area, event.shiftKey ?
        {x, y, width: Math.min(width + dx * step, this.width - x),
          height: Math.min(height + dy * step, this.height - y)} :
        {x: x + dx * step, y: y + dy * step, width, height});
      this.say(this.describe(area));
    } else if (event.key === 'Delete' || event.key === 'Backspace') {
      this.remove(area);
    } else if (event.key === 'Enter') {
      this.onName(area);
    } else {
      return;
    }
    event.preventDefault();
  }

  describe(area) {
    return `${area.name}: ${area.text || ''}`;
  }

  /** Begins to move, resize or draw a box. */
  grab(event, stage) {
    const target = event.target.closest('.area');
    if (event.button || !(target || this.drawing)) return;
    event.preventDefault();
    const point = (e) => {
      const frame = stage.getBoundingClientRect();
      return {
        x: clamp((e.clientX - frame.left) / frame.width, 0, 1) * this.width,
        y: clamp((e.clientY - frame.top) / frame.height, 0, 1) * this.height,
      };
    };
    const start = point(event);
    let area = target?.area;
    const before = {...area};
    const resizes = event.target.tagName === 'I';
    const move = (e) => {
      if (e.pointerId !== event.pointerId) return;
      const {x, y} = point(e);
      const [dx, dy] = [x - start.x, y - start.y];
      if (!target) {
        const box = {x: Math.min(x, start.x), y: Math.min(y, start.y),
          width: Math.abs(dx), height: Math.abs(dy)};
        // A click or a tremble draws nothing.
        const frame = stage.getBoundingClientRect();
        const far = Math.hypot(e.clientX - event.clientX, e.clientY - event.clientY) > 6;
        if (!area && far && frame.width) area = this.add(box);
        else if (area) this.place(area, box);
      } else if (resizes) {
        this.place(area, {...before, width: Math.min(before.width + dx, this.width - before.x),
          height: Math.min(before.height + dy, this.height - before.y)});
      } else {
        this.place(area, {...before, x: before.x + dx, y: before.y + dy});
      }
    };
    const end = (e) => {
      if (e.pointerId !== event.pointerId) return;
      stage.removeEventListener('pointermove', move);
      stage.removeEventListener('pointerup', end);
      stage.removeEventListener('pointercancel', end);
      if (e.type === 'pointercancel' && target) this.place(area, before);
      else if (area) this.say(this.describe(area));
      if (area && this.list.includes(area)) this.focus(area);
    };
    stage.setPointerCapture(event.pointerId);
    stage.addEventListener('pointermove', move);
    stage.addEventListener('pointerup', end);
    stage.addEventListener('pointercancel', end);
  }

  /** The areas as the API takes them. */
  toJSON() {
    return this.list.map(({name, x, y, width, height}) => ({name, box: [x, y, width, height]}));
  }
}
