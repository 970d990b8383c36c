// ---- the list: the newest events, drawn at most ten times a second (four in a flood), that holds still under a reader
const ROWS_MAX = 300, BYTES_MAX = 16e6, DRAW_MS = 100, FLOOD_DRAW_MS = 250, SETTLE_MS = 400, DOMAINS_MAX = 24, DETAIL_MAX = 50_000;
const list = $('events'), scroller = list.parentElement;

let items = [];                   // newest first: { event | gap, id, size, row, words }; a row is made when it may be visible
let waiting = [];                 // newest last, not in the list yet
let waitingBytes = 0, fresh = 0;  // fresh: events since the list was last drawn, including dropped ones
const shown = new Map();          // event id -> item
const openItems = new Set();        // items with an open row
let total = 0, missed = 0, isAtMost = false, isLive = false;
let paused = false, framed = false, isFlood = false, drawnAt = 0, filling = 0, newTotal = false, newDomain = false;
const seconds = new Array(60).fill(0);
const domains = new Map();        // name -> { count, hue, separators, node }

const HUES = { task: 335, agent: 215, workflow: 262, provider: 28, tool: 178, system: 0, log: 95, governance: 50, webhook: 300 };
function hue(name) {
  let angle = HUES[name];
  if (angle === undefined) {
    let hash = 0;
    for (let i = 0; i < name.length; i++) hash = (hash * 31 + name.charCodeAt(i)) | 0;
    angle = Math.round(((hash >>> 0) * 137.508) % 360);
  }
  // Yellow and green are light colours: darker, so that all are legible on white.
  const light = angle > 40 && angle < 200 ? 23 : 36;
  return `light-dark(hsl(${angle} 68% ${light}%), hsl(${angle} 72% 76%))`;
}
const domainOf = (type) => type.split(/[.:/]/, 1)[0];

function take(event, size) {
  if (event.event_id && shown.has(event.event_id)) return;
  total++;
  // Replayed events do not count for the rate.
  if (isLive) seconds[59]++;
  const name = domainOf(event.event_type);
  const separator = event.event_type[name.length] ?? '.';
  const domain = domains.get(name);
  if (domain) {
    domain.count++;
    if (!domain.separators.includes(separator)) {
      domain.separators += separator;
      if (domain.node) nameDomain(name, domain);
    }
  } else if (domains.size < 500) {
    domains.set(name, { count: 1, hue: hue(name), separators: separator, node: null });
    newDomain = true;
  }
  fresh++;
  push({ event, id: event.event_id, size });
}

function push(item) {
  waiting.push(item);
  waitingBytes += item.size;
  // A hidden, paused or held page keeps as many events as it would show, and the gaps.
  if (waiting.length > 2 * ROWS_MAX || waitingBytes > BYTES_MAX) {
    let bytes = 0, from = waiting.length - 1;
    while (from > 0 && waiting.length - from < ROWS_MAX && (bytes += waiting[from].size) < BYTES_MAX / 2) from--;
    const gone = waiting.splice(0, from);
    waiting.unshift(...gone.filter((old) => old.gap).slice(-20));
    waitingBytes = sum(waiting, (one) => one.size);
  }
  newTotal = true;
  draw();
}

function draw() {
  if (framed) return;
  framed = true;
  const wait = drawnAt + (isFlood ? FLOOD_DRAW_MS : DRAW_MS) - performance.now();
  if (wait > 0) setTimeout(() => requestAnimationFrame(frame), wait); else requestAnimationFrame(frame);
}

// ---- holding still: rows stay where they are while a person reads them ----------------------------------------------
let isUnderPointer = false, isTouched = false;
const isHeld = () => paused || openItems.size > 0 || isUnderPointer || isTouched || scroller.scrollTop > 4 || $('journey').open || $('run').open
  || list.querySelector(':focus-visible') !== null || isSelected();
function isSelected() {
  const selection = getSelection();
  return !selection.isCollapsed && list.contains(selection.anchorNode);
}

// Only a moving pointer holds the list: a pointer at rest over a growing list does not mean that a person reads.
list.addEventListener('pointermove', ({ pointerType }) => {
  if (pointerType === 'touch' || isUnderPointer) return;
  isUnderPointer = true;
  fillRows();
});
// It holds it on its way to the button, too.
list.closest('main').addEventListener('pointerleave', () => { isUnderPointer = false; draw(); });
// Between a touch and its click no row may move away from under the finger.
list.addEventListener('pointerdown', ({ pointerType }) => { isTouched = pointerType === 'touch'; });
for (const up of ['pointerup', 'pointercancel']) addEventListener(up, () => isTouched && setTimeout(() => { isTouched = false; draw(); }, SETTLE_MS));
scroller.addEventListener('scroll', () => { if (scroller.scrollTop > 4) fillRows(); draw(); }, { passive: true });
list.addEventListener('focusin', () => { if (list.querySelector(':focus-visible')) fillRows(); });
list.addEventListener('focusout', draw);
document.addEventListener('selectionchange', draw);

/** Shows the events that arrived meanwhile, once. The list stays held, unless only a pointer holds it that has not moved since. */
$('new').onclick = () => {
  isUnderPointer = false;
  flush();
  scroller.scrollTop = 0;
  draw();
};

function frame() {
  framed = false;
  drawnAt = performance.now();
  if (newTotal) { newTotal = false; figures(); }
  if (newDomain) showDomains();
  if (!isHeld()) flush();
  showNew();
}

function showNew() {
  // On a small screen it replaces Pause, which ends a pause itself.
  const text = fresh > 0 && isHeld() && !(paused && small.matches) ? `${fresh.toLocaleString()} new` : '';
  if ($('new').textContent === text) return;
  $('new').textContent = text;
  $('new').hidden = !text;
}

/** Moves waiting events into the list. Rows beyond the window are made later, so that a flood costs one window of rows a turn. */
function flush() {
  fresh = 0;
  showNew();
  if (waiting.length === 0) return;
  const batch = [];
  for (let i = waiting.length - 1; i >= 0 && batch.length < ROWS_MAX; i--) {
    const item = waiting[i];
    if (item.id) {
      if (shown.has(item.id)) continue;
      shown.set(item.id, item);
    }
    batch.push(item);
  }
  waiting = [];
  waitingBytes = 0;
  items = batch.concat(items);
  let bytes = 0;
  const end = items.findIndex((item, at) => at >= ROWS_MAX || ((bytes += item.size) > BYTES_MAX && at > 0));
  if (end >= 0) items.splice(end).forEach(forget);
  fit(batch);
  const eager = Math.min(sought ? items.length : Math.ceil(scroller.clientHeight / 30) + 4, items.length);
  // No person reads more than a window at once: fewer rows are drawn.
  isFlood = batch.length > eager;
  makeRows(eager);
  clearTimeout(filling);
  filling = setTimeout(fillRows, isFlood ? 5 * SETTLE_MS : SETTLE_MS);
  $('empty').hidden = true;
}

function forget(item) {
  item.row?.remove();
  openItems.delete(item);
  if (item.id) shown.delete(item.id);
}

/** Makes the missing rows of the first `end` items, one insertion for each run of them. */
function makeRows(end) {
  let run = null;
  for (let i = 0; i <= end; i++) {
    const item = i < end ? items[i] : null;
    if (item && !item.row) {
      item.row = item.gap ? gapRow(item.gap) : eventRow(item);
      (run ??= document.createDocumentFragment()).append(item.row);
    } else if (run) {
      list.insertBefore(run, (item ?? items.slice(end).find((one) => one.row))?.row ?? null);
      run = null;
    }
  }
  list.firstElementChild?.firstElementChild?.setAttribute('tabindex', 0);
}

function fillRows() {
  clearTimeout(filling);
  if (list.childElementCount < items.length) makeRows(items.length);
}

// ---- columns, as wide as their texts --------------------------------------------------------------------------------
const WIDTHS = { type: [8, 40], from: [8, 32], about: [8, 40] };
// Number of texts of each length, for each column: a few long ones do not take the room of all others.
const lengths = { type: [], from: [], about: [] }, given = { type: [0, 0], from: [0, 0], about: [0, 0] };
let measured = 0, fitted = '';
const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\ud83c-\ud83e]/g;
const cells = (text) => text.length + (text.match(WIDE)?.length ?? 0);
const aboutOf = ({ entity, stream_id, channel }) => (entity ? `${entity.kind}:${entity.id}` : channel ? `channel:${channel}` : stream_id ? `stream:${stream_id}` : '');

function fit(batch) {
  for (const { event } of batch) {
    if (!event) continue;
    const texts = { type: event.event_type, from: event.source ?? '', about: aboutOf(event) };
    for (const name in texts) {
      const length = Math.min(cells(texts[name]), WIDTHS[name][1]);
      lengths[name][length] = (lengths[name][length] ?? 0) + 1;
    }
    measured++;
  }
  for (const name in lengths) {
    let beyond = measured / 20, need = WIDTHS[name][1];
    while (need > 0 && (beyond -= lengths[name][need] ?? 0) >= 0) need--;
    // With enough rows, a column only grows: the others stay where they are.
    const isSettled = measured >= 2 * HISTORY, most = lengths[name].length - 1;
    given[name] = isSettled ? [Math.max(given[name][0], need), Math.max(given[name][1], most)] : [need, most];
  }
  fitColumns();
}

/** Gives each column the width of its longest text; if that is too much in all, the width of 19 of 20 texts, and then less. */
function fitColumns() {
  const widths = {}, room = Math.floor(scroller.clientWidth / 7.6 * 0.6) - 14;
  // A tablet has no room for three columns: an open row shows the entity.
  const isNarrow = scroller.clientWidth < 860;
  scroller.classList.toggle('narrow', isNarrow);
  for (const name in WIDTHS) if (name !== 'about' || !isNarrow) widths[name] = Math.max(given[name][1] + 1, WIDTHS[name][0]);
  for (let over = sum(Object.values(widths), Number) - room; over > 0; over--) {
    const slack = (name) => widths[name] - Math.max(given[name][0] + 1, WIDTHS[name][0]);
    const names = Object.keys(widths), loose = names.filter((name) => slack(name) > 0);
    const [widest] = (loose.length ? loose : names).sort((a, b) => widths[b] - widths[a]);
    if (widths[widest] <= WIDTHS[widest][0]) break;
    widths[widest]--;
  }
  const text = Object.values(widths).map((width) => `${width}ch`).join(' ');
  if (text !== fitted) scroller.style.setProperty('--columns', fitted = text);
}

function forgetColumns() {
  measured = 0;
  for (const name in lengths) { lengths[name] = []; given[name] = [0, 0]; }
}
new ResizeObserver(fitColumns).observe(scroller);

// ---- rows -----------------------------------------------------------------------------------------------------------
let sought = '';
const isFound = (item) => !sought || Boolean(item.event) && (item.words ??= JSON.stringify(item.event).toLowerCase()).includes(sought);
$('search').addEventListener('input', () => {
  sought = $('search').value.trim().toLowerCase();
  fillRows();
  for (const item of items) if (item.row) item.row.hidden = !isFound(item);
  showNothing();
});
function showNothing() {
  const isNothing = Boolean(sought) && items.length > 0 && !items.some(isFound);
  $('nothing').hidden = !isNothing;
  if (isNothing) $('nothing').textContent = `None of these ${items.length} events has “${$('search').value.trim()}”`;
}

const two = (n) => String(n).padStart(2, '0');
function clock(timestamp) {
  const date = new Date(timestamp);
  if (isNaN(date)) return timestamp;
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, '0')}`;
}

function eventRow(item) {
  const { event } = item;
  const row = document.createElement('li');
  row.dataset.eventId = event.event_id;
  row.dataset.type = event.event_type;
  const line = button('', 'row');
  line.setAttribute('aria-expanded', 'false');
  line.tabIndex = -1;
  line.style.setProperty('--hue', domains.get(domainOf(event.event_type))?.hue ?? 'inherit');
  const time = element('time', '', clock(event.timestamp));
  const [type, from, about] = [event.event_type, event.source ?? '', aboutOf(event)].map(plain);
  line.append(time, element('span', 'type', type), element('span', 'from', from), element('span', 'about', about), what(event.payload));
  line.title = [type, from, about].filter(Boolean).join('  ·  ').slice(0, 400);
  line.onclick = () => toggle(item);
  row.append(line);
  row.hidden = !isFound(item);
  return row;
}

function toggle(item) {
  const line = item.row.firstChild;
  const isOpen = openItems.delete(item);
  line.setAttribute('aria-expanded', String(!isOpen));
  if (isOpen) line.nextSibling.remove();
  else {
    openItems.add(item);
    item.row.append(detail(item.event));
    fillRows();
  }
  draw();
}

function detail(event) {
  const opened = element('div', 'opened'), box = element('div', 'detail');
  const text = JSON.stringify(event, null, 2);
  const all = element('pre', '', text.slice(0, DETAIL_MAX).replace(UNSEEN, (c) => (c === '\n' ? c : plain(c))));
  all.tabIndex = 0;
  all.setAttribute('aria-label', 'The event as JSON');
  const journey = button('Journey', 'main'), copying = button('Copy JSON');
  journey.title = 'Where it stands, who wanted it, and why others did not';
  journey.onclick = () => openJourney(event.event_id);
  copying.onclick = () => copy(text, copying);
  box.append(journey, all);
  opened.append(box, copying, chips(event));
  if (text.length > DETAIL_MAX) opened.append(element('p', '', `${count(DETAIL_MAX)} of ${count(text.length)} characters are shown; the copy has all.`));
  return opened;
}

const ATTRIBUTES = [['type', 'event_type'], ['source', 'source'], ['entity', 'entity'], ['stream', 'stream_id'], ['channel', 'channel'], ['execution', 'execution_id'], ['correlation', 'correlation_id']];

const word = (text) => (/^[^\s\p{Cc},"'=!<>&()]+$/u.test(text) ? text : JSON.stringify(text));

/** Writes a condition of the filter language that holds for this value and no other. */
function condition(name, value) {
  const operator = value.includes('*') ? '==' : '=';
  if (name !== 'entity') return name + operator + word(value);
  const cut = value.indexOf(':');
  return `${name}${operator}${word(value.slice(0, cut))}:${word(value.slice(cut + 1))}`;
}

/** Returns a button for each attribute of an event, which filters by it. */
function chips(event) {
  const box = element('div', 'chips');
  box.append(element('span', '', 'Only'));
  for (const [name, field] of ATTRIBUTES) {
    const value = field === 'entity' ? event.entity && `${event.entity.kind}:${event.entity.id}` : event[field];
    if (!value) continue;
    const chip = button('');
    chip.append(element('i', '', name), element('bdi', '', plain(value)));
    chip.title = condition(name, value);
    chip.onclick = () => {
      $('journey').close();
      show('events');
      setFilter(condition(name, value));
    };
    box.append(chip);
    if (name !== 'stream') continue;
    const whole = button('Whole run');
    whole.title = `The stream ${plain(value)} from its start, its text and its end`;
    whole.onclick = () => {
      $('journey').close();
      openRun(value);
    };
    box.append(whole);
  }
  return box;
}

// Invisible characters, and those that reverse the order of others, are written as escapes.
const UNSEEN = /[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/gu;
const plain = (text) => text.replace(UNSEEN, (c) => (c === '\n' ? '↵' : c === '\t' ? ' ' : `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`));
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/;

/** Writes a payload on one line: names soft, values plain. The work is bounded, however large the payload. */
function what(payload) {
  const node = element('span', 'what');
  let room = 240;
  const add = (text) => node.append(RIGHT_TO_LEFT.test(text) ? element('bdi', '', text) : text);
  if (payload === null || typeof payload !== 'object' || Array.isArray(payload)) {
    add(short(payload, room));
    return node;
  }
  for (const name in payload) {
    const text = short(payload[name], 160);
    node.append(element('em', '', plain(name.slice(0, 80))), ' ');
    add(text);
    node.append('  ');
    if ((room -= name.length + text.length) < 0) break;
  }
  return node;
}
function short(value, room) {
  if (typeof value === 'string') return plain(value.slice(0, room));
  if (value === null || typeof value !== 'object') return String(value);
  const isList = Array.isArray(value);
  let text = isList ? '[' : '{', isFirst = true;
  for (const name in value) {
    if (text.length >= room) return `${text.slice(0, room)}…`;
    if (!isFirst) text += ', ';
    isFirst = false;
    text += (isList ? '' : `${plain(name.slice(0, 40))}: `) + short(value[name], room - text.length);
  }
  return text + (isList ? ']' : '}');
}

function gapRow(gap) {
  const row = element('li', 'gap');
  const one = (n) => (n === 1 ? 'event' : 'events');
  const { missed = null, at_most: atMost = null } = gap;
  row.dataset.missed = missed ?? '';
  if (missed !== null) row.textContent = `${missed.toLocaleString()} ${one(missed)} missed here`;
  else if (atMost !== null) row.textContent = `Up to ${atMost.toLocaleString()} ${one(atMost)} may be missing here`;
  else row.textContent = 'Events may be missing here: the server no longer knows what came since';
  return row;
}

function takeGap(gap) {
  missed += gap.missed ?? gap.at_most ?? 0;
  isAtMost ||= (gap.missed ?? null) === null && (gap.at_most ?? null) !== null;
  push({ gap, size: 100 });
}

// Arrow keys go from row to row; one row is a stop of the Tab key.
list.addEventListener('keydown', (key) => {
  const row = key.target.closest('li');
  if (!row || key.ctrlKey || key.metaKey || key.altKey) return;
  if (key.key === 'Escape') {
    for (const item of [...openItems]) toggle(item);
    row.querySelector('.row')?.blur();
    return draw();
  }
  if (!key.target.matches('.row')) return;
  const rows = [...list.querySelectorAll('li:not([hidden]) > .row')];
  const at = rows.indexOf(key.target);
  const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[key.key];
  if (next === undefined) return;
  key.preventDefault();
  const to = rows[Math.min(Math.max(next, 0), rows.length - 1)];
  to.focus();
  to.scrollIntoView({ block: 'nearest' });
});

// ---- figures and domains --------------------------------------------------------------------------------------------
function figures() {
  $('total').textContent = total.toLocaleString();
  $('lost').hidden = missed === 0;
  $('missed').textContent = `${isAtMost ? '≤ ' : ''}${missed.toLocaleString()}`;
}

const spark = new Chart({ name: 'events/s', samples: 60, step: 1, written: (n) => n.toLocaleString(), from: '60 s ago' });
$('spark').append(spark.node);

// Updates the rate and the chart once a second by the clock, because timers of a hidden tab are slow.
let second = Math.floor(performance.now() / 1000);
setInterval(() => {
  const now = Math.floor(performance.now() / 1000);
  const passed = Math.min(now - second, 60);
  if (passed < 1) return;
  second = now;
  if (passed > 1) seconds[59] = Math.round(seconds[59] / passed);
  $('rate').textContent = seconds[59].toLocaleString();
  spark.draw([...seconds]);
  for (let i = 0; i < passed; i++) { seconds.shift(); seconds.push(0); }
}, 250);

function showDomains() {
  if (document.hidden) return;
  const isNew = newDomain;
  newDomain = false;
  // The order changes only with a new domain: a chip does not move away from under a finger.
  if (isNew) {
    const top = [...domains].sort((a, b) => b[1].count - a[1].count).slice(0, DOMAINS_MAX);
    $('domains').replaceChildren(...top.map(([name, domain]) => domain.node ?? domainNode(name, domain)));
  }
  for (const domain of domains.values()) {
    if (!domain.node) continue;
    const text = domain.count < 10_000 ? domain.count.toLocaleString() : brief(domain.count);
    if (domain.node.lastChild.textContent !== text) domain.node.lastChild.textContent = text;
  }
}
function domainNode(name, domain) {
  const node = domain.node = button('');
  node.style.setProperty('--hue', domain.hue);
  node.setAttribute('aria-pressed', 'false');
  node.append(element('i'), element('bdi', '', plain(name)), element('b'));
  node.onclick = () => setFilter(good === node.dataset.filter ? '' : node.dataset.filter);
  nameDomain(name, domain);
  return node;
}
/** Gives a domain's chip its filter: a pattern for each separator seen after the domain, because `agent.**` does not match `agent:one`. */
function nameDomain(name, { node, separators }) {
  const own = `type=${[...separators].map((separator) => word(`${name}${separator}**`)).join(',')}`;
  node.title = `Only ${own}`;
  node.dataset.filter = own;
}
// The wheel also reaches chips that do not fit on the line.
$('domains').addEventListener('wheel', ({ deltaX, deltaY }) => { if (!deltaX) $('domains').scrollLeft += deltaY; }, { passive: true });
setInterval(showDomains, 300);

