// AutoSDLC's JavaScript SDK in small: reconnect, heartbeat, a queue while offline, handlers, subscriptions.
import { randomUUID } from 'node:crypto';
import { WebSocket, ask, assert, check, done, publish, Queue, until, url } from './lib.mjs';

class AutoSdlc {
  handlers = new Map();
  subscriptions = new Map();
  queue = [];
  attempts = 0;
  alive = true;

  constructor({ url, token, delay = 50, maxDelay = 400, heartbeat = 100 }) {
    Object.assign(this, { url, token, delay, maxDelay, heartbeat });
  }

  connect() {
    return new Promise((resolve) => {
      this.ws = new WebSocket(this.url);
      this.ws.onopen = () => {
        this.attempts = 0;
        this.emit({ type: 'auth_request', data: { token: this.token } });
        for (const [subscriptionId, wanted] of this.subscriptions) {
          this.emit({ type: 'subscribe', data: { subscriptionId, ...wanted } });
        }
        for (const message of this.queue.splice(0)) this.emit(message);
        this.beat = setInterval(() => this.emit({ type: 'ping', data: {} }), this.heartbeat);
        resolve();
      };
      this.ws.onerror = () => {};
      this.ws.onclose = () => {
        clearInterval(this.beat);
        if (!this.alive) return;
        setTimeout(() => this.connect().then(resolve), Math.min(this.delay * 2 ** this.attempts, this.maxDelay));
        this.attempts += 1;
      };
      this.ws.onmessage = (event) => {
        const message = JSON.parse(event.data);
        for (const name of [message.type, '*']) this.handlers.get(name)?.forEach((handler) => handler(message));
      };
    });
  }

  emit(message) {
    const whole = { id: randomUUID(), timestamp: Date.now(), ...message, metadata: { version: '1.0' } };
    if (this.ws?.readyState === WebSocket.OPEN) this.ws.send(JSON.stringify(whole));
    else this.queue.push(message);
  }

  on(type, handler) {
    if (!this.handlers.has(type)) this.handlers.set(type, new Set());
    this.handlers.get(type).add(handler);
    return () => this.handlers.get(type).delete(handler);
  }

  subscribe(wanted) {
    const id = randomUUID();
    this.subscriptions.set(id, wanted);
    this.emit({ type: 'subscribe', data: { subscriptionId: id, ...wanted } });
    return {
      id,
      unsubscribe: () => {
        this.subscriptions.delete(id);
        this.emit({ type: 'unsubscribe', data: { subscriptionId: id } });
      },
    };
  }

  subscribeToAgent(resourceId, events = ['status', 'task_update', 'log', 'metric']) {
    return this.subscribe({ resource: 'agent', resourceId, events });
  }

  subscribeToWorkflow(resourceId) {
    return this.subscribe({ resource: 'workflow', resourceId, events: ['started', 'step_complete', 'complete', 'failed'] });
  }

  close() {
    this.alive = false;
    clearInterval(this.beat);
    this.ws.close();
  }
}

/** All messages of one type that a client gets. */
function all(client, type) {
  const queue = new Queue();
  client.on(type, (message) => queue.push(message));
  return queue;
}

const proxy = await ask('proxy');
const client = new AutoSdlc({ url: `${proxy.replace('http', 'ws')}/ws`, token: 'any' });
const [hello, authenticated, updates, statuses, pongs, lost] =
  ['connect', 'auth_success', 'subscription_update', 'agent_status', 'pong', 'agent_log'].map((type) => all(client, type));

await check('messages sent before the connection wait for it', async () => {
  client.subscribeToAgent('coder-001');
  await client.connect();
  assert((await hello.next()).data.clientId.length > 0);
  assert.equal((await authenticated.next()).metadata.version, '1.0');
  assert((await updates.next()).data.subscriptionId.length > 0);
});

await check('an agent\'s status arrives as the document prints it', async () => {
  await until('all answers', () => updates.items.length >= 1);
  const data = {
    agentId: 'coder-001', agentType: 'coder', status: 'busy',
    currentTask: { id: 'task-789', type: 'implement_feature', progress: 65, startTime: 1703774300000 },
    metrics: { cpuUsage: 45.2, memoryUsage: 1024000000, tasksCompleted: 12, uptime: 86400 },
  };
  await publish({ type: 'agent_status', source: 'agent-monitor', timestamp: 1703775135000, data });
  const message = await statuses.next();
  assert.deepEqual(
    { ...message, id: null },
    { id: null, type: 'agent_status', timestamp: 1703775135000, data, metadata: { version: '1.0', source: 'agent-monitor' } },
  );
});

await check('a workflow\'s four events arrive, and none after the unsubscribe', async () => {
  const any = all(client, '*');
  const subscription = client.subscribeToWorkflow('w-1');
  while ((await any.next()).data.subscriptionId !== subscription.id);
  await publish(['started', 'step_complete', 'complete', 'failed', 'paused']
    .map((step) => ({ type: `workflow_${step}`, data: { workflowId: 'w-1' } })));
  for (const step of ['started', 'step_complete', 'complete', 'failed']) {
    let message;
    do message = await any.next(); while (message.type === 'pong');
    assert.equal(message.type, `workflow_${step}`);
  }
  subscription.unsubscribe();
  let message;
  do message = await any.next(); while (message.type === 'pong');
  assert.deepEqual(message.data, { subscriptionId: subscription.id, status: 'removed' });
});

await check('a heartbeat is answered with the server\'s time in ms', async () => {
  const pong = await pongs.next();
  assert(Math.abs(pong.data.timestamp - Date.now()) < 60_000);
});

await check('after a cut it comes back with its subscriptions', async () => {
  await ask('cut');
  await hello.next('a second connect');
  await authenticated.next();
  while ((await updates.next('restored')).data.status !== 'active');
  await until('restored', async () => {
    await publish({ type: 'agent_log', data: { agentId: 'coder-001', level: 'info', message: 'back' } });
    return lost.items.length > 0;
  });
  assert.equal((await lost.next()).data.message, 'back');
});

client.close();
await done();
