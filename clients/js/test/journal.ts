import type { Cursor, Side } from '../src/cursor.js';
import { sideOf } from '../src/cursor.js';
import type { SpineEvent } from '../src/events.js';
import type { SyncInfo } from '../src/sequence.js';

/** A journal in memory that numbers events and answers syncs as the bridge does. */
export class Journal {
  readonly events: SpineEvent[] = [];
  #forgotten = 0;
  #count = { user: 0, all: 0 };
  #seq = { user: 1_000, all: 5_000 };
  #last = { user: 0, all: 0 };

  constructor(readonly user = 'ana') {}

  /** Stores an event. Numbers of a side have holes, as other users have events too. */
  add(side: Side, type = 'notification.order', data: unknown = null): SpineEvent {
    const seq = (this.#seq[side] += 1 + (this.events.length % 3));
    const event = {
      id: `${side}${++this.#count[side]}`, type, userId: side === 'all' ? '*' : this.user, timestamp: 1_448_000_000_000,
      data, partition: side === 'all' ? 3 : 7, seq, epoch: side === 'all' ? 5_000 : 1_000, prev: { user: this.#last[side], feed: 0 },
    };
    this.#last[side] = seq;
    this.events.push(event);
    return event;
  }

  /** The oldest n leave the window. */
  forget(n: number): void {
    this.#forgotten = Math.max(this.#forgotten, n);
  }

  head(): Cursor {
    const of = (side: Side) => this.events.findLast((e) => sideOf(e) === side)?.seq ?? 0;
    return { user: of('user'), all: of('all'), epoch: { user: 1_000, all: 5_000 } };
  }

  ids(): string[] {
    return this.events.map((e) => e.id);
  }

  since(from: Cursor, limit = 1_000): SpineEvent[] {
    return this.#after(from).slice(this.#lost(from), this.#lost(from) + limit);
  }

  info(from: Cursor, limit = 1_000): SyncInfo {
    const events = this.since(from, limit);
    const more = this.#after(from).length - this.#lost(from) > limit;
    const last = { ...from, epoch: { user: 1_000, all: 5_000 } };
    for (const e of events) last[sideOf(e)] = e.seq;
    return { complete: this.#lost(from) === 0, more, last };
  }

  #after(from: Cursor): SpineEvent[] {
    return this.events.filter((e) => e.seq > from[sideOf(e)]);
  }

  #lost(from: Cursor): number {
    return this.events.slice(0, this.#forgotten).filter((e) => e.seq > from[sideOf(e)]).length;
  }
}
