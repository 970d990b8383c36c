// Event ids as places: `epoch-sequence`, with `.shard` behind it where there are several.

interface Place {
  shard: string;
  sequence: number;
}

function place(id: string | null | undefined): Place | undefined {
  const found = /^([^-]+)-(\d+)(\.\d+)?$/.exec(id ?? '');
  if (!found) return undefined;
  const sequence = +found[2]!;
  // Before the first event stands the number that no event has.
  return { shard: found[1]! + (found[3] ?? ''), sequence: sequence < 2 ** 53 ? sequence : -1 };
}

/** How far `a` is behind `b`, negative where before; undefined where nobody can tell. */
export function distance(a: string | null | undefined, b: string | null | undefined): number | undefined {
  const [one, other] = [place(a), place(b)];
  return one && one.shard === other?.shard ? one.sequence - other.sequence : undefined;
}

/** The number within the shard; -1 for no id. */
export function sequence(id: string | null): number {
  return place(id)?.sequence ?? -1;
}
