/** The fields of a block. */
export type Block = Partial<Record<'event' | 'data' | 'id' | 'retry', string>>;
/** Takes text in any pieces; hands out each block at its empty line. */
export declare function parser(give: (block: Block) => void): (text: string) => void;
