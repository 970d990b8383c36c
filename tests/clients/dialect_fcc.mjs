// FCC's React hook without React: connected, messages, and up to ten attempts to reconnect.
import { WebSocket, ask, assert, check, done, publish, until, url } from './lib.mjs';

function hook(address, delay = 50) {
  const state = { isConnected: false, messages: [], lastMessage: null };
  let attempts = 0;
  const connect = () => {
    state.ws = new WebSocket(address);
    state.ws.onopen = () => {
      state.isConnected = true;
      attempts = 0;
      state.ws.send('{"type": "subscribe", "payload": {"event_types": ["workflow.started", "protocol.a2a.task.received"]}}');
    };
    state.ws.onmessage = (event) => {
      state.lastMessage = JSON.parse(event.data);
      state.messages.push(state.lastMessage);
    };
    state.ws.onerror = () => {};
    state.ws.onclose = () => {
      state.isConnected = false;
      if (attempts < 10) setTimeout(connect, delay);
      attempts += 1;
    };
  };
  connect();
  return state;
}

const proxy = await ask('proxy');
const state = hook(`${proxy.replace('http', 'ws')}/ws/events`);
const events = () => state.messages.filter((message) => message.type === 'event');

await check('at the document\'s path it subscribes and gets what it asked for', async () => {
  await until('an ack', () => state.lastMessage?.type === 'ack');
  await publish([{ type: 'node.entered', source: 'demo' }, { type: 'workflow.started', source: 'demo', payload: { workflow_id: 'wf-001' } }]);
  await until('an event', () => events().length === 1);
  assert.deepEqual([events()[0].payload.event_type, events()[0].payload.payload], ['workflow.started', { workflow_id: 'wf-001' }]);
});

await check('a message routed over the bridge reaches the browser', async () => {
  const answer = await fetch(`${url}/bridge/a2a`, { method: 'POST', body: JSON.stringify({ task_id: 't2', skill: 'analyze' }) });
  assert.deepEqual(await answer.json(), { status: 'accepted', protocol: 'a2a', message_id: 't2' });
  await until('an event', () => events().length === 2);
  assert.deepEqual(events()[1].payload.payload, { protocol: 'a2a', message: { task_id: 't2', skill: 'analyze' } });
});

await check('after a cut it is connected again', async () => {
  await ask('cut');
  await until('gone', () => !state.isConnected);
  await until('back', () => state.isConnected && state.lastMessage.type === 'ack');
  await publish({ type: 'workflow.started', source: 'demo' });
  await until('an event', () => events().length === 3);
});

await done();
