// The page of the browser tests: a list by `useFanwire`, a socket by `useWebSocket`, and the client itself for
// the script.
import { StrictMode, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { Fanwire, isGap } from '../dist/index.js';
import { useFanwire, useRun, useWebSocket } from '../dist/react.js';

const quick = { backoff: { base: 5, max: 40 } };

/** Counts events until there are enough. Each must be the next one. */
window.follow = async (url, transports, count) => {
  const client = new Fanwire(url, { ...quick, transports });
  const loops = ['test.numbered', 'test.**'].map((filter) => client.subscribe(filter));
  await Promise.all(loops.map((loop) => loop.ready));
  window.passed = 0;
  window.following = Promise.all(
    loops.map(async (loop) => {
      for (let n = 0; n < count; n += 1) {
        const { value } = await loop.next();
        if (isGap(value) || value.payload.n !== n) throw new Error(`${JSON.stringify(value)} instead of ${n}`);
        window.passed += 1;
      }
    }),
  ).finally(() => client.close());
};

function List({ url, filter, name, options }) {
  const { events, last, gaps, status, publish } = useFanwire(url, filter, options);
  window.renders = (window.renders ?? 0) + 1;
  return (
    <div id={name}>
      <b className="status">{status}</b> <i className="last">{last?.event_type}</i> <u className="gaps">{gaps.length}</u>
      <button onClick={() => publish({ type: 'list.clicked', payload: name })}>publish</button>
      <ul>{events.map((event) => <li key={event.event_id}>{JSON.stringify(event.payload)}</li>)}</ul>
    </div>
  );
}

function Socket({ url }) {
  const { isConnected, messages, lastMessage, sendMessage } = useWebSocket(url, {
    delay: 50, greeting: [{ type: 'subscribe', payload: { event_types: ['socket.*'] } }],
  });
  return (
    <div id="socket">
      <b className="status">{String(isConnected)}</b> <i className="last">{lastMessage?.payload?.payload}</i>
      <u className="types">{messages.map((message) => message.type).join(' ')}</u>
      <button onClick={() => sendMessage({ type: 'publish', payload: { type: 'socket.sent', payload: 'hello' } })}>send</button>
    </div>
  );
}

const merge = { on_lag: 'concat', compact: 'concat', concat: '/payload/delta' };

function Answer({ url, run }) {
  const { events, text, gaps, ended, error, status } = useRun(url, run, run === 'run-slow' ? { ...quick, ...merge } : quick);
  window.runRenders = (window.runRenders ?? 0) + 1;
  return (
    <div id="answer">
      <b className="status">{status}</b> <i className="count">{events.length}</i> <u className="gaps">{gaps.length}</u>
      <s className="ended">{ended && `${ended.status} ${ended.complete}`}</s> <em className="error">{error?.code}</em>
      <p className="text" hidden={run === 'run-slow'}>{text}</p>
    </div>
  );
}

function App({ url }) {
  const [shown, setShown] = useState(true);
  const [filter, setFilter] = useState('list.*');
  const [run, setRun] = useState(null);
  return (
    <>
      <button id="toggle" onClick={() => setShown(!shown)}>toggle</button>
      <button id="other" onClick={() => setFilter('other.*')}>other</button>
      <button id="run" onClick={() => setRun('run-1')}>run</button>
      <button id="next" onClick={() => setRun('run-2')}>another</button>
      <button id="slow" onClick={() => setRun('run-slow')}>merged</button>
      {shown && <Answer url={url} run={run} />}
      {shown && <List name="one" url={url} filter={filter} options={{ ...quick, limit: 5 }} />}
      {shown && <List name="two" url={url} filter={{ event_types: ['list.*'] }} />}
      {shown && <Socket url={`${url.replace('http', 'ws')}/ws`} />}
    </>
  );
}

window.show = (url) => createRoot(document.querySelector('#root')).render(<StrictMode><App url={url} /></StrictMode>);
