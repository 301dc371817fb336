/**
 * How far a client has come. A user's own events and those for everybody are numbered apart, so
 * that a position is two numbers, and the journal's generation each of them is of.
 */
export interface Cursor {
  readonly user: number;
  readonly all: number;
  readonly epoch: { readonly user: number; readonly all: number };
}

/** One of the two numberings. */
export type Side = 'user' | 'all';

/** Whose number an event moves. */
export function sideOf(event: { readonly userId: string }): Side {
  return event.userId === '*' ? 'all' : 'user';
}

/** The cursor with one side moved on. */
export function moved(cursor: Cursor, side: Side, seq: number, epoch: number): Cursor {
  return { ...cursor, [side]: seq, epoch: { ...cursor.epoch, [side]: epoch } };
}

/** Of each side the later position. Numbers never start again, so that the larger one is later. */
export function later(a: Cursor, b: Cursor): Cursor {
  const user = b.user >= a.user ? b : a;
  const all = b.all >= a.all ? b : a;
  return { user: user.user, all: all.all, epoch: { user: user.epoch.user, all: all.epoch.all } };
}

/** Reads what was stored or sent as a cursor; undefined when it is none. */
export function parseCursor(value: unknown): Cursor | undefined {
  if (typeof value === 'string') {
    try {
      return parseCursor(JSON.parse(value));
    } catch {
      return undefined;
    }
  }
  const c = value as Partial<Cursor> | null | undefined;
  const numbers = [c?.user, c?.all, c?.epoch?.user, c?.epoch?.all];
  if (!numbers.every((n) => Number.isSafeInteger(n) && (n as number) >= 0)) return undefined;
  const [user, all, epochUser, epochAll] = numbers as [number, number, number, number];
  return { user, all, epoch: { user: epochUser, all: epochAll } };
}

/**
 * Where cursors are kept between visits. Both calls may be synchronous or not; what they throw is
 * reported to `onError` and otherwise counts as "nothing is kept".
 */
export interface CursorStore {
  load(key: string): unknown;
  save(key: string, cursor: Cursor): unknown;
}

/** Keeps cursors for the life of the page. */
export function memoryStore(): CursorStore {
  const kept = new Map<string, Cursor>();
  return {
    load: (key) => kept.get(key),
    save: (key, cursor) => void kept.set(key, cursor),
  };
}

/**
 * Keeps cursors in a Web Storage: with `localStorage` they are shared by all tabs of a browser and
 * outlive it, with `sessionStorage` each tab has its own.
 */
export function webStore(storage: Pick<Storage, 'getItem' | 'setItem'>): CursorStore {
  return {
    load: (key) => storage.getItem(key),
    save: (key, cursor) => storage.setItem(key, JSON.stringify(cursor)),
  };
}

/** localStorage where the page has one and may use it, else memory. */
export function defaultStore(): CursorStore {
  try {
    if ('document' in globalThis) {
      const storage = globalThis.localStorage;
      const probe = 'eventspine:probe';
      storage.setItem(probe, '');
      storage.removeItem(probe);
      return webStore(storage);
    }
  } catch {
    // a browser set to keep nothing
  }
  return memoryStore();
}
