import { afterEach, describe, expect, it, vi } from 'vitest';
import { Backoff } from '../src/backoff.js';
import { defaultStore, later, memoryStore, parseCursor, webStore } from '../src/cursor.js';
import { asEvent } from '../src/events.js';
import { RecentIds } from '../src/recent.js';
import { Timers } from '../src/timers.js';
import { userOf } from '../src/token.js';
import { token } from './standin.js';

describe('Backoff', () => {
  it('doubles its bound up to a limit, and begins again', () => {
    const b = new Backoff({ first: 100, max: 500 }, () => 1);
    expect([1, 2, 3, 4, 5].map(() => b.next())).toEqual([100, 200, 400, 500, 500]);
    b.reset();
    expect(b.next()).toBe(100);
  });

  it('waits for any time up to the bound', () => {
    const waits = Array.from({ length: 1_000 }, () => new Backoff().next());
    expect(Math.min(...waits)).toBeLessThan(200);
    expect(Math.max(...waits)).toBeGreaterThan(1_800);
    expect(Math.max(...waits)).toBeLessThan(2_000);
  });

  it('does what the server asks for', () => {
    expect(new Backoff().next(7_000)).toBe(7_000);
  });

  it('never overflows', () => {
    const b = new Backoff({ first: 1, max: 30_000 }, () => 1);
    for (let i = 0; i < 5_000; i++) b.next();
    expect(b.next()).toBe(30_000);
  });
});

describe('userOf', () => {
  it('is the subject of a JWT', () => {
    for (const user of ['42', 'ána', '你好 😀', '?>~']) expect(userOf(token(user))).toBe(user);
  });

  it('is unknown of anything else', () => {
    for (const text of ['', 'opaque', '..', 'a.b.c', `x.${btoa('null')}.y`, `x.${btoa('{"sub":7}')}.y`, token('')]) expect(userOf(text)).toBeUndefined();
  });
});

describe('RecentIds', () => {
  it('forgets the oldest', () => {
    const ids = new RecentIds(3);
    expect(['a', 'b', 'a', 'c', 'd', 'a', 'd'].map((id) => ids.add(id))).toEqual([true, true, false, true, true, true, false]);
    expect(ids.size).toBe(3);
  });

  it('may be off', () => {
    const ids = new RecentIds(0);
    expect([ids.add('a'), ids.add('a'), ids.size]).toEqual([true, true, 0]);
  });
});

describe('cursors', () => {
  const cursor = (user: number, all: number, epoch = 1) => ({ user, all, epoch: { user: epoch, all: epoch } });

  it('are put together side by side', () => {
    expect(later(cursor(5, 9), cursor(7, 3, 2))).toEqual({ user: 7, all: 9, epoch: { user: 2, all: 1 } });
  });

  it('are read with care', () => {
    expect(parseCursor(JSON.stringify(cursor(1, 2)))).toEqual(cursor(1, 2));
    expect(parseCursor({ ...cursor(1, 2), note: 'x' })).toEqual(cursor(1, 2));
    for (const no of [undefined, null, 7, 'x', '"x"', [], {}, { user: 1, all: 2 }, cursor(-1, 0), cursor(0.5, 0), cursor(2 ** 53, 0), cursor(NaN, 0)]) expect(parseCursor(no)).toBeUndefined();
  });
});

describe('stores', () => {
  afterEach(() => vi.unstubAllGlobals());
  const c = { user: 1, all: 2, epoch: { user: 3, all: 4 } };

  it('keep cursors in memory', () => {
    const store = memoryStore();
    store.save('k', c);
    expect([store.load('k'), store.load('other')]).toEqual([c, undefined]);
  });

  it('keep cursors in a Web Storage', () => {
    const kept = new Map<string, string>();
    const store = webStore({ getItem: (k) => kept.get(k) ?? null, setItem: (k, v) => void kept.set(k, v) });
    store.save('k', c);
    expect(parseCursor(store.load('k'))).toEqual(c);
    expect(parseCursor(store.load('other'))).toBeUndefined();
  });

  it('take localStorage only where it can be used', () => {
    const kept = new Map<string, string>();
    const good = { getItem: (k: string) => kept.get(k) ?? null, setItem: (k: string, v: string) => void kept.set(k, v), removeItem: (k: string) => void kept.delete(k) };
    vi.stubGlobal('document', {});
    vi.stubGlobal('localStorage', good);
    defaultStore().save('k', c);
    expect([...kept.keys()]).toEqual(['k']);
    vi.stubGlobal('localStorage', { ...good, setItem: () => { throw new Error('QuotaExceededError'); } });
    const store = defaultStore();
    store.save('k', c);
    expect(store.load('k')).toEqual(c);
  });
});

describe('asEvent', () => {
  it('takes what is called by its category', () => {
    expect(asEvent('alert', { id: 'a', type: 'alert.disk' })).toEqual({ id: 'a', type: 'alert.disk' });
    expect(asEvent('alert', { id: 'a', type: 'alert' })).toBeDefined();
    for (const no of [null, 7, 'x', {}, { id: 'a' }, { id: 7, type: 'alert' }, { id: 'a', type: 'alerts.x' }]) expect(asEvent('alert', no)).toBeUndefined();
  });
});

describe('Timers', () => {
  it('run once, and not after they were set anew or cleared', async () => {
    vi.useFakeTimers();
    const t = new Timers<'a' | 'b'>();
    const ran: string[] = [];
    t.set('a', 10, () => ran.push('first'));
    t.set('a', 20, () => ran.push('second'));
    t.set('b', 20, () => ran.push('never'));
    t.clear('b');
    expect([t.has('a'), t.has('b')]).toEqual([true, false]);
    vi.advanceTimersByTime(100);
    expect(ran).toEqual(['second']);
    expect(t.has('a')).toBe(false);
    t.set('a', 2 ** 40, () => ran.push('at once'));
    vi.advanceTimersByTime(1_000);
    expect(ran).toEqual(['second']);
    t.clear('a');
    vi.useRealTimers();
  });
});
