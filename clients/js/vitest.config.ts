import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    projects: [
      { test: { name: 'unit', include: ['test/*.test.ts'], testTimeout: 60_000 } },
      // Needs running servers: `go test ./test/client` of the project starts them and this.
      { test: { name: 'bridge', include: ['test/bridge/*.test.ts'], testTimeout: 90_000, hookTimeout: 60_000, fileParallelism: false } },
    ],
  },
});
