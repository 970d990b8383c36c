// The protocol's shapes, named as on the wire, and what the client takes and gives.
/** What went wrong, in one word: the server's code, or one of the client's own. */
export class FanwireError extends Error {
    /**
     * The server's (`invalid_filter`, ...), or `queue_full`, `uncertain` (sent, and the connection broke before the
     * answer), `closed`, `aborted`, `unauthorized`, `no_transport`, `gave_up`, `handler`, `token`, `protocol`.
     */
    code;
    constructor(code, message, cause) {
        super(message, cause === undefined ? undefined : { cause });
        this.name = 'FanwireError';
        this.code = code;
    }
}
