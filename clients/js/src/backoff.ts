/** Waiting times in milliseconds. */
export interface BackoffOptions {
  /** Bound of the first wait, default 2,000. */
  readonly first?: number;
  /** Bound that no wait passes, default 30,000. */
  readonly max?: number;
}

/**
 * Waits that double, each drawn from all between zero and its bound: clients that lost the same
 * bridge at the same moment come back spread over the time.
 */
export class Backoff {
  #attempts = 0;
  readonly #first: number;
  readonly #max: number;
  readonly #random: () => number;

  constructor(options: BackoffOptions = {}, random: () => number = Math.random) {
    this.#first = options.first ?? 2_000;
    this.#max = options.max ?? 30_000;
    this.#random = random;
  }

  /** The next wait; `asked`: what the server asked for, which is taken as it is. */
  next(asked?: number): number {
    const bound = Math.min(this.#max, this.#first * 2 ** Math.min(this.#attempts, 20));
    this.#attempts++;
    if (asked !== undefined && asked >= 0) return asked;
    return bound * this.#random();
  }

  /** The next wait is a first one again. */
  reset(): void {
    this.#attempts = 0;
  }
}
