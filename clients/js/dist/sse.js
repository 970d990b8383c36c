// Server-Sent Events, read from a response: fetch gives the headers, the status and the heartbeats that EventSource hides.
/** Takes text in any pieces; hands out each block at its empty line. */
export function parser(give) {
    let rest = '';
    return (text) => {
        // A CR at the end may be half of a CRLF.
        const blocks = (rest + text).replace(/\r\n|\r(?!$)/g, '\n').split('\n\n');
        rest = blocks.pop();
        for (const lines of blocks) {
            const block = {};
            for (const [, field, value] of lines.matchAll(/^([^:\n]+):? ?(.*)$/gm)) {
                block[field] = field === 'data' && block.data !== undefined ? `${block.data}\n${value}` : value;
            }
            give(block);
        }
    };
}
