// ---- charts: a line with a scale, and the value under the pointer, the finger or the arrow keys ---------------------
const SVG = 'http://www.w3.org/2000/svg', CHART_HEIGHT = 40;

/** Returns a short form of at most five characters, for places that do not grow. */
function brief(n) {
  for (const unit of ['', 'k', 'M', 'G']) {
    if (n < 1000 || unit === 'G') return unit && n < 10 ? `${Number(n.toFixed(1))}${unit}` : `${Math.round(n)}${unit}`;
    n /= 1000;
  }
}
function briefBytes(n) {
  for (const unit of ['', 'K', 'M', 'G']) {
    if (n < 1024 || unit === 'G') return `${Math.round(n)}${unit}`;
    n /= 1024;
  }
}

/** Returns the top of a scale with a whole number at its half. */
function topOf(most, base) {
  let size = 1;
  while (most > (base === 1024 ? 400 : 10) * size) size *= base;
  const steps = base === 1024 ? [2, 4, 10, 20, 40, 100, 200, 400, 1024] : [2, 4, 10];
  return size * (steps.find((step) => most <= step * size) ?? steps.at(-1));
}

const ago = (seconds) => (seconds < 1 ? 'now' : seconds < 120 ? `${seconds} s ago` : `${Math.floor(seconds / 60)} min ${seconds % 60 ? `${seconds % 60} s ` : ''}ago`);

class Chart {
  /**
   * At most `samples` values, one for each `step` seconds; `label` writes a tick of the scale, `written` a value; `peers` are charts of the
   * same time, which show the same moment.
   */
  constructor({ name, samples, step, written, base = 10, from, peers = [] }) {
    Object.assign(this, { name, samples, step, written, base, peers, values: [], back: null });
    peers.push(this);
    this.node = element('div', 'plot');
    this.ticks = element('div', 'ticks');
    this.ticks.append(...[0, 1, 2].map(() => element('span')));
    this.area = element('div', 'area');
    const svg = document.createElementNS(SVG, 'svg');
    svg.setAttribute('viewBox', `0 0 ${samples - 1} ${CHART_HEIGHT}`);
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.setAttribute('aria-hidden', 'true');
    const path = (name) => {
      const node = svg.appendChild(document.createElementNS(SVG, 'path'));
      node.setAttribute('class', name);
      return node;
    };
    path('grid').setAttribute('d', [0, 20, 40].map((y) => `M0 ${y}H${samples - 1}`).join(''));
    this.fill = path('fill');
    this.line = path('line');
    this.mark = element('div', 'mark');
    this.tip = element('div', 'tip');
    this.mark.hidden = this.tip.hidden = true;
    this.area.append(svg, this.mark, this.tip);
    const times = element('div', 'times');
    times.append(element('span', '', from), element('span', '', 'now'));
    this.node.append(this.ticks, this.area, times);
    for (const [key, value] of [['role', 'slider'], ['aria-label', `${name}: value at a time`], ['aria-orientation', 'horizontal'], ['aria-valuemin', -(samples - 1) * step], ['aria-valuemax', 0]]) this.area.setAttribute(key, value);
    this.area.tabIndex = 0;
    this.listen();
    this.draw();
  }

  listen() {
    const { area } = this;
    const at = ({ clientX }) => {
      const { left, width } = area.getBoundingClientRect();
      this.show(Math.round((1 - (clientX - left) / width) * (this.samples - 1)));
    };
    area.onpointermove = area.onpointerdown = at;
    area.onpointerleave = ({ pointerType }) => { if (pointerType === 'mouse') this.show(null); };
    area.onfocus = () => { if (area.matches(':focus-visible') && this.back === null) this.show(0); };
    area.onblur = () => this.show(null);
    area.onkeydown = (key) => {
      if (key.ctrlKey || key.metaKey || key.altKey) return;
      const back = this.back ?? 0;
      const next = { ArrowLeft: back + 1, ArrowRight: back - 1, PageUp: back + 10, PageDown: back - 10, Home: this.samples - 1, End: 0, Escape: null }[key.key];
      if (next === undefined) return;
      key.preventDefault();
      this.show(next);
    };
  }

  /** Shows the value of `ago` steps ago in this chart and its peers; null hides it. */
  show(back) {
    for (const chart of this.peers) {
      chart.back = back === null ? null : Math.min(Math.max(back, 0), this.samples - 1);
      chart.isAsked = chart === this;
      chart.point();
    }
  }

  draw(values = this.values) {
    this.values = values;
    const top = this.top = topOf(Math.max(...values, 0), this.base);
    const label = this.base === 1024 ? briefBytes : brief;
    [top, top / 2, 0].forEach((n, i) => {
      const text = label(n), span = this.ticks.children[i];
      if (span.textContent !== text) span.textContent = text;
    });
    const from = this.samples - values.length;
    const points = values.map((n, i) => `${from + i} ${(CHART_HEIGHT * (1 - n / top)).toFixed(1)}`).join('L');
    this.line.setAttribute('d', points && `M${points}`);
    this.fill.setAttribute('d', points && `M${from} ${CHART_HEIGHT}L${points}L${this.samples - 1} ${CHART_HEIGHT}Z`);
    this.point();
  }

  point() {
    const isShown = this.back !== null;
    this.mark.hidden = this.tip.hidden = !isShown;
    const back = this.back ?? 0, value = this.values.at(-1 - back);
    const text = value === undefined ? 'nothing known' : `${this.written(value)} ${this.name}`;
    this.area.setAttribute('aria-valuenow', -back * this.step);
    this.area.setAttribute('aria-valuetext', `${text}, ${ago(back * this.step)}`);
    if (!isShown) return;
    const x = 100 * (1 - back / (this.samples - 1));
    this.mark.style.left = `${x}%`;
    this.mark.style.setProperty('--y', `${100 * (1 - (value ?? 0) / this.top)}%`);
    this.mark.classList.toggle('unknown', value === undefined);
    this.tip.textContent = this.isAsked ? `${value === undefined ? text : this.written(value)} · ${ago(back * this.step)}` : value === undefined ? '–' : this.written(value);
    // Shifted in proportion to its own width, so that it ends where the chart ends.
    this.tip.style.left = `${x}%`;
    this.tip.style.translate = `${-x}%`;
  }
}

