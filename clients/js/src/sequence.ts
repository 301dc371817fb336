import { type Cursor, later, moved, parseCursor, sideOf } from './cursor.js';
import type { SpineEvent } from './events.js';
import { RecentIds } from './recent.js';

/** What the bridge says beside the events it replays. */
export interface SyncInfo {
  /** False: events between the position asked for and now are gone, or may be. */
  readonly complete?: boolean;
  /** There are more; `last` is where to go on. */
  readonly more?: boolean;
  /** How far the answer reaches. */
  readonly last?: unknown;
  /** Nothing was read. */
  readonly error?: string;
  /** Milliseconds after which to ask again. */
  readonly retryAfter?: number;
}

/** A hole that cannot be closed any more: what was sent in it has to be read from elsewhere. */
export interface Gap {
  /** Where the client was; undefined when it did not know. */
  readonly since: Cursor | undefined;
}

export interface SequenceOptions {
  /** Live events that wait while older ones are asked for. Past them all are let go and asked for again. */
  readonly held: number;
  /** Ids that are remembered. */
  readonly ids: number;
  deliver(event: SpineEvent): void;
  gap(gap: Gap): void;
}

/**
 * Puts what comes over a connection in order. Each event is delivered once (of those whose ids are
 * remembered), and each of the two sides in the order of its numbers: a live event whose
 * predecessor is missing waits until it was asked for. It knows no sockets and no clock; where
 * a method returns true, the owner is to ask the bridge with `sync(position())`, and to give the
 * answer to `answered`.
 */
export class Sequence {
  /** How far everything was delivered; undefined before the bridge or an earlier visit told. */
  cursor: Cursor | undefined;
  #mode: 'away' | 'replay' | 'live' | 'asking' = 'away';
  #held: SpineEvent[] = [];
  #overflown = false;
  readonly #ids: RecentIds;
  readonly #options: SequenceOptions;

  constructor(options: SequenceOptions) {
    this.#options = options;
    this.#ids = new RecentIds(options.ids);
  }

  /** What to tell the bridge: the position, or that there is none yet. */
  position(): Cursor | 'now' {
    return this.cursor ?? 'now';
  }

  /** Whether live events are delivered as they come. */
  get live(): boolean {
    return this.#mode === 'live';
  }

  /** Whether the events that the handshake asked for are still coming. */
  get replaying(): boolean {
    return this.#mode === 'replay';
  }

  /** A connection is there that was told the position. What comes first is what was missed. */
  connected(): void {
    this.#enter('replay');
  }

  /** The connection is gone, and with it what waited. */
  disconnected(): void {
    this.#enter('away');
  }

  /** Live events wait from now on. The owner asks. */
  ask(): void {
    this.#mode = 'asking';
  }

  /** An event has come. True: there is a hole before it, ask. */
  received(event: SpineEvent): boolean {
    switch (this.#mode) {
      case 'away':
      case 'replay':
        this.#accept(event);
        return false;
      case 'asking':
        this.#hold(event);
        return false;
      case 'live':
        if (this.#missing(event)) {
          this.#mode = 'asking';
          this.#hold(event);
          return true;
        }
        this.#accept(event);
        return false;
    }
  }

  /**
   * The answer to what was asked, or to the handshake. One without `last` that has an `error` or
   * `retryAfter` is none.
   * True: ask again, there is more.
   */
  answered(events: readonly SpineEvent[], info: SyncInfo): boolean {
    if (this.#mode === 'away' || this.#mode === 'live') return false;
    const last = parseCursor(info.last);
    if (info.complete === false && this.cursor) {
      this.#options.gap({ since: this.cursor });
      if (last) this.cursor = credible(this.cursor, last, events);
    }
    const handshake = this.#mode === 'replay'; // its events came one by one
    const before = this.cursor;
    for (const event of events) this.#accept(event);
    if (this.#gone()) return false;
    if (last) this.cursor = this.cursor ? later(this.cursor, last) : last;
    if (this.#overflown || (info.more === true && (handshake || advanced(before, this.cursor)))) {
      this.#overflown = false;
      this.#mode = 'asking';
      return true;
    }
    const held = this.#held;
    this.#enter('live');
    for (const event of held) this.#accept(event);
    return false;
  }

  #enter(mode: 'away' | 'replay' | 'live'): void {
    this.#mode = mode;
    this.#held = [];
    this.#overflown = false;
  }

  /** Whether an event before this one, of the same side, was not seen. */
  #missing(event: SpineEvent): boolean {
    if (!this.cursor || !event.prev) return false;
    const seen = this.cursor[sideOf(event)];
    return event.seq > seen && event.prev.user > seen;
  }

  /** A handler of an earlier event has closed the client. */
  #gone(): boolean {
    return this.#mode === 'away';
  }

  #hold(event: SpineEvent): void {
    if (this.#overflown) return;
    this.#held.push(event);
    if (this.#held.length > this.#options.held) {
      this.#held = [];
      this.#overflown = true;
    }
  }

  #accept(event: SpineEvent): void {
    if (this.#gone()) return;
    const side = sideOf(event);
    const numbered = Number.isSafeInteger(event.seq);
    if (numbered && this.cursor && event.seq <= this.cursor[side]) return;
    if (numbered && this.cursor) this.cursor = moved(this.cursor, side, event.seq, event.epoch);
    if (this.#ids.add(event.id)) this.#options.deliver(event);
  }
}

/** Whether an answer brought the client on. A bridge that says "more" and gives nothing must not be asked for ever. */
function advanced(before: Cursor | undefined, now: Cursor | undefined): boolean {
  return now !== undefined && (before === undefined || now.user > before.user || now.all > before.all);
}

/**
 * The cursor without what the bridge's journal never was at, such as that of another system at the same
 * address: everything to come would look as if it had been seen.
 */
function credible(cursor: Cursor, last: Cursor, events: readonly SpineEvent[]): Cursor {
  for (const side of ['user', 'all'] as const) {
    const beyond = last[side] < cursor[side] || events.some((e) => sideOf(e) === side && e.seq <= cursor[side]);
    if (beyond) cursor = moved(cursor, side, 0, 0);
  }
  return cursor;
}
