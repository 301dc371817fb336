/** Timers by name, at most one of each. */
export class Timers<Name extends string> {
  readonly #running = new Map<Name, ReturnType<typeof setTimeout>>();

  /** Calls fn after so many milliseconds, in place of what was set under that name. */
  set(name: Name, after: number, fn: () => void): void {
    this.clear(name);
    this.#running.set(
      name,
      setTimeout(() => {
        this.#running.delete(name);
        fn();
      }, Math.min(after, 0x7fffffff)),
    );
  }

  has(name: Name): boolean {
    return this.#running.has(name);
  }

  clear(...names: Name[]): void {
    for (const name of names) {
      clearTimeout(this.#running.get(name));
      this.#running.delete(name);
    }
  }
}
