/** Remembers the last ids, at most `limit` of them. The oldest is forgotten first. */
export class RecentIds {
  readonly #ids = new Set<string>();
  readonly #limit: number;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Remembers the id; false when it was remembered already. */
  add(id: string): boolean {
    if (this.#limit <= 0) return true;
    if (this.#ids.has(id)) return false;
    this.#ids.add(id);
    if (this.#ids.size > this.#limit) {
      for (const oldest of this.#ids) {
        this.#ids.delete(oldest);
        break;
      }
    }
    return true;
  }

  get size(): number {
    return this.#ids.size;
  }
}
