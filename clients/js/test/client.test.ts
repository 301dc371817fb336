import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type Client, ClientError, createClient, type ClientOptions, type Cursor, type CursorStore, type Gap, memoryStore, type State, webStore } from '../src/index.js';
import { StandIn, token } from './standin.js';

let bridge: StandIn;
const clients: Client[] = [];

beforeEach(async () => {
  bridge = await StandIn.start();
});
afterEach(async () => {
  for (const c of clients.splice(0)) c.close();
  await bridge.close();
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
});

interface Seen {
  client: Client;
  ids: string[];
  states: State[];
  gaps: Gap[];
  errors: ClientError[];
}

function start(options: Partial<ClientOptions> = {}): Seen {
  const client = createClient({ url: bridge.url, token: token('ana'), store: memoryStore(), backoff: { first: 40, max: 40 }, ...options });
  clients.push(client);
  const seen: Seen = { client, ids: [], states: [], gaps: [], errors: [] };
  client.on('*', (e) => seen.ids.push(e.id));
  client.onState((s) => seen.states.push(s));
  client.onGap((g) => seen.gaps.push(g));
  client.onError((e) => seen.errors.push(e));
  client.connect();
  return seen;
}

const until = (check: () => void) => vi.waitFor(check, { timeout: 20_000, interval: 5 });
const state = (c: Client, want: State) => until(() => expect(c.state).toBe(want));

async function live(options: Partial<ClientOptions> = {}): Promise<Seen> {
  const seen = start(options);
  await state(seen.client, 'live');
  return seen;
}

describe('events', () => {
  for (const transports of [['websocket'], ['polling'], ['polling', 'websocket']]) {
    it(`come over ${transports.join(' and ')}`, async () => {
      const { client, ids } = await live({ socket: { transports } });
      expect(transports).toContain(client.transport);
      bridge.emit();
      bridge.emit('all');
      await until(() => expect(ids).toEqual(['user1', 'all1']));
    });
  }

  it('go to handlers by type, by category, and to those for all, once each', async () => {
    const { client } = await live();
    const got: string[] = [];
    client.on('notification', (e) => got.push(`category ${e.type}`));
    client.on('notification.order', (e) => got.push(`type ${e.type}`));
    client.on('alert', (e) => got.push(`alert ${e.type}`));
    const end = client.on('*', (e) => got.push(`all ${e.type}`));
    bridge.emit('user', 'notification.order');
    bridge.emit('user', 'notification.orders.late');
    bridge.emit('user', 'alert');
    await until(() => expect(got).toEqual([
      'type notification.order', 'category notification.order', 'all notification.order',
      'category notification.orders.late', 'all notification.orders.late',
      'alert alert', 'all alert',
    ]));
    end();
    end();
    bridge.emit('user', 'status');
    bridge.emit('user', 'alert');
    await until(() => expect(got.slice(7)).toEqual(['alert alert']));
  });

  it('survive a handler that throws', async () => {
    const { client, ids, errors } = start();
    const broken = vi.fn(() => { throw new Error('broken'); });
    client.on('notification', broken);
    await state(client, 'live');
    bridge.emit();
    bridge.emit();
    await until(() => expect(ids).toEqual(['user1', 'user2']));
    expect(broken).toHaveBeenCalledTimes(2);
    expect(errors.map((e) => [e.during, (e.cause as Error).message])).toEqual([['handler', 'broken'], ['handler', 'broken']]);
  });

  it('are told from the bridge\'s own messages by what they are', async () => {
    const { client, ids } = await live();
    bridge.io.emit('synced', { complete: false });
    bridge.io.emit('notification', 'no event');
    bridge.io.emit('notification', { ...bridge.journal().add('user'), type: 'alert.other' });
    bridge.io.emit('notification', null);
    bridge.emit('user', 'synced.yes');
    await until(() => expect(ids).toContain('user2'));
    expect(client.state).toBe('live');
  });
});

describe('what was missed', () => {
  it('begins at the moment of the first connection', async () => {
    bridge.emit();
    const { client, ids } = await live();
    expect(bridge.auths[0]!.cursor).toBe('now');
    bridge.drop();
    await until(() => expect(client.state).not.toBe('live'));
    bridge.emit(); // nothing was received before
    bridge.emit('all');
    await until(() => expect(ids).toEqual(['user2', 'all1']));
  });

  it('comes after a reconnect, in order', async () => {
    const { client, ids, states } = await live();
    bridge.emit();
    await until(() => expect(ids).toHaveLength(1));
    bridge.drop();
    await until(() => expect(client.state).not.toBe('live'));
    for (let i = 0; i < 4; i++) bridge.emit(i % 2 ? 'all' : 'user');
    await state(client, 'live');
    bridge.emit();
    await until(() => expect(ids).toEqual(bridge.journal().ids()));
    expect(states).toEqual(['connecting', 'syncing', 'live', 'waiting', 'connecting', 'syncing', 'live']);
    expect(bridge.asked).toEqual([]); // the handshake was enough
  });

  it('comes in pages', async () => {
    const { client, ids } = await live();
    bridge.page = 3;
    bridge.drop();
    await until(() => expect(client.state).not.toBe('live'));
    for (let i = 0; i < 10; i++) bridge.emit(i % 2 ? 'all' : 'user');
    await until(() => expect(ids).toEqual(bridge.journal().ids()));
    await state(client, 'live');
    expect(bridge.asked).toHaveLength(3);
  });

  it('is asked for when a hole shows', async () => {
    const { client, ids } = await live();
    bridge.journal().add('user'); // never sent
    bridge.emit();
    await until(() => expect(ids).toEqual(['user1', 'user2']));
    await state(client, 'live');
    expect(bridge.asked).toHaveLength(1);
  });

  it('is asked for when the bridge does not say that it has replayed', async () => {
    bridge.synced = false;
    const { client } = start({ answerTimeout: 50 });
    await state(client, 'live');
    expect(bridge.asked).toEqual(['now']);
    expect(client.cursor).toEqual(bridge.journal().head());
  });

  it('is announced when it is past the window', async () => {
    const { client, ids, gaps } = await live();
    bridge.emit();
    await until(() => expect(ids).toHaveLength(1));
    const since = client.cursor;
    bridge.drop();
    await until(() => expect(client.state).not.toBe('live'));
    for (let i = 0; i < 4; i++) bridge.emit();
    bridge.journal().forget(3);
    await until(() => expect(gaps).toHaveLength(1));
    await state(client, 'live');
    expect(ids).toEqual(['user1', 'user4', 'user5']);
    expect(since).toMatchObject({ epoch: { user: 1_000 } });
  });

  it('is asked for again when the bridge is busy, after the time it says', async () => {
    const { client, ids, errors } = await live();
    bridge.interfere = (n) => (n === 1 ? { complete: false, error: 'busy', retryAfter: 60 } : undefined);
    bridge.journal().add('user');
    const before = Date.now();
    bridge.emit();
    await until(() => expect(ids).toEqual(['user1', 'user2']));
    expect(Date.now() - before).toBeGreaterThanOrEqual(55);
    expect(errors).toEqual([]);
    await state(client, 'live');
  });

  it('is asked for again when there is no answer, or an error', async () => {
    const { ids, errors, gaps } = await live({ answerTimeout: 50 });
    bridge.interfere = (n) => (n === 1 ? 'silent' : n === 2 ? { complete: false, error: 'out of reach' } : undefined);
    bridge.journal().add('user');
    bridge.emit();
    await until(() => expect(ids).toEqual(['user1', 'user2']));
    expect(errors.map((e) => [e.during, e.message])).toEqual([['sync', 'no answer to sync in time'], ['sync', 'out of reach']]);
    expect(gaps).toEqual([]);
  });

  it('is given up when the bridge does not know the position, and says another', async () => {
    const store = memoryStore();
    store.save(`eventspine:cursor:${bridge.url}:ana`, { user: 1e12, all: 1e12, epoch: { user: 1e12, all: 1e12 } });
    bridge.synced = false;
    bridge.interfere = () => ({ complete: false, error: 'nobody was ever there', last: bridge.journal().head() });
    const { ids, gaps } = await live({ store, answerTimeout: 50 });
    expect(gaps).toHaveLength(1);
    bridge.emit();
    await until(() => expect(ids).toEqual(['user1']));
  });

  it('is not waited for on a connection that is gone', async () => {
    const { client, ids, errors } = await live();
    bridge.interfere = (n) => (n === 1 ? 'silent' : undefined);
    bridge.journal().add('user');
    bridge.emit();
    await until(() => expect(bridge.asked).toHaveLength(1));
    bridge.io.emit('synced', { complete: true, last: bridge.journal().head() }); // late, and no answer to this
    bridge.emit('all');
    await new Promise((later) => setTimeout(later, 50));
    expect(ids).toEqual([]);
    bridge.drop();
    await until(() => expect(ids).toEqual(['user1', 'user2', 'all1']));
    await state(client, 'live');
    expect(errors).toEqual([]);
  });

  it('can be asked for', async () => {
    const { client, ids } = await live();
    bridge.journal().add('user');
    await expect(client.sync()).resolves.toEqual({ complete: true });
    expect(ids).toEqual(['user1']);
    bridge.journal().add('user');
    bridge.journal().add('user');
    bridge.journal().forget(2);
    await expect(Promise.all([client.sync(), client.sync()])).resolves.toEqual([{ complete: false }, { complete: false }]);
    expect(ids).toEqual(['user1', 'user3']);
    expect(bridge.asked).toHaveLength(2);
    const late = client.sync();
    client.close();
    await expect(late).rejects.toThrow('closed');
    await expect(client.sync()).rejects.toThrow('closed');
  });
});

describe('the cursor', () => {
  it('is kept, by bridge and user', async () => {
    const kept = new Map<string, string>();
    const store = webStore({ getItem: (k) => kept.get(k) ?? null, setItem: (k, v) => void kept.set(k, v) });
    const first = await live({ store });
    bridge.emit();
    await until(() => expect(first.ids).toHaveLength(1));
    first.client.close();
    expect([...kept.keys()]).toEqual([`eventspine:cursor:${bridge.url}:ana`]);
    bridge.emit();
    bridge.emit('all');
    const second = await live({ store });
    expect(second.ids).toEqual(['user2', 'all1']);
    const bob = await live({ store, token: token('bob') });
    expect(bob.ids).toEqual([]);
    expect(bridge.auths.at(-1)!.cursor).toBe('now');
  });

  it('is written while events come, but not with each', async () => {
    const saves: Cursor[] = [];
    const { ids } = await live({ saveEvery: 30, store: { load: () => undefined, save: (_, c) => void saves.push(c) } });
    const first = saves.length;
    const source = setInterval(() => bridge.emit(), 5); // always one within 30 ms
    await until(() => expect(saves.length).toBeGreaterThan(first + 3));
    clearInterval(source);
    const sent = bridge.journal().events.length;
    await until(() => expect(ids).toHaveLength(sent));
    await until(() => expect(saves.at(-1)).toEqual(bridge.journal().head()));
    expect(saves.length).toBeLessThan(sent);
  });

  it('is written when the page is left', async () => {
    const page = new EventTarget();
    vi.stubGlobal('addEventListener', page.addEventListener.bind(page));
    const forget = vi.fn<EventTarget['removeEventListener']>(page.removeEventListener.bind(page));
    vi.stubGlobal('removeEventListener', forget);
    const save = vi.fn();
    const { ids, client } = await live({ saveEvery: 1e6, store: { load: () => undefined, save } });
    bridge.emit();
    await until(() => expect(ids).toHaveLength(1));
    expect(save).not.toHaveBeenCalled();
    page.dispatchEvent(new Event('pagehide'));
    expect(save).toHaveBeenCalledWith(`eventspine:cursor:${bridge.url}:ana`, client.cursor);
    client.close();
    expect(forget.mock.calls.map(([type]) => type)).toEqual(['pagehide', 'online']);
  });

  it('does without a store that fails, or holds rubbish', async () => {
    const stores: CursorStore[] = [
      { load: () => { throw new Error('no'); }, save: () => { throw new Error('no'); } },
      { load: () => Promise.reject(new Error('no')), save: () => Promise.reject(new Error('no')) },
    ];
    for (const store of stores) {
      const { client, errors } = await live({ store });
      client.close();
      await until(() => expect(errors.map((e) => e.during)).toEqual(['store', 'store']));
    }
    for (const rubbish of ['{', '7', 'null', '{"user":-1,"all":0,"epoch":{"user":0,"all":0}}', '{"user":1e99,"all":0,"epoch":{"user":0,"all":0}}', { user: 1 }]) {
      const { errors } = await live({ store: { load: () => rubbish, save: () => {} } });
      expect(errors).toEqual([]);
      expect(bridge.auths.at(-1)!.cursor).toBe('now');
    }
  });

  it('is of one user only: another one\'s token begins anew', async () => {
    let user = 'ana';
    const { client, ids } = await live({ getToken: () => token(user) });
    bridge.emit();
    await until(() => expect(ids).toHaveLength(1));
    user = 'bob';
    bridge.drop();
    await until(() => expect(bridge.auths).toHaveLength(2));
    expect(bridge.auths[1]!.cursor).toBe('now');
    await state(client, 'live');
    user = 'ana';
    bridge.emit();
    bridge.drop();
    await until(() => expect(bridge.auths).toHaveLength(3));
    expect(bridge.auths[2]!.cursor).toMatchObject({ user: bridge.journal().events[0]!.seq });
  });
});

describe('tokens', () => {
  it('are asked for anew before each connection', async () => {
    const reasons: string[] = [];
    const { client } = await live({ getToken: async (why) => { reasons.push(why); return token('ana', { n: reasons.length }); } });
    bridge.drop();
    await until(() => expect(bridge.auths).toHaveLength(2));
    await state(client, 'live');
    expect(reasons).toEqual(['connect', 'reconnect']);
    expect(bridge.auths[0]!.token).not.toBe(bridge.auths[1]!.token);
  });

  it('that are refused are asked for anew', async () => {
    const reasons: string[] = [];
    bridge.refuse = (t) => (t === 'old' ? { message: 'the token has expired', data: { kind: 'unauthorized' } } : undefined);
    const { client, errors } = await live({ getToken: (why) => { reasons.push(why); return why === 'refused' ? token('ana') : 'old'; } });
    expect(reasons).toEqual(['connect', 'refused']);
    expect(errors.map((e) => [e.during, e.message])).toEqual([['token', 'the token has expired']]);
    expect(client.state).toBe('live');
  });

  it('that are refused and cannot change end it', async () => {
    bridge.refuse = () => ({ message: 'the token has expired', data: { kind: 'unauthorized' } });
    const { client, errors } = start();
    await state(client, 'closed');
    expect(errors).toHaveLength(1);
  });

  it('do not matter when it is the bridge that has no room', async () => {
    bridge.refuse = () => (bridge.auths.length < 3 ? { message: 'too many connections', data: { retryAfter: 10 } } : undefined);
    const { errors } = await live();
    expect(errors.map((e) => e.during)).toEqual(['connect', 'connect']);
  });

  it('that end are refreshed', async () => {
    const reasons: string[] = [];
    const { client, ids } = await live({ getToken: (why) => { reasons.push(why); return token('ana', { n: reasons.length }); } });
    bridge.io.emit('token_expiring', { expiresAt: Date.now() + 200 });
    await until(() => expect(bridge.refreshes).toHaveLength(1));
    expect(reasons).toEqual(['connect', 'expiring']);
    bridge.emit();
    await until(() => expect(ids).toHaveLength(1));
    expect(client.state).toBe('live');
  });

  it('are refreshed again while there is time', async () => {
    let calls = 0;
    const { errors } = await live({ getToken: () => { if (++calls === 2) throw new Error('away'); return token('ana'); } });
    bridge.refreshed = { ok: false, error: 'not yours' };
    const dice = vi.spyOn(Math, 'random').mockReturnValue(0); // early each time
    bridge.io.emit('token_expiring', { expiresAt: Date.now() + 5_000 });
    await until(() => expect(bridge.refreshes).toHaveLength(1));
    bridge.refreshed = { ok: true };
    await until(() => expect(bridge.refreshes).toHaveLength(2));
    expect(errors.map((e) => e.message)).toEqual(['getToken failed', 'not yours']);
    dice.mockRestore();
  });

  it('that are not there any more end it', async () => {
    let signedIn = true;
    const { client, errors } = await live({ getToken: () => (signedIn ? token('ana') : null) });
    signedIn = false;
    bridge.drop();
    await state(client, 'closed');
    expect(errors.map((e) => e.message)).toEqual(['there is no token']);
  });

  it('that cannot be had for now are asked for later', async () => {
    let calls = 0;
    const { errors } = await live({ getToken: () => { if (++calls < 3) throw new Error('offline'); return token('ana'); } });
    expect(errors.map((e) => e.during)).toEqual(['token', 'token']);
  });

  it('or their giver are needed', () => {
    expect(() => createClient({ url: bridge.url })).toThrow(TypeError);
  });
});

describe('connections', () => {
  it('come back when the bridge does', async () => {
    const { client, ids } = await live();
    const port = Number(new URL(bridge.url).port);
    const journals = bridge.journals;
    await bridge.close();
    await state(client, 'waiting');
    const e = journals.get('ana')!.add('user');
    bridge = await StandIn.start(port);
    bridge.journals.set('ana', journals.get('ana')!);
    await until(() => expect(ids).toEqual([e.id]));
  });

  it('come back after the bridge has closed them, when it says', async () => {
    const { client } = await live({ backoff: { first: 1e6 } });
    bridge.io.emit('closing', { reason: 'shutdown', retryAfter: 50 });
    bridge.io.disconnectSockets();
    await until(() => expect(client.state).toBe('waiting'));
    await state(client, 'live');
  });

  it('are given up in time and tried again', async () => {
    let calls = 0;
    const { errors } = await live({ connectTimeout: 200, getToken: () => (++calls === 1 ? new Promise(() => {}) : token('ana')) });
    expect(errors.map((e) => e.message)).toEqual(['no connection in time']);
  });

  it('that end before they are there are tried again', async () => {
    let first = true;
    bridge.io.engine.on('connection', (socket: { close(): void }) => {
      if (first) socket.close();
      first = false;
    });
    for (const transports of [['websocket'], ['polling']]) {
      first = true;
      const { errors } = await live({ socket: { transports } });
      expect(errors.map((e) => e.during)).toEqual(['connect']);
    }
  });

  it('are tried at once when the network is back', async () => {
    const page = new EventTarget();
    vi.stubGlobal('addEventListener', page.addEventListener.bind(page));
    vi.stubGlobal('removeEventListener', page.removeEventListener.bind(page));
    const { client } = await live({ backoff: { first: 1, max: 1 } });
    bridge.io.emit('closing', { retryAfter: 1e8 });
    bridge.drop();
    await state(client, 'waiting');
    page.dispatchEvent(new Event('online'));
    await state(client, 'live');
    client.close();
    page.dispatchEvent(new Event('online'));
    expect(client.state).toBe('closed');
  });

  it('fall back to polling where websockets do not get through', async () => {
    bridge.web.removeAllListeners('upgrade');
    bridge.web.on('upgrade', (_, socket) => socket.destroy());
    const { client } = await live();
    expect(client.transport).toBe('polling');
  });

  it('end for good with close, and begin again with connect', async () => {
    const { client, ids } = await live();
    client.close();
    client.close();
    expect(client.state).toBe('closed');
    await until(() => expect(bridge.io.engine.clientsCount).toBe(0));
    bridge.emit();
    client.connect();
    client.connect();
    await until(() => expect(ids).toEqual(['user1']));
    expect(bridge.auths).toHaveLength(2);
  });

  it('end in the middle of what was missed when a handler says so, and go on there', async () => {
    const { client, ids } = await live();
    const end = client.on('*', (e) => { if (e.id === 'user2') client.close(); });
    for (let i = 0; i < 4; i++) bridge.journal().add('user');
    bridge.emit();
    await state(client, 'closed');
    expect(ids).toEqual(['user1', 'user2']);
    end();
    client.connect();
    await until(() => expect(ids).toEqual(bridge.journal().ids()));
  });

  it('that were closed while they were made do not come about', async () => {
    let give: (t: string) => void = () => {};
    const { client } = start({ getToken: () => new Promise<string>((resolve) => { give = resolve; }) });
    client.close();
    give(token('ana'));
    const other = await live({ token: token('bob') });
    expect(other.client.state).toBe('live');
    expect(bridge.auths).toHaveLength(1);
  });

  it('that were closed while the cursor was read, or the token failed, do not come about either', async () => {
    let found: (c: unknown) => void = () => {};
    const load = vi.fn(() => new Promise((resolve) => { found = resolve; }));
    const first = start({ store: { load, save: () => {} } });
    await until(() => expect(load).toHaveBeenCalled());
    first.client.close();
    found(null);
    let fail: (e: Error) => void = () => {};
    const second = start({ getToken: () => new Promise((_, reject) => { fail = reject; }) });
    second.client.close();
    fail(new Error('too late'));
    await live({ token: token('bob') });
    expect([first.client.state, second.client.state]).toEqual(['closed', 'closed']);
    expect(bridge.auths).toHaveLength(1);
  });

  it('tell the console what went wrong when nobody listens', async () => {
    const said = vi.spyOn(console, 'error').mockImplementation(() => {});
    bridge.refuse = () => ({ message: 'no', data: { kind: 'unauthorized' } });
    const client = createClient({ url: bridge.url, token: token('ana') });
    clients.push(client);
    client.connect();
    await state(client, 'closed');
    expect(said).toHaveBeenCalledOnce();
    said.mockRestore();
  });
});
