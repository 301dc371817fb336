import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Cursor, Side } from '../src/cursor.js';
import type { SpineEvent } from '../src/events.js';
import { type Gap, Sequence } from '../src/sequence.js';
import { Journal } from './journal.js';

function open(options: { held?: number; ids?: number } = {}) {
  const got: string[] = [];
  const gaps: Gap[] = [];
  const sequence = new Sequence({ held: options.held ?? 100, ids: options.ids ?? 100, deliver: (e) => got.push(e.id), gap: (g) => gaps.push(g) });
  return { sequence, got, gaps };
}

/** Live from the journal's head, which is what a bridge answers to "now". */
function live(journal: Journal, options: { held?: number; ids?: number } = {}) {
  const s = open(options);
  s.sequence.connected();
  s.sequence.answered([], { complete: true, more: false, last: journal.head() });
  return s;
}

describe('Sequence', () => {
  it('delivers what comes in order as it comes', () => {
    const j = new Journal();
    const { sequence, got } = live(j);
    for (const e of [j.add('user'), j.add('all'), j.add('user')]) expect(sequence.received(e)).toBe(false);
    expect(got).toEqual(['user1', 'all1', 'user2']);
    expect(sequence.cursor).toMatchObject(j.head());
  });

  it('leaves out what came before', () => {
    const j = new Journal();
    const { sequence, got } = live(j);
    const e = j.add('user');
    sequence.received(e);
    sequence.received(e);
    sequence.received({ ...e, seq: e.seq + 1 }); // stored a second time, after the journal was lost
    expect(got).toEqual(['user1']);
  });

  it('asks for a missing predecessor, and holds back what comes meanwhile', () => {
    const j = new Journal();
    const { sequence, got } = live(j);
    j.add('user');
    expect(sequence.received(j.add('user'))).toBe(true);
    expect(sequence.received(j.add('all'))).toBe(false);
    expect(got).toEqual([]);
    const from = sequence.position() as Cursor;
    expect(sequence.answered(j.since(from), j.info(from))).toBe(false);
    expect(got).toEqual(['user1', 'user2', 'all1']);
    expect(sequence.live).toBe(true);
  });

  it('sees no hole between the two sides', () => {
    const j = new Journal();
    const { sequence } = live(j);
    for (let i = 0; i < 10; i++) expect(sequence.received(j.add(i % 3 ? 'user' : 'all'))).toBe(false);
  });

  it('asks once for what never comes', () => {
    const j = new Journal();
    const { sequence, got, gaps } = live(j);
    j.add('user');
    const e = j.add('user');
    expect(sequence.received(e)).toBe(true);
    expect(sequence.answered([], { complete: false, last: sequence.cursor })).toBe(false);
    expect(got).toEqual(['user2']);
    expect(gaps).toHaveLength(1);
    expect(sequence.received(j.add('user'))).toBe(false);
  });

  it('goes through all pages', () => {
    const j = new Journal();
    const { sequence, got } = live(j);
    const from = sequence.cursor!;
    sequence.disconnected();
    for (let i = 0; i < 10; i++) j.add(i % 2 ? 'user' : 'all');
    sequence.connected();
    for (const e of j.since(from, 4)) expect(sequence.received(e)).toBe(false);
    let again = sequence.answered([], j.info(from, 4));
    sequence.received(j.add('user')); // live, and must wait
    let pages = 1;
    while (again) {
      const at = sequence.position() as Cursor;
      again = sequence.answered(j.since(at, 4), j.info(at, 4));
      pages++;
    }
    expect(pages).toBe(3);
    expect(got).toEqual(j.ids());
  });

  it('does not ask for ever when the bridge says more and gives nothing', () => {
    const j = new Journal();
    const { sequence } = live(j);
    sequence.ask();
    expect(sequence.answered([], { complete: true, more: true, last: sequence.cursor })).toBe(false);
  });

  it('lets go of what waits when that is too much, and asks again', () => {
    const j = new Journal();
    const { sequence, got } = live(j, { held: 3 });
    sequence.ask();
    const from = sequence.position() as Cursor;
    const answer = j.since(from);
    const info = j.info(from);
    for (let i = 0; i < 5; i++) sequence.received(j.add('user'));
    expect(sequence.answered(answer, info)).toBe(true);
    const at = sequence.position() as Cursor;
    expect(sequence.answered(j.since(at), j.info(at))).toBe(false);
    expect(got).toEqual(j.ids());
  });

  it('tells of a hole that is past the window, and goes on', () => {
    const j = new Journal();
    const { sequence, got, gaps } = live(j);
    const from = sequence.cursor!;
    sequence.disconnected();
    for (let i = 0; i < 5; i++) j.add('user');
    j.forget(3);
    sequence.connected();
    for (const e of j.since(from)) sequence.received(e);
    sequence.answered([], j.info(from));
    expect(gaps).toEqual([{ since: expect.objectContaining({ all: 0 }) as Cursor }]);
    expect(got).toEqual(['user4', 'user5']);
    expect(sequence.received(j.add('user'))).toBe(false);
  });

  it('does not believe a position the journal was never at', () => {
    for (const handshake of [true, false]) {
      const j = new Journal();
      j.add('user');
      j.add('all');
      const { sequence, got, gaps } = open();
      sequence.cursor = { user: 1e12, all: 0, epoch: { user: 1e12, all: 0 } };
      sequence.connected();
      if (!handshake) sequence.ask();
      sequence.answered(handshake ? [] : j.events, { complete: false, more: false, last: j.head(), error: 'unknown' });
      expect(sequence.cursor).toEqual(j.head());
      sequence.received(j.add('user'));
      sequence.received(j.add('all'));
      expect(got).toEqual([...(handshake ? [] : ['user1', 'all1']), 'user2', 'all2']);
      expect(gaps).toHaveLength(1);
    }
  });

  it('stays where it is when a handler ends it', () => {
    const j = new Journal();
    const got: string[] = [];
    const sequence: Sequence = new Sequence({
      held: 10, ids: 10, gap: () => {},
      deliver: (e) => { got.push(e.id); if (e.id === 'user2') sequence.disconnected(); },
    });
    sequence.connected();
    sequence.answered([], { complete: true, last: j.head() });
    const from = sequence.cursor!;
    for (let i = 0; i < 4; i++) j.add('user');
    sequence.ask();
    sequence.answered(j.since(from), j.info(from));
    expect(got).toEqual(['user1', 'user2']);
    expect(sequence.cursor!.user).toBe(j.events[1]!.seq);
  });

  it('remembers no more ids than it is told', () => {
    const j = new Journal();
    const { sequence, got } = live(j, { ids: 2 });
    const first = j.add('user');
    sequence.received(first);
    for (let i = 0; i < 3; i++) sequence.received(j.add('user'));
    sequence.received({ ...first, seq: j.head().user + 1, prev: { user: 0, feed: 0 } });
    expect(got).toEqual(['user1', 'user2', 'user3', 'user4', 'user1']);
  });
});

/**
 * The bridge's side of a connection, in the small: messages that are under way, may be lost together with
 * the connection, or alone (a hole); answers that are built at one time and come at a later one.
 */
class Wire {
  readonly journal = new Journal();
  readonly got: SpineEvent[] = [];
  gaps = 0;
  readonly sequence: Sequence;
  #coming: (() => void)[] | undefined;
  #asked = false;

  constructor(readonly page: number, held: number) {
    this.sequence = new Sequence({ held, ids: 0, deliver: (e) => this.got.push(e), gap: () => this.gaps++ });
    this.sequence.connected();
    this.sequence.answered([], { complete: true, more: false, last: this.journal.head() });
    this.#coming = [];
  }

  emit(side: Side, lost: boolean): void {
    const e = this.journal.add(side);
    if (!lost) this.#coming?.push(() => this.#next(this.sequence.received(e)));
  }

  drop(): void {
    this.#coming = undefined;
    this.#asked = false;
    this.sequence.disconnected();
  }

  connect(): void {
    if (this.#coming) return;
    const from = this.sequence.position() as Cursor;
    const events = this.journal.since(from, this.page);
    const info = this.journal.info(from, this.page);
    this.#coming = [
      () => this.sequence.connected(),
      ...events.map((e) => () => this.#next(this.sequence.received(e))),
      () => this.#next(this.sequence.answered([], info)),
    ];
  }

  /** The bridge answers what was asked: events that were stored later come after the answer. */
  answer(): void {
    if (!this.#asked || !this.#coming) return;
    this.#asked = false;
    const from = this.sequence.position() as Cursor;
    const events = this.journal.since(from, this.page);
    const info = this.journal.info(from, this.page);
    this.#coming.push(() => this.#next(this.sequence.answered(events, info)));
  }

  arrive(n: number): void {
    for (; n > 0; n--) this.#coming?.shift()?.();
  }

  settle(): void {
    this.connect();
    for (const side of ['user', 'all'] as const) this.emit(side, false); // by which the last hole shows
    for (let i = 0; i < 10_000 && (this.#asked || this.#coming?.length); i++) {
      this.answer();
      this.arrive(1);
    }
  }

  #next(ask: boolean): void {
    if (ask) this.#asked = true;
  }
}

describe('Sequence, whatever happens', () => {
  const step = fc.oneof(
    { weight: 6, arbitrary: fc.record({ do: fc.constant('emit' as const), side: fc.constantFrom<Side>('user', 'all'), lost: fc.boolean() }) },
    { weight: 6, arbitrary: fc.record({ do: fc.constant('arrive' as const), n: fc.integer({ min: 1, max: 6 }) }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('answer' as const) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('drop' as const) }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('connect' as const) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('ask' as const) }) },
  );

  it('delivers each event once, and each side in order', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), fc.integer({ min: 1, max: 7 }), fc.integer({ min: 1, max: 7 }), (steps, page, held) => {
        const w = new Wire(page, held);
        for (const s of steps) {
          if (s.do === 'emit') w.emit(s.side, s.lost);
          else if (s.do === 'arrive') w.arrive(s.n);
          else w[s.do === 'ask' ? 'answer' : s.do]();
        }
        w.settle();
        expect(w.gaps).toBe(0);
        expect(w.sequence.live).toBe(true);
        for (const side of ['user', 'all'] as const) {
          const ofSide = (events: readonly SpineEvent[]) => events.filter((e) => (e.userId === '*') === (side === 'all')).map((e) => e.seq);
          expect(ofSide(w.got)).toEqual(ofSide(w.journal.events));
        }
      }),
      { numRuns: 1_000 },
    );
  });
});
