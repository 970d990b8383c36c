// ---- events: what comes, in a list --------------------------------------------------------------------------------
const ROWS_MAX = 300, HISTORY = 50, DOMAINS_MAX = 24;
const list = $('events');

// ---- what is shown -------------------------------------------------------------------------------------------------
const shown = new Map();          // event id -> row
let waiting = [];                 // newest last; events and gaps not on the screen yet
let total = 0, missed = 0, liveFrom = 0, paused = false, framed = false, newTotal = false, newDomain = false;
const seconds = new Array(60).fill(0);
const domains = new Map();        // name -> { count, node }

const HUES = { task: 335, agent: 215, workflow: 262, provider: 28, tool: 178, system: 0, log: 95, governance: 50, webhook: 300 };
function hue(name) {
  let angle = HUES[name];
  if (angle === undefined) {
    let hash = 0;
    for (let i = 0; i < name.length; i++) hash = (hash * 31 + name.charCodeAt(i)) | 0;
    angle = Math.round(((hash >>> 0) * 137.508) % 360);
  }
  // Yellow and green are light by themselves: darker, so that all are read on white.
  const light = angle > 40 && angle < 200 ? 24 : 34;
  return `light-dark(hsl(${angle} 70% ${light}%), hsl(${angle} 72% 74%))`;
}
const domainOf = (type) => type.split(/[.:/]/, 1)[0];

function take(event) {
  if (event.event_id && shown.has(event.event_id)) return;
  total++;
  // What came before the page did is no rate.
  if (performance.now() > liveFrom) seconds[59]++;
  const name = domainOf(event.event_type);
  let domain = domains.get(name);
  if (!domain) {
    if (domains.size >= 500) return push(event);
    domains.set(name, domain = { count: 0, node: null });
    newDomain = true;
  }
  domain.count++;
  push(event);
}

function push(item) {
  waiting.push(item);
  // A hidden or paused page piles nothing up: what would not be shown is let go of.
  if (waiting.length > 2 * ROWS_MAX) {
    const gone = waiting.splice(0, waiting.length - ROWS_MAX);
    waiting.unshift(...gone.filter((old) => old.gap).slice(-20));
  }
  newTotal = true;
  draw();
}

function draw() {
  if (!framed) { framed = true; requestAnimationFrame(frame); }
}

function frame() {
  framed = false;
  if (newTotal) { newTotal = false; figures(); }
  if (newDomain) showDomains();
  if (paused || waiting.length === 0) return;
  const batch = waiting.slice(-ROWS_MAX);
  waiting = [];
  const fragment = document.createDocumentFragment();
  for (let i = batch.length - 1; i >= 0; i--) {
    const item = batch[i];
    if (item.event_id && shown.has(item.event_id)) continue;
    const row = item.gap ? gapRow(item) : eventRow(item);
    if (item.event_id) shown.set(item.event_id, row);
    fragment.append(row);
  }
  list.prepend(fragment);
  while (list.childElementCount > ROWS_MAX) {
    const last = list.lastElementChild;
    shown.delete(last.dataset.eventId);
    last.remove();
  }
}

const span = (name, text) => element('span', name, text);

let sought = '';
const isFound = (row) => !sought || row.words.includes(sought);
$('search').addEventListener('input', () => {
  sought = $('search').value.trim().toLowerCase();
  for (const row of list.children) if (row.words) row.hidden = !isFound(row);
});

function eventRow(event) {
  const row = document.createElement('li');
  row.dataset.eventId = event.event_id;
  row.dataset.type = event.event_type;
  const line = document.createElement('button');
  line.type = 'button';
  line.className = 'row';
  line.setAttribute('aria-expanded', 'false');
  line.style.setProperty('--hue', hue(domainOf(event.event_type)));
  const time = document.createElement('time');
  time.dateTime = event.timestamp;
  const date = new Date(event.timestamp);
  time.textContent = isNaN(date) ? event.timestamp : date.toLocaleTimeString([], { hour12: false }) + '.' + String(date.getMilliseconds()).padStart(3, '0');
  const entity = event.entity ? `${event.entity.kind}:${event.entity.id}` : '';
  const from = [event.source, entity, event.stream_id, event.channel].filter(Boolean).join(' · ');
  line.append(time, span('type', event.event_type), span('from', from), what(event.payload));
  line.title = event.event_type;
  row.append(line);
  line.onclick = () => {
    const open = row.querySelector('.detail');
    line.setAttribute('aria-expanded', String(!open));
    if (open) return open.remove();
    const detail = element('div', 'detail');
    const journey = element('button', '', 'Journey');
    journey.type = 'button';
    journey.onclick = () => openJourney(event.event_id);
    const all = document.createElement('pre');
    all.textContent = JSON.stringify(event, null, 2);
    detail.append(all, journey);
    row.append(detail);
  };
  row.words = JSON.stringify(event).toLowerCase();
  row.hidden = !isFound(row);
  return row;
}

// The payload in a line: names soft, values plain.
function what(payload) {
  const node = span('what', '');
  if (payload === null || typeof payload !== 'object' || Array.isArray(payload)) {
    node.textContent = short(payload);
    return node;
  }
  let size = 0;
  for (const [name, value] of Object.entries(payload)) {
    const text = short(value) + '  ';
    const label = document.createElement('em');
    label.textContent = name + ' ';
    node.append(label, text);
    if ((size += name.length + text.length) > 200) break;
  }
  return node;
}
const short = (value) => (typeof value === 'string' ? value : JSON.stringify(value) ?? '').slice(0, 160);

function gapRow({ gap }) {
  const row = element('li', 'gap');
  row.dataset.missed = gap.missed ?? '';
  row.textContent = gap.missed === null || gap.missed === undefined
    ? gap.at_most
      ? `Events may be missing here: at most ${gap.at_most.toLocaleString()}`
      : 'Events may be missing here: the server no longer knows what came since'
    : `${gap.missed.toLocaleString()} ${gap.missed === 1 ? 'event' : 'events'} missed here`;
  return row;
}

function takeGap(gap) {
  missed += gap.missed ?? 0;
  push({ gap });
}

function figures() {
  $('total').textContent = total.toLocaleString();
  $('lost').hidden = missed === 0;
  $('missed').textContent = missed.toLocaleString();
  if (paused) $('pause').textContent = waiting.length ? `Go on (${waiting.length})` : 'Go on';
}

// Once a second by the clock, for a hidden tab's timers are slow: the rate and the line.
let second = Math.floor(performance.now() / 1000);
setInterval(() => {
  const now = Math.floor(performance.now() / 1000);
  const passed = Math.min(now - second, 60);
  if (passed < 1) return;
  second = now;
  if (passed > 1) seconds[59] = Math.round(seconds[59] / passed);
  $('rate').textContent = seconds[59].toLocaleString();
  const top = Math.max(...seconds, 1);
  const points = seconds.map((n, i) => `${i} ${(29 - 27 * n / top).toFixed(1)}`).join('L');
  const [area, line] = $('spark').children;
  line.setAttribute('d', 'M' + points);
  area.setAttribute('d', `M0 30L${points}L59 30Z`);
  for (let i = 0; i < passed; i++) { seconds.shift(); seconds.push(0); }
}, 250);

function showDomains() {
  if (document.hidden) return;
  newDomain = false;
  const top = [...domains].sort((a, b) => b[1].count - a[1].count).slice(0, DOMAINS_MAX);
  const nodes = top.map(([name, domain]) => {
    if (!domain.node) {
      const node = domain.node = document.createElement('button');
      node.type = 'button';
      node.style.setProperty('--hue', hue(name));
      node.title = `Only ${name}`;
      const count = document.createElement('b');
      node.append(document.createElement('i'), name, count);
      node.onclick = () => {
        const own = `${name}.**`;
        $('filter').value = $('filter').value.trim() === own ? '' : own;
        applyFilter();
      };
    }
    domain.node.lastChild.textContent = domain.count.toLocaleString();
    return domain.node;
  });
  const now = [...$('domains').children];
  if (nodes.length !== now.length || nodes.some((node, i) => node !== now[i])) $('domains').replaceChildren(...nodes);
}
setInterval(showDomains, 300);

// ---- the filter ----------------------------------------------------------------------------------------------------
const FIELDS = { type: 'event_types', source: 'sources', stream: 'stream_ids', execution: 'execution_ids', correlation: 'correlation_ids', entity: 'entities', channel: 'channels' };
let wanted = {};

function parseFilter(text) {
  const fields = {};
  for (const word of text.split(/[\s,]+/).filter(Boolean)) {
    const cut = word.indexOf('=');
    const name = cut < 0 ? 'type' : word.slice(0, cut);
    const value = cut < 0 ? word : word.slice(cut + 1);
    if (!Object.hasOwn(FIELDS, name)) throw new Error(`“${name}” is not one of ${Object.keys(FIELDS).join(', ')}`);
    if (!value) throw new Error(`“${name}=” has no value`);
    if (/[()<>"'=!&|]/.test(value)) throw new Error(`“${value}” is not a name or a pattern such as task.* or agent.**`);
    (fields[name] ??= []).push(value);
  }
  return fields;
}

function say(error) {
  $('filter-error').textContent = error;
  $('filter').setAttribute('aria-invalid', String(Boolean(error)));
}

function applyFilter() {
  try {
    const next = parseFilter($('filter').value);
    say('');
    if (JSON.stringify(next) === JSON.stringify(wanted)) return;
    wanted = next;
  } catch (error) {
    return say(error.message);
  }
  clear();
  lastId = null;
  link.refilter();
}
$('filter').addEventListener('keydown', (key) => key.key === 'Enter' && applyFilter());
$('filter').addEventListener('change', applyFilter);

// ---- the connection ------------------------------------------------------------------------------------------------
let transport = 'ws', lastId = null, delay = 0, timer = 0, link = null, life = 0;

function state(name, text) {
  $('status').dataset.state = name;
  $('status').firstChild.textContent = text;
}

/** Whether it is to be connected, as the button beside the others says. */
let wantsLink = true;
function wantLink(wants) {
  wantsLink = wants;
  $('link').textContent = wants ? 'Disconnect' : 'Connect';
}

function disconnect() {
  wantLink(false);
  link?.end();
  life++;
  $('rtt').textContent = '–';
  stand('disconnected');
}

function connect() {
  clearTimeout(timer);
  wantLink(true);
  link?.end();
  const own = ++life;
  const alive = (act) => (...args) => own === life && act(...args);
  state('connecting', 'connecting');
  link = (transport === 'ws' ? overWebSocket : overStream)(alive);
}

function opened() {
  delay = 0;
  liveFrom = performance.now() + 250;
  state('open', transport === 'ws' ? 'live by WebSocket' : 'live by SSE');
  setTimeout(ping, 50);
}

function lost(reason) {
  link?.end();
  life++;
  delay = Math.min(Math.max(delay * 2, 400), 8000);
  const pause = delay * (0.75 + Math.random() / 2);
  state('closed', `${reason}, again in ${(pause / 1000).toFixed(1)} s`);
  $('rtt').textContent = '–';
  timer = setTimeout(connect, pause);
}

/** Does not come back by itself. */
function stand(reason) {
  clearTimeout(timer);
  state('closed', reason);
}

const query = () => lastId ? { since: lastId } : { history: HISTORY };

function note(event) {
  if (event.event_id) lastId = event.event_id;
  take(event);
}

function overWebSocket(alive) {
  const protocols = token ? ['fanwire.v1', `bearer.${token}`] : 'fanwire.v1';
  const socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/ws`, protocols);
  const send = (type, payload) => {
    const message_id = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
    socket.send(JSON.stringify({ type, payload, message_id, timestamp: new Date().toISOString(), correlation_id: null }));
    return message_id;
  };
  const pings = new Map();
  let subscribing = null;
  const subscribe = () => {
    const payload = { subscription_id: 'page', ...query() };
    for (const name in wanted) payload[FIELDS[name]] = wanted[name];
    subscribing = send('subscribe', payload);
  };
  socket.onopen = alive(() => { subscribe(); opened(); });
  socket.onmessage = alive(({ data }) => {
    const { type, payload, correlation_id } = JSON.parse(data);
    if (type === 'event') note(payload);
    else if (type === 'gap') takeGap(payload);
    else if (type === 'pong') { const sent = pings.get(correlation_id); pings.delete(correlation_id); if (sent) showRtt(performance.now() - sent); }
    else if (type === 'error' && /^auth|token/.test(payload.code ?? '')) askForToken(payload.error);
    else if (type === 'error' && correlation_id === subscribing) say(payload.error);
  });
  let was = false;
  socket.addEventListener('open', () => (was = true));
  socket.onclose = alive(({ code, reason }) => {
    lost(reason || (code === 1006 ? 'connection lost' : `closed (${code})`));
    // A WebSocket that is refused does not tell why.
    if (!was) isLetIn();
  });
  return {
    end: () => socket.close(),
    ping: () => {
      if (socket.readyState !== 1) return;
      // The one before was never answered: nobody is there.
      if (pings.size > 0 && performance.now() - pings.values().next().value > 8000) return lost('no answer');
      if (pings.size === 0) pings.set(send('ping', {}), performance.now());
    },
    refilter: () => { if (socket.readyState === 1) { send('unsubscribe', { subscription_id: 'page' }); subscribe(); } },
  };
}

function overStream(alive) {
  const params = new URLSearchParams({ event_name: 'message' });
  for (const name in wanted) for (const value of wanted[name]) params.append(name, value);
  if (lastId) params.set('last_event_id', lastId); else params.set('history', HISTORY);
  let source;
  const open = () => {
    const address = `/sse?${params}`;
    source = new EventSource(address);
    let was = false;
    source.onopen = alive(() => { was = true; opened(); });
    source.onmessage = alive(({ data }) => note(JSON.parse(data)));
    source.addEventListener('gap', alive(({ data }) => takeGap(JSON.parse(data))));
    source.onerror = alive(async () => {
      lost(was ? 'connection lost' : 'no stream');
      if (was || !(await isLetIn())) return;
      // An EventSource does not tell why: ask once more, for the words alone.
      const abort = new AbortController();
      try {
        const answer = await fetch(`/sse?${params}`, { signal: abort.signal, headers: authorization() });
        if ([400, 401, 403].includes(answer.status)) {
          say((await answer.json()).error);
          // Asking again would not help: another filter does.
          stand(answer.status === 400 ? 'filter refused' : 'not let in');
        }
      } catch { /* The connection itself failed: the state says so. */ }
      abort.abort();
    });
  };
  // An EventSource has no headers: a ticket, good once, stands for the token.
  if (token) ticket().then(alive((one) => { if (one) { params.set('ticket', one); open(); } else lost('no ticket'); }));
  else open();
  return {
    end: () => source?.close(),
    ping: async () => {
      const now = performance.now();
      try { await fetch('/healthz', { cache: 'no-store' }); showRtt(performance.now() - now); } catch { $('rtt').textContent = '–'; }
    },
    refilter: connect,
  };
}

function showRtt(milliseconds) {
  $('rtt').textContent = milliseconds < 10 ? `${milliseconds.toFixed(1)} ms` : `${Math.round(milliseconds)} ms`;
}
const ping = () => { if ($('status').dataset.state === 'open') link.ping(); };
setInterval(() => { if (!document.hidden) ping(); }, 10000);

// ---- controls ------------------------------------------------------------------------------------------------------
function clear() {
  waiting = [];
  shown.clear();
  list.replaceChildren();
  figures();
}
function pause() {
  paused = !paused;
  $('pause').setAttribute('aria-pressed', String(paused));
  $('pause').textContent = paused ? 'Go on' : 'Pause';
  draw();
}
$('pause').onclick = pause;
$('clear').onclick = clear;
$('ping').onclick = ping;
$('link').onclick = () => (wantsLink ? disconnect : connect)();
for (const button of $('transport').children) {
  button.onclick = () => {
    if (transport === button.dataset.transport) return;
    transport = $('transport').dataset.transport = button.dataset.transport;
    for (const other of $('transport').children) other.setAttribute('aria-pressed', String(other === button));
    delay = 0;
    connect();
  };
}
$('theme').onclick = () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
};
addEventListener('keydown', (key) => {
  if ($('view-events').hidden || $('journey').open) return;
  if (key.ctrlKey || key.metaKey || key.altKey || key.target.tagName === 'INPUT') return;
  if (key.key === ' ' && key.target.tagName === 'BUTTON') return;
  const act = { ' ': pause, c: clear, p: ping, '/': () => $('filter').focus() }[key.key];
  if (act) { key.preventDefault(); act(); }
});
addEventListener('online', () => { if (wantsLink && $('status').dataset.state === 'closed') connect(); });
document.addEventListener('visibilitychange', draw);
$('example').textContent = `curl -d '{"type":"hello.world","payload":{"n":1}}' ${location.origin}/publish`;
