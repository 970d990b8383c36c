
// ---- the operator's view: what the server says of itself -----------------------------------------------------------
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

// Each: a name, the number of two looks (`now`, `then`, seconds between), how it is written, whether more than 0 is bad.
const sum = (list, of) => list.reduce((all, one) => all + of(one), 0);
const rate = (of) => (now, then, seconds) => Math.max(0, of(now) - of(then)) / seconds;
const CHARTS = [
  ['published', 'events/s in', rate((stats) => sum(stats.shards, (shard) => shard.head)), rounded],
  ['delivered', 'events/s out', rate((stats) => stats.deliveries), rounded],
  ['written_bytes', 'bytes/s', rate((stats) => stats.written_bytes), bytes],
  ['connections', 'clients', (now) => now.connections.ws + now.connections.sse, count],
  ['pending', 'events waiting', (now) => now.ledger.pending, count],
  ['missed', 'events/s missed', rate((stats) => stats.dropped), rounded, true],
].map(([id, name, number, written, isAlarm]) => {
  const card = element('div', 'chart');
  card.id = `chart-${id}`;
  const head = element('div', 'head');
  const value = element('b', '', '–'), most = element('span', 'most');
  head.append(value, name, most);
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', `0 0 ${SAMPLES - 1} 40`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', `${name}, the last five minutes`);
  const [area, line] = ['path', 'path'].map((tag) => svg.appendChild(document.createElementNS(svg.namespaceURI, tag)));
  for (const [name, value] of [['fill', 'currentColor'], ['fill-opacity', '.13']]) area.setAttribute(name, value);
  for (const [name, value] of [['fill', 'none'], ['stroke', 'currentColor'], ['stroke-width', '1.5'], ['stroke-linejoin', 'round']]) line.setAttribute(name, value);
  card.append(head, svg);
  $('charts').append(card);
  return { id, number, written, isAlarm, card, value, most, area, line, samples: [] };
});

function chart(one, number) {
  one.samples.push(number);
  if (one.samples.length > SAMPLES) one.samples.shift();
  plot(one);
}

function plot(one) {
  const number = one.samples.at(-1);
  const top = Math.max(...one.samples, 1e-9);
  const from = SAMPLES - one.samples.length;
  const points = one.samples.map((n, i) => `${from + i} ${(38 - 34 * n / top).toFixed(1)}`).join('L');
  one.line.setAttribute('d', `M${points}`);
  one.area.setAttribute('d', `M${from} 40L${points}L${SAMPLES - 1} 40Z`);
  one.value.textContent = one.written(number);
  one.most.textContent = `most ${one.written(Math.max(...one.samples))}`;
  one.card.classList.toggle('alarm', Boolean(one.isAlarm) && number > 0);
}

/** What the server remembers of the time before this page, in steps as long as this page's looks. */
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
      const node = element('td', $(table).tHead.rows[0].cells[at].className);
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

const PARTS = [['written', 145], ['pending', 215], ['dropped', 0], ['conflated', 50]];
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
    : `${count(stats.subscriptions)} subscriptions`;
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
    ['gaps told', count(stats.gaps)], ['encodings made', count(stats.encodings)],
    ['loops', count(stats.loops)], ['engine', engine], ['epoch', stats.epoch],
  ]);
}

function noteOnServer(text) {
  $('server-note').hidden = !text;
  $('server-note').textContent = text;
}

/** Asks the API; words for what went wrong. */
async function api(path) {
  const answer = await fetch(path, { headers: authorization(), cache: 'no-store' });
  const body = await answer.json();
  if (answer.ok) return body;
  const isKept = [401, 403].includes(answer.status);
  throw Object.assign(new Error(isKept ? `A token with the right “admin” shows this: ${body.error}` : body.error), { isKept });
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
    // Two looks in a moment are no rate.
    const isRate = !same || seconds >= 1;
    showServer(same ? before.stats : null, seconds, isRate);
    if (isRate) before = { stats, at: now };
  } catch (error) {
    noteOnServer(error instanceof TypeError ? 'The server does not answer.' : error.message);
    before = null;
    pause = 5000;
    // Who may not see it asks again when a token is given, or this view is opened.
    if (error.isKept) return;
  }
  looking = setTimeout(look, Math.max(200, pause - (performance.now() - asked)));
}

// ---- views ---------------------------------------------------------------------------------------------------------
function show(view) {
  for (const tab of $('views').children) {
    const own = tab.dataset.view === view;
    tab.setAttribute('aria-selected', String(own));
    tab.tabIndex = own ? 0 : -1;
    $(`view-${tab.dataset.view}`).hidden = !own;
  }
  if (view === 'server') look();
}
for (const tab of $('views').children) {
  tab.onclick = () => show(tab.dataset.view);
  tab.onkeydown = (key) => {
    if (key.key !== 'ArrowLeft' && key.key !== 'ArrowRight') return;
    const other = tab.nextElementSibling ?? tab.previousElementSibling;
    show(other.dataset.view);
    other.focus();
  };
}

// ---- an event's journey --------------------------------------------------------------------------------------------
function why(one, title) {
  const box = element('div', 'why');
  const head = document.createElement('p');
  head.append(element('span', one.wanted ? 'yes' : 'no', one.wanted ? 'wanted' : 'not wanted'), element('code', '', one.filter || 'everything'), element('span', '', title));
  const list = document.createElement('ul');
  for (const { condition, holds, found } of one.conditions) {
    const row = document.createElement('li');
    row.append(element('span', holds ? 'yes' : 'no', holds ? '✓' : '✗'), element('code', '', condition), `found: ${found ?? 'nothing'}`);
    list.append(row);
  }
  box.append(head, list);
  return box;
}

function step(title, text) {
  const row = document.createElement('li');
  row.append(element('b', '', title), element('span', '', text));
  return row;
}

let journeyOf = null;
async function openJourney(id, filter = '') {
  journeyOf = id;
  $('try-answer').replaceChildren();
  if (!$('journey').open) $('journey').showModal();
  const params = new URLSearchParams({ event_id: id });
  if (filter) params.set('filter', filter);
  let journey;
  try {
    journey = await api(`/api/explain?${params}`);
  } catch (error) {
    const said = element('div', 'why no', error.message);
    if (filter) return $('try-answer').replaceChildren(said);
    $('journey-title').textContent = id;
    $('journey-steps').replaceChildren();
    return $('journey-interests').replaceChildren(said);
  }
  const { event } = journey;
  const interests = journey.interests.sort((a, b) => b.wanted - a.wanted);
  $('journey-title').textContent = event.event_type;
  const wanting = interests.filter((one) => one.wanted);
  const spokenIn = [...new Set(wanting.map(spoken))];
  const more = interests.length >= INTERESTS_MAX ? `, of the ${interests.length} largest of ${count(journey.feeds)} feeds` : '';
  $('journey-steps').replaceChildren(
    step('Published', `${event.timestamp}${event.source ? ` by ${event.source}` : ''}`),
    step('Stored', `shard ${journey.shard}, sequence ${count(journey.sequence)}, ${journey.behind_newest === 0 ? 'the newest there' : `${count(journey.behind_newest)} came behind it`}; id ${journey.event_id}`),
    step('Matched', `${wanting.length} of ${interests.length} interests want it now${more}`),
    step('Encoded', spokenIn.length ? `once for each of: ${spokenIn.join('; ')}` : 'for nobody'),
    step('Delivered', `to ${count(journey.clients)} ${journey.clients === 1 ? 'client' : 'clients'} that ${journey.clients === 1 ? 'wants' : 'want'} it now`),
  );
  $('journey-interests').replaceChildren(...interests.flatMap((one) => {
    const clients = `${count(one.members)} ${one.members === 1 ? 'client' : 'clients'}, ${spoken(one)}`;
    return one.filters.map((filter) => why(filter, clients));
  }));
  if (journey.filter) $('try-answer').replaceChildren(why(journey.filter, 'your filter'));
}
$('journey-close').onclick = () => $('journey').close();
$('try').addEventListener('submit', (submit) => { submit.preventDefault(); openJourney(journeyOf, $('try-filter').value.trim()); });
$('explain').addEventListener('submit', (submit) => { submit.preventDefault(); if ($('explain-id').value.trim()) openJourney($('explain-id').value.trim()); });

connect();
look();
