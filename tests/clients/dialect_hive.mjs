// Hive's dashboard without React: the hook's state from a stream's events.
import { WebSocket, assert, check, done, publish, until, url } from './lib.mjs';

const address = url.replace('http', 'ws');

/** The hook: events, status and progress of one agent. */
function agentStream(streamId) {
  const ws = new WebSocket(address);
  const state = { events: [], status: 'idle', progress: 0, others: [], ws };
  ws.onopen = () => ws.send(JSON.stringify({ action: 'subscribe', stream_id: streamId }));
  ws.onmessage = (message) => {
    const data = JSON.parse(message.data);
    if (data.type !== 'event') {
      state.others.push(data);
      return;
    }
    const { event } = data;
    state.events.push(event);
    if (event.type === 'execution_started') state.status = 'running';
    if (event.type === 'goal_progress') state.progress = event.data.progress * 100;
    if (event.type === 'execution_completed') state.status = 'completed';
    if (event.type === 'execution_failed') state.status = 'failed';
  };
  return state;
}

const event = (type, stream_id, payload = {}) => ({ type, stream_id, execution_id: 'ex-1', payload });
const dashboard = agentStream('webhook');
await until('subscribed', () => dashboard.others.length > 0);

await check('a run is seen from start to end, in lower case and in order', async () => {
  await publish([
    event('EXECUTION_STARTED', 'webhook', { input_data: { a: 1 } }),
    event('EXECUTION_STARTED', 'another'),
    event('NODE_EXECUTED', 'webhook'),
    event('GOAL_PROGRESS', 'webhook', { progress: 0.5, criteria_status: {} }),
  ]);
  await until('half', () => dashboard.progress === 50);
  assert.equal(dashboard.status, 'running');
  await publish(event('EXECUTION_COMPLETED', 'webhook', { output: 'done' }));
  await until('the end', () => dashboard.status === 'completed');
  assert.deepEqual(
    dashboard.events.map((e) => e.type), ['execution_started', 'node_executed', 'goal_progress', 'execution_completed'],
  );
  assert(dashboard.events.every((e) => e.stream_id === 'webhook' && e.execution_id === 'ex-1' && e.timestamp));
});

await check('a run that fails is seen too', async () => {
  await publish([event('EXECUTION_STARTED', 'webhook'), event('EXECUTION_FAILED', 'webhook', { error: 'no more' })]);
  await until('the failure', () => dashboard.status === 'failed');
  assert.deepEqual(dashboard.events.slice(-2).map((e) => [e.type, e.data.error]), [['execution_started', undefined], ['execution_failed', 'no more']]);
});

await check('filters of one subscribe all hold', async () => {
  const ws = new WebSocket(address);
  const got = [];
  ws.onopen = () => ws.send(JSON.stringify({
    action: 'subscribe', stream_id: 'webhook', event_types: ['EXECUTION_STARTED', 'EXECUTION_COMPLETED', 'GOAL_PROGRESS'],
  }));
  ws.onmessage = (message) => got.push(JSON.parse(message.data));
  await until('subscribed', () => got.length > 0);
  await publish([event('STATE_CHANGED', 'webhook'), event('GOAL_PROGRESS', 'mail'), event('GOAL_PROGRESS', 'webhook')]);
  await until('the one', () => got.some((m) => m.type === 'event'));
  assert.deepEqual(got.filter((m) => m.type === 'event').map((m) => [m.event.type, m.event.stream_id]), [['goal_progress', 'webhook']]);
  ws.close();
});

await check('an unmounted dashboard leaves cleanly', async () => {
  const closed = new Promise((close) => { dashboard.ws.onclose = (e) => close(e.code); });
  dashboard.ws.close();
  assert([1000, 1005].includes(await closed));
});

await done();
