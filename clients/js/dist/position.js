// Event ids as places: `epoch-sequence`, with `.shard` behind it where there are several.
function place(id) {
    const found = /^([^-]+)-(\d+)(\.\d+)?$/.exec(id);
    if (!found)
        return undefined;
    const sequence = Number(found[2]);
    // Before the first event stands the number that no event has.
    return { shard: found[1] + (found[3] ?? ''), sequence: sequence > Number.MAX_SAFE_INTEGER ? -1 : sequence };
}
/** How far `a` is behind `b`, negative where before; undefined where nobody can tell. */
export function distance(a, b) {
    const [one, other] = [a && place(a), b && place(b)];
    return one && other && one.shard === other.shard ? one.sequence - other.sequence : undefined;
}
/** The number within the shard; -1 for no id. */
export function sequence(id) {
    return (id ? place(id)?.sequence : undefined) ?? -1;
}
