// Event ids as places, and the positions that a server with several shards names.

/** An event's shard and number: `epoch-sequence`, with `.shard` behind it but for the first shard. */
interface Place {
  epoch: string;
  shard: number;
  sequence: number;
}

function place(id: string | null | undefined): Place | undefined {
  const found = /^([^-~]+)-(\d+)(?:\.(\d+))?$/.exec(id ?? '');
  if (!found) return undefined;
  const sequence = +found[2]!;
  // Before the first event stands the number that no event has.
  return { epoch: found[1]!, shard: +(found[3] ?? 0), sequence: sequence < 2 ** 53 ? sequence : -1 };
}

/** The last number of a shard that lies before a place: an event's own, or one of `epoch~next.more.more`, in base 36. */
function before(id: string | null | undefined, { epoch, shard }: Place): number | undefined {
  const [life, rest] = (id ?? '').split('~');
  if (rest === undefined) {
    const other = place(id);
    return other && other.epoch === epoch && other.shard === shard ? other.sequence : undefined;
  }
  const parts = rest.split('.');
  if (life !== epoch || shard >= parts.length) return undefined;
  // Each is told by how far it is from the one before.
  return parts.slice(0, shard + 1).reduce((sum, part) => sum + parseInt(part, 36), -1);
}

/** How far an event `a` is behind a place `b`, negative where before; undefined where nobody can tell. */
export function distance(a: string | null | undefined, b: string | null | undefined): number | undefined {
  const one = place(a);
  const other = one && before(b, one);
  return other === undefined ? undefined : one!.sequence - other;
}

/** The number within the shard; -1 for no id. */
export function sequence(id: string | null): number {
  return place(id)?.sequence ?? -1;
}
