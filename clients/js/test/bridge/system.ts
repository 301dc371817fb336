import { vi } from 'vitest';

// The running system that these tests are for. `go test ./test/client` starts it.
const control = process.env['EVENTSPINE_CONTROL'];
if (!control) throw new Error('EVENTSPINE_CONTROL is not set: run go test ./test/client in the project\'s root');

async function ask<T>(path: string, method = 'POST'): Promise<T> {
  const answer = await fetch(control + path, { method });
  if (!answer.ok) throw new Error(`${path}: ${await answer.text()}`);
  return (await answer.json()) as T;
}

/** Where API and bridge are. */
export const system = await ask<{ api: string; bridge: string }>('/', 'GET');

/** A user nobody else is. */
export function someone(): string {
  return `user-${Math.random().toString(36).slice(2)}`;
}

/** A signed token. ttl as Go writes durations. */
export function token(user: string, ttl = '1h', ...scopes: string[]): Promise<string> {
  const query = new URLSearchParams([['user', user], ['ttl', ttl], ...scopes.map((s) => ['scope', s])]);
  return ask(`/token?${query}`);
}

/** What happens to the bridge; resolved when it has. */
export const bridge = {
  kill: () => ask('/bridge/kill'),
  stop: () => ask('/bridge/stop'),
  start: () => ask('/bridge/start'),
};

let emitter: Promise<string> | undefined;

/** Posts events through the API and returns when they are stored. */
export async function post(path: string, body: unknown): Promise<void> {
  emitter ??= token('shop', '1h', 'emit', 'admin');
  const answer = await fetch(system.api + path, {
    method: 'POST',
    headers: { Authorization: `Bearer ${await emitter}`, 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
}

/** Stores events numbered from..to for a user; `data.n` is the number. */
export async function emit(user: string, from: number, to = from, type = 'notification.order'): Promise<void> {
  for (let n = from; n <= to; n++) await post('/api/events?ack=stored', { type, userId: user, data: { n } });
}

export const until = (check: () => void | Promise<void>, timeout = 20_000) => vi.waitFor(check, { timeout, interval: 10 });

/** from, from + 1, …, to */
export function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}
