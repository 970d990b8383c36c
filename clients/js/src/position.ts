// Positions: event ids, and the positions that a server with several shards names.

type Place = readonly [epoch: string, shard: number, sequence: number];

/** Returns an event's place from `epoch-sequence`, with `.shard` at the end except for the first shard. */
function place(id: string | null | undefined): Place | undefined {
  const found = /^([^-~]+)-(\d+)(?:\.(\d+))?$/.exec(id ?? '');
  if (!found) return undefined;
  const sequence = +found[2]!;
  // The position before the first event has the number that no event has.
  return [found[1]!, +(found[3] ?? 0), sequence < 2 ** 53 ? sequence : -1];
}

/** Returns the last number of a shard that lies before a position: an event's own, or one of `epoch~next.more.more`, in base 36. */
function before(id: string | null | undefined, [epoch, shard]: Place): number | undefined {
  const [life, rest] = (id ?? '').split('~');
  if (rest === undefined) {
    const other = place(id);
    return other && other[0] === epoch && other[1] === shard ? other[2] : undefined;
  }
  const parts = rest.split('.');
  if (life !== epoch || shard >= parts.length) return undefined;
  // Each number is the difference to the previous one.
  return parts.slice(0, shard + 1).reduce((sum, part) => sum + parseInt(part, 36), -1);
}

/** Returns the distance from a position `b` to an event `a`, negative if `a` comes before it; undefined if it is unknown. */
export function distance(a: string | null | undefined, b: string | null | undefined): number | undefined {
  const at = place(a);
  const last = at && before(b, at);
  return last === undefined ? undefined : at![2] - last;
}

/** Returns the number within the shard; -1 without an id. */
export function sequence(id: string | null): number {
  return place(id)?.[2] ?? -1;
}
