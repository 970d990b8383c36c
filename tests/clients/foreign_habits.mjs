// Programs that use other people's clients, in Node and in a page: they subscribe, keep the last id, and
// reconnect as each library's manual says. Each output line is about one client in one case: `got N ID`, `from
// ID` (where a stream begins), `gap …`, `dead`, `note …`.

/** Time before a program replaces an object that has given up, in ms. */
const AGAIN = 1_000;

const stream = (job, last) => `${job.url}/sse?type=test.*&_client=${job.client}${last ? `&last_event_id=${encodeURIComponent(last)}` : ''}`;
const subscription = (last) => JSON.stringify({ type: 'subscribe', payload: { event_types: ['test.*'], ...(last && { since: last }) } });

/** An EventSource, the browser's own or one with its interface. One that ends for good is replaced, with the last id in the query. */
export function eventSource(EventSource, job, tell, last) {
  const source = new EventSource(stream(job, last));
  source.addEventListener('test.numbered', (event) => {
    last = event.lastEventId;
    tell(`got ${JSON.parse(event.data).payload.n} ${last}`);
  });
  for (const name of ['gap', 'closed']) source.addEventListener(name, ({ data }) => tell(`${name} ${data}`));
  source.addEventListener('open', () => tell('note open'));
  source.addEventListener('error', (error) => {
    tell(`note error ${error.code ?? error.status ?? ''} ${error.message ?? error.error ?? ''}`);
    if (source.readyState !== 2) return;
    tell('dead');
    source.close();
    setTimeout(() => eventSource(EventSource, job, tell, last), AGAIN);
  });
}

class FatalError extends Error {}

/** Fetch-event-source, used as in its README: anything except a stream is an error, and so is the end. */
export function fetched(fetchEventSource, job, tell) {
  fetchEventSource(stream(job), {
    async onopen(response) {
      const type = response.headers.get('content-type');
      tell(`note ${response.status} ${type}`);
      if (response.ok && type === 'text/event-stream') return;
      throw response.status >= 400 && response.status < 500 ? new FatalError() : new Error(`${response.status} ${type}`);
    },
    onmessage({ event, data, id }) {
      if (event === 'test.numbered') tell(`got ${JSON.parse(data).payload.n} ${id}`);
      // Comments, ids and retry times come without data.
      else if (data !== '') tell(`${event} ${data}`);
    },
    onclose() {
      throw new Error('closed by the server');
    },
    onerror(error) {
      tell(`note error ${error}`);
      if (error instanceof FatalError) throw error;
    },
  }).catch(() => tell('dead'));
}

/** A WebSocket that reconnects by itself, or one that `again` replaces after its close. Each time it subscribes from its last place. */
export function socket(open, job, tell, again, last) {
  const ws = open(`${job.url.replace('http', 'ws')}/ws?_client=${job.client}`);
  ws.addEventListener('open', () => {
    tell(`note open, since ${last}`);
    ws.send(subscription(last));
  });
  ws.addEventListener('message', ({ data }) => {
    const { type, payload } = JSON.parse(data);
    if (type === 'event') {
      last = payload.event_id;
      tell(`got ${payload.payload.n} ${last}`);
    } else if (type === 'ack') {
      // Its place until the first event.
      last ??= payload.last_event_id;
      tell(`from ${payload.last_event_id}`);
    } else tell(`${type} ${JSON.stringify(payload)}`);
  });
  ws.addEventListener('error', (error) => tell(`note error ${error.message ?? ''}`));
  ws.addEventListener('close', ({ code }) => {
    tell(`note closed ${code}`);
    if (again) setTimeout(() => socket(open, job, tell, again, last), AGAIN);
  });
}
