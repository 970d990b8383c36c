// ---- a run: a kept stream from its start, its text put together, its end ---------------------------------------------
const RUN_ROWS_MAX = 500, RUN_TEXT_MAX = 100_000, RUN_RETRY_MS = 1000;
let run = null;   // { stream, lastId, events, missed, ended, isOver, source, timer, fresh, text }

/** Returns the part of a run's text that an event has: the string that models' deltas have under one of these names. */
function partOf({ payload }) {
  if (typeof payload === 'string') return payload;
  if (payload === null || typeof payload !== 'object') return '';
  return [payload.delta, payload.text, payload.content, payload.token].find((part) => typeof part === 'string') ?? '';
}

function openRun(stream) {
  leaveRun();
  run = { stream, lastId: null, events: 0, missed: false, ended: null, isOver: false, source: null, timer: 0, fresh: [], text: '', drawing: 0 };
  $('run-title').textContent = plain(stream);
  $('run-text').textContent = '';
  $('run-text').hidden = true;
  $('run-events').replaceChildren();
  sayRun('reading');
  if (!$('run').open) $('run').showModal();
  // A reload of the page shows it again.
  history.replaceState(null, '', `#run=${encodeURIComponent(stream)}`);
  followRun(run);
}

function leaveRun() {
  clearTimeout(run?.timer);
  clearTimeout(run?.drawing);
  run?.source?.close();
  run = null;
}

/** Opens the run that the page's address names, once the page is let in. */
let wantedRun = new URLSearchParams(location.hash.slice(1)).get('run');
function openWantedRun() {
  const stream = wantedRun;
  wantedRun = null;
  if (stream) openRun(stream);
}

/** Shows the state of the run, with the number of its events. */
function sayRun(how) {
  const { events, ended, missed } = run;
  const parts = [ended ? `ended by ${plain(ended)}` : how, `${count(events)} ${events === 1 ? 'event' : 'events'}`];
  if (missed) parts.push('a part is no longer kept');
  $('run-state').dataset.state = ended ? 'ended' : how;
  $('run-state').textContent = parts.join(', ');
}

async function followRun(own) {
  const params = new URLSearchParams({ filter: condition('stream', own.stream), from: 'start', event_name: 'message' });
  if (own.lastId) params.set('last_event_id', own.lastId);
  const again = (how) => {
    if (own !== run) return;
    own.source?.close();
    sayRun(how);
    own.timer = setTimeout(() => followRun(own), RUN_RETRY_MS);
  };
  // An EventSource sends no headers: a ticket, valid once, replaces the token.
  if (token) {
    const one = await ticket();
    if (own !== run) return;
    if (!one) return again('no ticket');
    params.set('ticket', one);
  }
  const source = own.source = new EventSource(`/sse?${params}`);
  let was = false;
  const alive = (act) => (message) => own === run && source === own.source && act(message);
  const reach = ({ lastEventId }) => { if (lastEventId) own.lastId = lastEventId; };
  source.onopen = alive(() => { was = true; sayRun('live'); });
  source.onmessage = alive((message) => {
    reach(message);
    own.fresh.push(JSON.parse(message.data));
    own.drawing ||= setTimeout(drawRun, DRAW_MS);
  });
  source.addEventListener('gap', alive((message) => {
    own.missed = true;
    own.fresh.push({ gap: JSON.parse(message.data) });
    own.drawing ||= setTimeout(drawRun, DRAW_MS);
  }));
  source.addEventListener('end', alive((message) => {
    source.close();
    own.isOver = true;
    own.missed ||= !JSON.parse(message.data).complete;
    drawRun();
  }));
  source.onerror = alive(async () => {
    source.close();
    if (was) return again('connection lost');
    // An EventSource has no reason: one more request gets the status.
    params.delete('ticket');
    const abort = new AbortController();
    try {
      const answer = await fetch(`/sse?${params}`, { signal: abort.signal, headers: authorization() });
      if (own !== run) return;
      if (answer.status === 204) {
        // The connection was lost after the last event and before its end was told.
        own.isOver = true;
        drawRun();
      } else if ([400, 403].includes(answer.status)) sayRun((await answer.json()).error);
      else again('no stream');
    } catch {
      again('connection lost');
    } finally {
      abort.abort();
    }
  });
}

function drawRun() {
  const own = run;
  if (!own) return;
  clearTimeout(own.drawing);
  own.drawing = 0;
  const list = $('run-events'), rows = document.createDocumentFragment();
  const isAtEnd = $('run').scrollHeight - $('run').scrollTop - $('run').clientHeight < 40;
  for (const item of own.fresh) {
    if (item.gap) {
      rows.append(gapRow(item.gap));
      own.text += '…';
      continue;
    }
    own.events++;
    own.text += partOf(item);
    own.last = item.event_type;
    const row = document.createElement('li');
    row.append(element('time', '', clock(item.timestamp)), element('span', 'type', plain(item.event_type)), what(item.payload));
    row.title = plain(item.event_id);
    rows.append(row);
  }
  own.fresh = [];
  list.append(rows);
  while (list.childElementCount > RUN_ROWS_MAX) list.firstElementChild.remove();
  if (own.text.length > RUN_TEXT_MAX) own.text = `…${own.text.slice(-RUN_TEXT_MAX / 2)}`;
  if (own.text) {
    $('run-text').hidden = false;
    $('run-text').textContent = own.text.replace(UNSEEN, (c) => (c === '\n' ? c : plain(c)));
  }
  if (own.isOver) own.ended = own.last ?? 'an event that is not kept';
  sayRun('live');
  if (isAtEnd) $('run').scrollTo(0, $('run').scrollHeight);
}

$('run-close').onclick = () => $('run').close();
$('run').addEventListener('close', () => {
  leaveRun();
  history.replaceState(null, '', location.pathname + location.search);
  draw();
});
