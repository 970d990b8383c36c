// Server-Sent Events, read from a response: fetch gives the headers, the status and the heartbeats that
// EventSource hides.

/** The fields of a block. A comment has an empty name, and only the end of a past is kept. */
export type Block = Partial<Record<'event' | 'data' | 'id' | 'retry' | '', string>>;

/** Takes text in any pieces, and returns each block at its empty line. */
export function parser(give: (block: Block) => void): (text: string) => void {
  let rest = '';
  let block: Record<string, string> = {};
  /** The last piece ended with a CR. An LF at the start of the next one belongs to it. */
  let split = false;
  return (text) => {
    if (split && text[0] === '\n') text = text.slice(1);
    else if (!text) return;
    split = text.endsWith('\r');
    // Lines end at CR, LF or CRLF and nowhere else: U+2028 and U+2029 are characters of a value.
    const lines = (rest + text).split(/\r\n|\r|\n/);
    rest = lines.pop()!;
    for (const line of lines) {
      if (!line) {
        give(block);
        block = {};
      } else {
        const [field, ...more] = line.split(':');
        const value = more.join(':').replace(/^ /, '');
        if (field || /^history_end /.test(value)) block[field!] = field === 'data' && block.data !== undefined ? `${block.data}\n${value}` : value;
      }
    }
  };
}
