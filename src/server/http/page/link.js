// ---- the filter, in the language of docs/filters.md: the server parses it and reports errors ------------------------
let wanted = '', good = '', isRefiltered = false;

/** Shows an error of the filter under its box, at the character that the server names. */
function say(error, column = null) {
  const box = $('filter-error');
  box.replaceChildren();
  $('filter').setAttribute('aria-invalid', String(Boolean(error)));
  if (!error) return;
  if (column) {
    const before = [...$('filter').value].slice(0, column - 1).join('');
    if (document.activeElement === $('filter')) $('filter').setSelectionRange(before.length, $('filter').value.length);
    const mark = element('span', 'caret', '▲');
    mark.setAttribute('aria-hidden', 'true');
    mark.style.setProperty('--at', `calc(${cells(before)}ch - ${$('filter').scrollLeft}px)`);
    box.append(mark);
  }
  box.append(element('span', '', error.replace(/^filter, /, '')));
}

function setFilter(text) {
  $('filter').value = text;
  applyFilter();
}

function applyFilter() {
  const next = $('filter').value.trim();
  say('');
  if (next === wanted) return;
  wanted = next;
  isRefiltered = true;
  link?.refilter();
}

/** Handles an accepted filter: from here on the list shows only its events. */
function filterTaken() {
  good = wanted;
  for (const node of $('domains').children) node.setAttribute('aria-pressed', String(node.dataset.filter === good));
  if (!isRefiltered) return;
  isRefiltered = false;
  clear();
}

/** Handles a refused filter: the page keeps the previous one and shows the reason. */
function filterRefused({ error, column }) {
  const column_ = column ?? (/column (\d+)/.exec(error)?.[1] | 0);
  say(error, column_ || null);
  isRefiltered = false;
  wanted = good;
}
$('filter').addEventListener('keydown', (key) => {
  if (key.key === 'Enter') applyFilter();
  if (key.key === 'Escape') { $('filter').value = good; say(''); }
});
$('filter').addEventListener('change', applyFilter);

// ---- the connection -------------------------------------------------------------------------------------------------
const HISTORY = 50;
let transport = 'ws', lastId = null, delay = 0, timer = 0, link = null, life = 0;

function state(name, text) {
  $('status').dataset.state = name;
  $('status').firstChild.textContent = text;
  $('status').title = text;
}

/** Returns whether the page should be connected, as its control says. */
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
  isLive = false;
  state('open', transport === 'ws' ? 'live by WebSocket' : 'live by SSE');
  measureFirst();
  openWantedRun();
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

/** Shows the closed state. The page does not reconnect by itself then. */
function stand(reason) {
  clearTimeout(timer);
  state('closed', reason);
}

const query = () => (lastId && !isRefiltered ? { since: lastId } : { history: HISTORY });

function note(event, size) {
  if (event.event_id) lastId = event.event_id;
  take(event, size);
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
    subscribing = send('subscribe', { subscription_id: 'page', ...(wanted && { filter: wanted }), ...query() });
  };
  socket.onopen = alive(() => { subscribe(); opened(); });
  // Ignores messages of types that this page does not know.
  socket.onmessage = alive(({ data }) => {
    const { type, payload, correlation_id } = JSON.parse(data);
    if (type === 'event') note(payload, data.length);
    else if (type === 'gap') takeGap(payload);
    else if (type === 'pong') {
      const sent = pings.get(correlation_id);
      pings.delete(correlation_id);
      if (sent) sent.done(performance.now() - sent.at);
    } else if (type === 'ack' && correlation_id === subscribing) filterTaken();
    else if (type === 'error' && /^auth|token/.test(payload.code ?? '')) askForToken(payload.error);
    else if (type === 'error' && correlation_id === subscribing) {
      const isFilter = wanted !== good;
      filterRefused(payload);
      if (isFilter) subscribe();
    }
  });
  let was = false;
  socket.addEventListener('open', () => (was = true));
  socket.onclose = alive(({ code, reason }) => {
    lost(reason || (code === 1006 ? 'connection lost' : `closed (${code})`));
    // A refused WebSocket has no reason.
    if (!was) isLetIn();
  });
  return {
    end: () => socket.close(),
    /** Resolves to the milliseconds until the response; null if there can be none now. */
    ping: () => new Promise((done) => {
      if (socket.readyState !== 1) return done(null);
      const oldest = pings.values().next().value;
      // The previous ping got no response: the server is gone.
      if (oldest && performance.now() - oldest.at > 8000) { lost('no answer'); return done(null); }
      if (oldest) return done(null);
      pings.set(send('ping', {}), { at: performance.now(), done });
    }),
    refilter: () => { if (socket.readyState === 1) { send('unsubscribe', { subscription_id: 'page' }); subscribe(); } },
  };
}

function overStream(alive) {
  const params = new URLSearchParams({ event_name: 'message' });
  if (wanted) params.set('filter', wanted);
  const { since, history } = query();
  if (since) params.set('last_event_id', since); else params.set('history', history);
  let source;
  const open = () => {
    source = new EventSource(`/sse?${params}`);
    let was = false;
    source.onopen = alive(() => { was = true; filterTaken(); opened(); });
    source.onmessage = alive(({ data }) => note(JSON.parse(data), data.length));
    source.addEventListener('gap', alive(({ data }) => takeGap(JSON.parse(data))));
    source.onerror = alive(async () => {
      lost(was ? 'connection lost' : 'no stream');
      if (was || !(await isLetIn())) return;
      // An EventSource has no reason: one more request gets the text of the error.
      const abort = new AbortController();
      try {
        const answer = await fetch(`/sse?${params}`, { signal: abort.signal, headers: authorization() });
        if ([400, 403].includes(answer.status)) {
          const isFilter = wanted !== good;
          filterRefused(await answer.json());
          // A retry would fail too: use the previous filter.
          if (isFilter) { delay = 0; connect(); } else stand('not let in');
        }
      } catch { /* The connection itself failed: the state shows it. */ }
      abort.abort();
    });
  };
  // An EventSource sends no headers: a ticket, valid once, replaces the token.
  if (token) ticket().then(alive((one) => { if (one) { params.set('ticket', one); open(); } else if ($('login').hidden) lost('no ticket'); }));
  else open();
  return {
    end: () => source?.close(),
    ping: async () => {
      const now = performance.now();
      try { await fetch('/healthz', { cache: 'no-store' }); return performance.now() - now; } catch { return null; }
    },
    refilter: connect,
  };
}

// ---- the round trip: time of the network and the server, without this page's work -----------------------------------
const idle = () => new Promise((done) => (window.requestIdleCallback ? requestIdleCallback(done, { timeout: 2000 }) : setTimeout(done, 200)));

/** Measures when nothing is left to draw. The first response comes after the replayed past and is not shown; events after it are live. */
async function measureFirst() {
  const own = life;
  let best = null;
  for (let n = 0; n < 3; n++) {
    await idle();
    if (own !== life) return;
    const took = await link.ping();
    if (own !== life) return;
    isLive = true;
    if (n > 0 && took !== null) best = Math.min(best ?? took, took);
  }
  showRtt(best);
}
function showRtt(milliseconds) {
  if (milliseconds === null) return;
  $('rtt').textContent = milliseconds < 10 ? `${milliseconds.toFixed(1)} ms` : `${Math.round(milliseconds)} ms`;
}
async function ping() {
  if ($('status').dataset.state !== 'open') return;
  const own = life, took = await link.ping();
  if (own === life) showRtt(took);
}
setInterval(() => { if (!document.hidden && isLive) ping(); }, 10000);

// ---- controls -------------------------------------------------------------------------------------------------------
function clear() {
  waiting = [];
  waitingBytes = fresh = 0;
  items.forEach(forget);
  items = [];
  list.replaceChildren();
  forgetColumns();
  $('empty').hidden = false;
  showEmpty();
  showNothing();
  showNew();
  figures();
}
/** Shows the text of an empty list: how to fill it, or that the filter is the reason. */
function showEmpty() {
  $('empty').firstElementChild.textContent = good ? 'No event of the past matches the filter. New ones appear here.' : 'No events yet. Publish one:';
  $('example').parentElement.hidden = Boolean(good);
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
for (const one of $('transport').children) {
  one.onclick = () => {
    if (transport === one.dataset.transport) return;
    transport = $('transport').dataset.transport = one.dataset.transport;
    for (const other of $('transport').children) other.setAttribute('aria-pressed', String(other === one));
    delay = 0;
    connect();
  };
}
$('theme').onclick = () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
};

// On a small screen rarely used controls are behind one button.
function openMenu(isOpen) {
  $('more').classList.toggle('open', isOpen);
  $('menu').setAttribute('aria-expanded', String(isOpen));
}
$('menu').onclick = () => openMenu(!$('more').classList.contains('open'));
$('more').addEventListener('click', ({ target }) => { if (target.closest('#clear, #ping, #link, #sign-out')) openMenu(false); });
addEventListener('pointerdown', ({ target }) => { if (!$('more').contains(target) && target !== $('menu')) openMenu(false); });
const small = matchMedia('(max-width: 820px), (max-height: 480px)');
const places = [$('search').parentElement, $('clear')].map((node) => [node, node.parentElement]);
function place() {
  if (small.matches) $('more').prepend(...places.map(([node]) => node)); else for (const [node, home] of places) home.append(node);
  openMenu(false);
}
small.onchange = place;
place();

addEventListener('keydown', (key) => {
  if (key.key === 'Escape' && $('more').classList.contains('open')) { openMenu(false); $('menu').focus(); }
  if ($('view-events').hidden || $('journey').open || $('run').open || !$('login').hidden) return;
  if (key.ctrlKey || key.metaKey || key.altKey || key.target.tagName === 'INPUT') return;
  if (key.key === ' ' && key.target.tagName === 'BUTTON') return;
  const act = { ' ': pause, c: clear, p: ping, '/': () => $('filter').focus() }[key.key];
  if (act) { key.preventDefault(); act(); }
});
addEventListener('online', () => { if (wantsLink && $('status').dataset.state === 'closed') connect(); });
document.addEventListener('visibilitychange', draw);

