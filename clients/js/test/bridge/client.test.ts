import { afterEach, describe, expect, it, vi } from 'vitest';
import { type Client, createClient, type ClientError, type ClientOptions, type Gap, memoryStore, type SpineEvent } from '../../src/index.js';
import { bridge, emit, post, range, someone, system, token, until } from './system.js';

const clients: Client[] = [];
afterEach(() => {
  for (const c of clients.splice(0)) c.close();
});

interface Seen {
  client: Client;
  numbers: number[];
  gaps: Gap[];
  errors: ClientError[];
}

/** A client of a user that is live. */
async function live(user: string, options: Partial<ClientOptions> = {}): Promise<Seen> {
  const client = createClient({ url: system.bridge, getToken: () => token(user), store: memoryStore(), backoff: { first: 200, max: 200 }, ...options });
  clients.push(client);
  const seen: Seen = { client, numbers: [], gaps: [], errors: [] };
  client.on('*', (e: SpineEvent) => {
    const { n } = (e.data ?? {}) as { n?: number };
    if (n !== undefined && (e.userId === user || e.source === user)) seen.numbers.push(n);
  });
  client.onGap((g) => seen.gaps.push(g));
  client.onError((e) => seen.errors.push(e));
  client.connect();
  await until(() => expect(client.state).toBe('live'));
  return seen;
}

describe('@eventspine/client and the bridge', () => {
  for (const transports of [['websocket'], ['polling'], ['polling', 'websocket']]) {
    it(`get events over ${transports.join(' and ')}, in order and once`, async () => {
      const user = someone();
      const { client, numbers, errors } = await live(user, { socket: { transports } });
      if (transports.length > 1) await until(() => expect(client.transport).toBe('websocket'));
      await emit(user, 1, 20);
      await post('/api/events?ack=stored', { type: 'alert.all', userId: '*', source: user, data: { n: 21 } });
      await until(() => expect(numbers).toContain(21));
      expect([...numbers].sort((a, b) => a - b)).toEqual(range(1, 21));
      expect(errors).toEqual([]);
    });
  }

  it('go on after kill -9, with what was missed, in order and once', async () => {
    const user = someone();
    const others = Array.from({ length: 5 }, someone);
    const all = await Promise.all([user, ...others].map((u) => live(u)));
    const { client, numbers, gaps } = all[0]!;
    await emit(user, 1, 5);
    await until(() => expect(numbers).toEqual(range(1, 5)));
    await bridge.kill();
    await until(() => expect(client.state).not.toBe('live'));
    await emit(user, 6, 10);
    await Promise.all(others.map((u) => emit(u, 1, 3))); // who never got an event
    await bridge.start();
    await until(() => expect(client.state).toBe('live'));
    await emit(user, 11, 12);
    await until(() => expect(numbers).toEqual(range(1, 12)));
    for (const other of all.slice(1)) await until(() => expect(other.numbers).toEqual(range(1, 3)));
    expect(gaps).toEqual([]);
  });

  it('go on after a bridge that was stopped in good order', async () => {
    const user = someone();
    const { client, numbers } = await live(user);
    await emit(user, 1);
    await until(() => expect(numbers).toEqual([1]));
    await bridge.stop();
    await until(() => expect(client.state).not.toBe('live'));
    await emit(user, 2);
    await bridge.start();
    await until(() => expect(numbers).toEqual([1, 2]));
  });

  it('go on where the last visit ended', async () => {
    const user = someone();
    const store = memoryStore();
    const first = await live(user, { store });
    await emit(user, 1, 2);
    await until(() => expect(first.numbers).toEqual([1, 2]));
    first.client.close();
    await emit(user, 3, 4);
    const second = await live(user, { store });
    await emit(user, 5);
    await until(() => expect(second.numbers).toEqual([3, 4, 5]));
    expect(second.gaps).toEqual([]);
  });

  it('replay in pages, and say what is past the window', async () => {
    const user = someone();
    const store = memoryStore();
    const first = await live(user, { store });
    await emit(user, 1);
    await until(() => expect(first.numbers).toEqual([1]));
    first.client.close();
    const batch = (from: number, to: number) => post('/api/events/batch', range(from, to).map((n) => ({ type: 'notification.order', userId: user, data: { n } })));
    await batch(2, 901);
    await emit(user, 902);
    const second = await live(user, { store });
    await until(() => expect(second.numbers).toEqual(range(2, 902)));
    expect(second.gaps).toEqual([]);
    second.client.close();
    await batch(903, 1_700);
    await batch(1_701, 2_200);
    await emit(user, 2_201);
    const third = await live(user, { store });
    await until(() => expect(third.numbers.at(-1)).toBe(2_201));
    expect(third.gaps).toHaveLength(1);
    expect(third.numbers).toEqual(range(third.numbers[0]!, 2_201));
    third.client.close();
    const fourth = await live(user, { store });
    expect(fourth.gaps).toEqual([]); // it is told once
  });

  it('do not fall for a cursor of another system', async () => {
    const user = someone();
    const store = memoryStore();
    const beyond = 2 ** 53 - 1;
    store.save(`eventspine:cursor:${system.bridge}:${user}`, { user: beyond, all: beyond, epoch: { user: beyond, all: beyond } });
    const { numbers, gaps } = await live(user, { store });
    expect(gaps).toHaveLength(1);
    await emit(user, 1, 2);
    await until(() => expect(numbers).toEqual([1, 2]));
  });

  it('can be asked for what was missed', async () => {
    const user = someone();
    const { client } = await live(user);
    await emit(user, 1);
    await expect(client.sync()).resolves.toEqual({ complete: true });
  });

  it('refresh a token that ends, and stay connected', async () => {
    const user = someone();
    const getToken = vi.fn((why: string) => token(user, why === 'connect' ? '2s' : '1h'));
    const { client, numbers, errors } = await live(user, { getToken });
    const states: string[] = [];
    client.onState((s) => states.push(s));
    await until(() => expect(getToken).toHaveBeenLastCalledWith('expiring'));
    await new Promise((later) => setTimeout(later, 2_500)); // the first token has ended
    await emit(user, 1);
    await until(() => expect(numbers).toEqual([1]));
    expect(states).toEqual([]);
    expect(errors).toEqual([]);
  });

  it('connect anew with another token when there was none in time', async () => {
    const user = someone();
    let calls = 0;
    const getToken = (why: string) => (why === 'expiring' ? null : token(user, ++calls === 1 ? '2s' : '1h'));
    const { client, numbers } = await live(user, { getToken });
    await until(() => expect(client.state).not.toBe('live'));
    await emit(user, 1);
    await until(() => expect(numbers).toEqual([1]));
    expect(calls).toBe(2);
  });

  it('say why a token is refused, and close when there is no other', async () => {
    const user = someone();
    for (const bad of ['rubbish', await token(user, '-1h'), `${(await token(user)).slice(0, -2)}AA`]) {
      const client = createClient({ url: system.bridge, token: bad, store: memoryStore() });
      const errors: ClientError[] = [];
      client.onError((e) => errors.push(e));
      client.connect();
      await until(() => expect(client.state).toBe('closed'));
      expect(errors.map((e) => e.during)).toEqual(['token']);
      expect(errors[0]!.message).toMatch(/token/);
    }
  });

  it('end at once when a token is revoked, and do not come back with it', async () => {
    const user = someone();
    const { client, errors } = await live(user, { getToken: undefined as never, token: await token(user) });
    await post('/api/tokens/revoke', { user });
    const began = Date.now();
    await until(() => expect(client.state).not.toBe('live'));
    expect(Date.now() - began).toBeLessThan(2_500);
    await until(() => expect(client.state).toBe('closed'));
    expect(errors.map((e) => e.during)).toEqual(['token']);
  });
});
