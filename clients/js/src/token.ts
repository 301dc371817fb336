/**
 * The user a JWT names (its `sub`); undefined for anything else. Nothing is checked: the bridge does
 * that. It only keeps the cursors of different users apart.
 */
export function userOf(token: string): string | undefined {
  const body = token.split('.')[1];
  if (!body) return undefined;
  try {
    const binary = atob(body.replace(/-/g, '+').replace(/_/g, '/'));
    const bytes = Uint8Array.from(binary, (c) => c.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes)) as { sub?: unknown } | null;
    return typeof claims?.sub === 'string' && claims.sub !== '' ? claims.sub : undefined;
  } catch {
    return undefined;
  }
}
