/** How far `a` is behind `b`, negative where before; undefined where nobody can tell. */
export declare function distance(a: string | null | undefined, b: string | null | undefined): number | undefined;
/** The number within the shard; -1 for no id. */
export declare function sequence(id: string | null): number;
