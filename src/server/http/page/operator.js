
// ---- the operator's view: the server's own figures -----------------------------------------------------------------
const LOOK_MS = 2000, SAMPLES = 150, INTERESTS_MAX = 50;
const count = (n) => (n ?? 0).toLocaleString();
const bytes = (n) => {
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (n < 1024 || unit === 'GiB') return `${n < 10 && unit !== 'B' ? n.toFixed(1) : Math.round(n)} ${unit}`;
    n /= 1024;
  }
};
const rounded = (n) => (n >= 100 || Number.isInteger(n) ? Math.round(n).toLocaleString() : n.toFixed(1));
const time = (ms) => (ms < 1000 ? `${ms} ms` : `${(ms / 1000).toFixed(1)} s`);
const lasting = (seconds) => {
  const parts = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];
  const at = Math.max(0, parts.findIndex(([size]) => seconds >= size));
  return parts.slice(at, at + 2).map(([size, unit]) => { const n = Math.floor(seconds / size); seconds -= n * size; return `${n} ${unit}`; }).join(' ');
};

const sum = (all, of) => all.reduce((before, one) => before + of(one), 0);
const rate = (of) => (now, then, seconds) => Math.max(0, of(now) - of(then)) / seconds;
// Each figure: its name, its value from two samples (`now`, `then`, seconds between), its format, the base of its scale, whether more than 0 is bad.
const peers = [];
const CHARTS = [
  ['published', 'events/s in', rate((stats) => sum(stats.shards, (shard) => shard.head)), rounded],
  ['delivered', 'events/s out', rate((stats) => stats.deliveries), rounded],
  ['written_bytes', 'written/s', rate((stats) => stats.written_bytes), bytes, 1024],
  ['connections', 'clients', (now) => now.connections.ws + now.connections.sse, count],
  ['pending', 'events waiting', (now) => now.ledger.pending, count],
  ['missed', 'events/s missed', rate((stats) => stats.dropped), rounded, 10, true],
].map(([id, name, number, written, base, isAlarm]) => {
  const card = element('div', 'chart'), head = element('div', 'head'), value = element('b', '', '–');
  card.id = `chart-${id}`;
  head.append(value, element('span', '', name));
  const chart = new Chart({ name, samples: SAMPLES, step: LOOK_MS / 1000, written, base, from: '5 min ago', peers });
  card.append(head, chart.node);
  $('charts').append(card);
  return { id, number, written, isAlarm, card, value, chart, samples: [] };
});

function chart(one, number) {
  one.samples.push(number);
  if (one.samples.length > SAMPLES) one.samples.shift();
  plot(one);
}

function plot(one) {
  const number = one.samples.at(-1);
  one.value.textContent = one.written(number);
  one.card.classList.toggle('alarm', Boolean(one.isAlarm) && number > 0);
  one.chart.draw(one.samples);
}

/** Loads the server's history from before this page, in steps as long as this page's samples. */
async function loadHistory() {
  const history = await api('/api/history');
  const step = LOOK_MS / 1000;
  for (const one of CHARTS) {
    const seconds = history[one.id] ?? [];
    const steps = [];
    for (let end = seconds.length; end >= step; end -= step) {
      const last = seconds.slice(end - step, end);
      steps.unshift(one.number.length === 1 ? last.at(-1) : sum(last, Number) / step);
    }
    one.samples.unshift(...steps);
    one.samples.splice(0, Math.max(0, one.samples.length - SAMPLES));
    if (one.samples.length) plot(one);
  }
}

/** Fills a table: each row a list of cells, text or a node. */
function fill(table, rows, none) {
  const width = $(table).tHead.rows[0].cells.length;
  const made = rows.map((cells) => {
    const row = document.createElement('tr');
    cells.forEach((cell, at) => {
      const head = $(table).tHead.rows[0].cells[at];
      const node = element('td', head.className);
      // On a small screen a row is a card, and each of its cells has its name beside it.
      node.dataset.name = head.textContent;
      node.append(cell);
      row.append(node);
    });
    return row;
  });
  if (made.length === 0) {
    const row = document.createElement('tr');
    const cell = element('td', 'none', none);
    cell.colSpan = width;
    row.append(cell);
    made.push(row);
  }
  $(table).tBodies[0].replaceChildren(...made);
}

const pairs = (list, entries) => list.replaceChildren(...entries.flatMap(([name, value]) => [element('dt', '', name), element('dd', '', value)]));
const filterText = (filters) => (filters.length === 0 || filters.includes('') ? 'everything' : filters.join('  or  '));
const spoken = (interest) => `${interest.lean ? 'lean ' : ''}${interest.dialect} by ${interest.transport === 'ws' ? 'WebSocket' : 'SSE'}${interest.compressed ? ', compressed' : ''}`;

const PARTS = [['written', 145], ['pending', 215], ['dropped', 0], ['conflated', 50], ['merged', 280]];
function showLedger(ledger) {
  const stack = PARTS.map(([name, angle]) => {
    const part = document.createElement('i');
    part.style.flexGrow = ledger.matched ? ledger[name] / ledger.matched : 0;
    part.style.setProperty('--hue', `hsl(${angle} 55% 52%)`);
    return part;
  });
  $('ledger').querySelector('.stack').replaceChildren(...stack);
  const entries = [['matched', null], ...PARTS].map(([name, angle]) => {
    const entry = document.createElement('div');
    entry.style.setProperty('--hue', angle === null ? 'transparent' : `hsl(${angle} 55% 52%)`);
    entry.append(element('dt', '', name), element('dd', '', count(ledger[name])));
    entry.dataset.part = name;
    return entry;
  });
  $('ledger').querySelector('dl').replaceChildren(...entries);
}

let before = null, stats = null;
function showInterests() {
  const words = $('interest-search').value.trim().toLowerCase();
  const found = stats.interests.filter((one) => `${filterText(one.filters)} ${spoken(one)}`.toLowerCase().includes(words));
  $('interest-count').textContent = stats.interests.length >= INTERESTS_MAX
    ? `${count(stats.interests.length)} with the most clients, of ${count(stats.feeds)} feeds`
    : `${count(stats.subscriptions)} ${stats.subscriptions === 1 ? 'subscription' : 'subscriptions'}`;
  fill('interests', found.map((one) => [
    element('code', '', filterText(one.filters)), spoken(one), count(one.members),
    one.kept_events ? `${count(one.kept_events)} events, ${bytes(one.kept_bytes)}` : '–',
  ]), words ? 'None with these words' : 'Nobody wants anything');
}
$('interest-search').addEventListener('input', () => stats && showInterests());

function showServer(then, seconds, isRate) {
  for (const one of CHARTS) if (isRate && (then || one.number.length === 1)) chart(one, one.number(stats, then, seconds));
  if ($('view-server').hidden) return;
  showLedger(stats.ledger);
  showInterests();
  fill('laggards', stats.laggards.map((one) => [
    element('code', '', one.connection), one.speaks, count(one.events), bytes(one.bytes), bytes(one.kernel_bytes), time(one.milliseconds),
  ]), 'Nobody is behind');
  fill('shards', stats.shards.map((shard, at) => {
    const meter = element('span', 'meter'), level = document.createElement('i');
    level.style.width = `${100 * (shard.head - shard.oldest) / shard.capacity}%`;
    meter.append(level);
    const kept = element('span');
    kept.append(meter, count(shard.head - shard.oldest));
    const was = then?.shards[at];
    return [String(at), count(shard.head), count(shard.oldest), kept, was ? rounded((shard.head - was.head) / seconds) : '–'];
  }), '');
  const engine = typeof stats.engine === 'string' ? stats.engine : Object.entries(stats.engine).map(([name, value]) => `${name} ${value}`).join(', ');
  const { http, ws, sse } = stats.connections;
  pairs($('facts'), [
    ['version', stats.version], ['up', lasting(stats.uptime_seconds)], ['state', stats.draining ? 'draining' : 'serving'],
    ['connections', `${count(ws)} WebSocket, ${count(sse)} SSE, ${count(http)} HTTP`],
    ['feeds', count(stats.feeds)], ['subscriptions', count(stats.subscriptions)], ['held for clients', bytes(stats.held_bytes)],
    ['gaps reported', count(stats.gaps)], ['frames encoded', count(stats.encodings)],
    ['loops', count(stats.loops)], ['engine', engine], ['epoch', stats.epoch],
  ]);
}

/** Clears all data that a token gave access to. */
function forgetServer() {
  clearTimeout(looking);
  stats = before = null;
  isLoaded = false;
  for (const one of CHARTS) {
    one.samples.length = 0;
    one.value.textContent = '–';
    one.chart.draw(one.samples);
  }
  for (const table of ['interests', 'laggards', 'shards']) fill(table, [], '');
  $('facts').replaceChildren();
  $('ledger').querySelector('dl').replaceChildren();
  $('interest-count').textContent = '';
  noteOnServer('');
}

function noteOnServer(text) {
  $('server-note').hidden = !text;
  $('server-note').textContent = text;
}

/** Calls the API. Throws an error with a text to show. */
async function api(path) {
  const answer = await fetch(path, { headers: authorization(), cache: 'no-store' });
  const body = await answer.json();
  if (answer.ok) return body;
  const isKept = [401, 403].includes(answer.status);
  const why = token ? 'The server shows this to tokens with the right “admin” (fanwire token --admin).' : 'Sign in with a token that has the right “admin”.';
  throw Object.assign(new Error(isKept ? why : body.error), { isKept });
}

let looking = 0, isLoaded = false;
async function look() {
  clearTimeout(looking);
  const asked = performance.now();
  let pause = LOOK_MS;
  try {
    stats = await api('/api/stats');
    if (!isLoaded) {
      isLoaded = true;
      await loadHistory();
    }
    const now = performance.now();
    const same = before && before.stats.epoch === stats.epoch && stats.uptime_seconds >= before.stats.uptime_seconds;
    noteOnServer('');
    const seconds = same ? (now - before.at) / 1000 : 1;
    // Two samples in quick succession give no rate.
    const isRate = !same || seconds >= 1;
    showServer(same ? before.stats : null, seconds, isRate);
    if (isRate) before = { stats, at: now };
  } catch (error) {
    noteOnServer(error instanceof TypeError ? 'The server does not answer.' : error.message);
    before = null;
    pause = 5000;
    // Without access, the page tries again when a token is entered or this view is opened.
    if (error.isKept) return;
  }
  looking = setTimeout(look, Math.max(200, pause - (performance.now() - asked)));
}

