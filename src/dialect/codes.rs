//! Every error code, HTTP fault and close code that clients see, with the status, the advice to clients and the meaning.
//!
//! Invariants:
//! - The name of a code or fault is also its label in `fanwire_server_faults_total`.
//! - A code keeps its meaning once it is released: programs compare it. The texts sent with it are for people and may
//!   change.
//! - docs/errors.md has these tables, and the clients' constants follow them; tests compare both with this file.

use std::fmt;

/// Advice to a client after a failed request or an ended connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// A repeated request fails again.
    No,
    /// The client needs another token first.
    WithToken,
    /// The client may try again later.
    Later,
}

/// One row of the error codes.
#[allow(dead_code, reason = "the advice and the meaning are for the documentation, which tests compare")]
pub(crate) struct ErrorRow {
    pub(crate) code: ErrorCode,
    pub(crate) name: &'static str,
    /// Status of an HTTP response with this code.
    pub(crate) status: u16,
    pub(crate) retry: Retry,
    /// Meaning, for the documentation.
    pub(crate) means: &'static str,
}

/// Defines the codes and their table together, so that neither has a row that the other lacks.
macro_rules! error_codes {
    ($($code:ident = $name:literal, $status:literal, $retry:ident, $means:literal;)*) => {
        /// Fault of a request, as a name for programs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(dead_code, reason = "some codes belong to optional features")]
        pub(crate) enum ErrorCode {
            $($code,)*
        }

        impl ErrorCode {
            /// All codes, in the order of their names.
            pub(crate) const TABLE: &'static [ErrorRow] = &[$(
                ErrorRow { code: Self::$code, name: $name, status: $status, retry: Retry::$retry, means: $means },
            )*];
        }
    };
}

error_codes! {
    AuthFailed = "auth_failed", 401, WithToken, "the token of an `auth` message is missing or was refused";
    AuthRequired = "auth_required", 401, WithToken, "the server requires a token, and the client has sent none";
    Draining = "draining", 503, Later, "the server ends; it takes nothing any more";
    Ended = "ended", 409, No, "the kept log of an event has ended; nothing was published";
    EngineFull = "engine_full", 503, Later, "too many events wait for the engine";
    EngineOtherKind = "engine_other_kind", 503, Later, "the engine's log is of another kind than before; nothing was taken";
    EngineTakesNothing = "engine_takes_nothing", 503, Later, "the engine's log takes nothing now; nothing was taken";
    EngineUnanswered = "engine_unanswered", 503, Later, "the engine did not answer in time; the events may have been taken";
    EngineUnreachable = "engine_unreachable", 503, Later, "the engine was not reached in time; nothing was taken";
    EventTooLarge = "event_too_large", 413, No, "an event is larger than the engine's log can take";
    EventUnfit = "event_unfit", 422, No, "the engine's log can never take the event";
    Forbidden = "forbidden", 403, WithToken, "the request is beyond the rights of the client's token";
    IdempotencyKeyReused = "idempotency_key_reused", 422, No, "the `Idempotency-Key` was used for a request with another body";
    InvalidData = "invalid_data", 400, No, "AutoSDLC: a field of `data` has the wrong type";
    InvalidEvent = "invalid_event", 400, No, "the published event has no type, a fault in an attribute, or a payload that is no JSON";
    InvalidFilter = "invalid_filter", 400, No, "the filter is malformed or over a limit";
    InvalidIdempotencyKey = "invalid_idempotency_key", 400, No, "the `Idempotency-Key` is empty, too long, or there are several";
    InvalidMessage = "invalid_message", 400, No, "the message is no JSON object, or has no type";
    InvalidOnLag = "invalid_on_lag", 400, No, "`on_lag` is none of its words";
    InvalidPattern = "invalid_pattern", 400, No, "AutoSDLC: the patterns of a `subscribe` can be read in too many ways";
    InvalidPayload = "invalid_payload", 400, No, "a field of the payload is missing or has the wrong type";
    InvalidQuery = "invalid_query", 400, No, "a parameter of the URL is unknown or malformed";
    InvalidSince = "invalid_since", 400, No, "`since` is neither an event id nor a position";
    InvalidSubscriptionId = "invalid_subscription_id", 400, No, "the subscription id is reserved";
    InvalidTicket = "invalid_ticket", 401, WithToken, "the ticket is unknown, used or too old";
    InvalidToken = "invalid_token", 401, WithToken, "the token is malformed, or its signature or a claim is wrong";
    NoPresence = "no_presence", 404, No, "the server keeps no presence for this channel";
    NoSuchLog = "no_such_log", 404, No, "no log is kept under the name that the filter has, and the client asked for this error";
    NotEnded = "not_ended", 409, No, "an event has `reopen`, and its kept log is open; nothing was published";
    NotKept = "not_kept", 400, No, "an event has `reopen` or `expected_last_id`, and no rule keeps it; nothing was published";
    PublishInFlight = "publish_in_flight", 503, Later, "another request with the same key or id has no answer yet; nothing of this one was taken";
    RateLimited = "rate_limited", 429, Later, "the client has sent too many messages of this kind";
    RightsChanged = "rights_changed", 401, Later, "a reload of the server's configuration changed what tokens allow";
    Schema = "schema", 400, No, "the payload or message does not fit its JSON Schema";
    SubscriptionsTooLarge = "subscriptions_too_large", 400, No, "the client's subscriptions take too much memory or time together";
    TokenExpired = "token_expired", 401, WithToken, "the token's time is over";
    TokenNotYetValid = "token_not_yet_valid", 401, Later, "the token's time has not begun";
    TokenRevoked = "token_revoked", 401, WithToken, "the token was revoked";
    TooManyLogs = "too_many_logs", 400, No, "the filter names or matches more kept logs than one request may read from the start";
    TooManySubscriptions = "too_many_subscriptions", 400, No, "the client has reached the limit of subscriptions";
    TooManyValues = "too_many_values", 400, No, "the client's subscriptions have too many values and pattern segments together";
    UnexpectedLastId = "unexpected_last_id", 409, No, "the kept log of an event has another last event than `expected_last_id`; nothing was published";
    UnknownAction = "unknown_action", 400, No, "the `action` is not known";
    UnknownKey = "unknown_key", 400, No, "the message, its payload or an entity has a key that is not known";
    UnknownSubscription = "unknown_subscription", 400, No, "the client has no subscription of this id";
    UnknownType = "unknown_type", 400, No, "the message type is not known";
    Unsupported = "unsupported", 400, No, "only a server can do this; the answer comes from the embedded protocol";
}

impl ErrorCode {
    const fn row(self) -> &'static ErrorRow {
        &Self::TABLE[self as usize]
    }

    /// Returns the name for programs, which is also the label in the metrics.
    pub(crate) const fn name(self) -> &'static str {
        self.row().name
    }

    /// Returns the status of an HTTP response.
    pub(crate) const fn status(self) -> u16 {
        self.row().status
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl serde::Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One row of the close codes.
#[allow(
    dead_code,
    reason = "the advice and the meaning are for the documentation and the clients, which tests compare"
)]
pub(crate) struct CloseRow {
    pub(crate) code: u16,
    pub(crate) retry: Retry,
    /// Meaning, for the documentation.
    pub(crate) means: &'static str,
}

/// One row of the HTTP faults.
#[allow(dead_code, reason = "the advice and the meaning are for the documentation, which tests compare")]
pub(crate) struct HttpFaultRow {
    pub(crate) fault: HttpFault,
    pub(crate) label: &'static str,
    pub(crate) status: u16,
    pub(crate) retry: Retry,
    /// Meaning, for the documentation.
    pub(crate) means: &'static str,
}

/// Defines the HTTP faults and their table together.
macro_rules! http_faults {
    ($($fault:ident = $label:literal, $status:literal, $retry:ident, $means:literal;)*) => {
        /// Fault of an HTTP request that has a status and a label in the metrics, and no error code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum HttpFault {
            $($fault,)*
        }

        impl HttpFault {
            /// All faults, in the order of their labels.
            pub(crate) const TABLE: &'static [HttpFaultRow] = &[$(
                HttpFaultRow { fault: Self::$fault, label: $label, status: $status, retry: Retry::$retry, means: $means },
            )*];
        }
    };
}

http_faults! {
    Address = "address", 429, Later, "the address has as many streams as allowed";
    BatchTooLong = "batch_too_long", 413, No, "a request to publish has too many events";
    Bodies = "bodies", 503, Later, "too many bodies are incomplete, many of them of this client";
    BodiesBusy = "bodies_busy", 503, Later, "too many long bodies wait to be read; nothing was published";
    BodiesOfClient = "bodies_of_client", 429, Later, "too many bodies of this client are incomplete";
    BridgeBusy = "bridge_busy", 503, Later, "too many messages of this protocol wait for its handler";
    BridgeFailed = "bridge_failed", 500, Later, "the handler failed, or its answer is not JSON";
    BridgeLate = "bridge_late", 504, Later, "the handler did not answer in time and may still be at work";
    BridgeMalformed = "bridge_malformed", 400, No, "the message is not a JSON object";
    BridgeUnknown = "bridge_unknown", 404, No, "no handler is registered for this protocol";
    Explain = "explain", 400, No, "a parameter of `/api/explain` is missing or malformed; 404 if the event is not retained";
    Host = "host", 403, No, "`Host` is none of the server's names";
    InvalidRevocation = "invalid_revocation", 400, No, "the revocation is malformed";
    MediaType = "media_type", 415, No, "the content type of a request to publish is not supported";
    Memory = "memory", 503, Later, "the server is short of memory and accepts no new stream";
    MethodNotAllowed = "method_not_allowed", 405, No, "the path takes other methods, which `Allow` names";
    NoPages = "no_pages", 501, No, "the server has an engine and several shards, whose events have no common order";
    NotConfigured = "not_configured", 400, No, "the server has no authentication, so nothing can be revoked";
    NotFound = "not_found", 404, No, "the server has nothing at this path";
    Origin = "origin", 403, No, "pages of this origin are not allowed";
    PagesBusy = "pages_busy", 503, Later, "too many pages that take much work are being made";
    PurgeBusy = "purge_busy", 503, Later, "events from before the request are not in the kept logs yet, or too many purges wait for the engine; nothing was purged";
    TicketShare = "ticket_share", 429, Later, "the token's subject has as many unused tickets as allowed";
    Timeout = "timeout", 408, Later, "the request was not complete in time";
    TooManyRevocations = "too_many_revocations", 507, No, "the server keeps as many revocations as allowed";
    TooManyTickets = "too_many_tickets", 503, Later, "as many tickets are unused as allowed";
}

impl HttpFault {
    const fn row(self) -> &'static HttpFaultRow {
        &Self::TABLE[self as usize]
    }

    /// Returns the label in the metrics.
    pub(crate) const fn label(self) -> &'static str {
        self.row().label
    }

    /// Returns the status of the response.
    pub(crate) const fn status(self) -> u16 {
        self.row().status
    }
}

/// Label of a WebSocket client that sent no token in time.
pub(crate) const LABEL_AUTH_LATE: &str = "auth_late";
/// Label of a WebSocket client that answered no heartbeat.
pub(crate) const LABEL_HEARTBEAT_MISSED: &str = "heartbeat_missed";
/// Label of a connection with a failed TLS handshake.
#[cfg(feature = "tls")]
pub(crate) const LABEL_TLS: &str = "tls";

/// Close code of a client that broke a rule of the server (RFC 6455, 7.4.1).
pub(crate) const CLOSE_POLICY: u16 = 1008;
/// Close code of a server that ends or restarts (IANA's registry).
pub(crate) const CLOSE_RESTART: u16 = 1012;
/// Close code of a server that cannot serve the client now (IANA's registry).
pub(crate) const CLOSE_TRY_LATER: u16 = 1013;
/// GatheRing's close code for a client without a good token.
#[cfg(feature = "dialects")]
pub(crate) const CLOSE_GATHERING_AUTH: u16 = 4001;

/// All close codes that the server sends.
#[allow(dead_code, reason = "tests compare the documentation and the clients with it")]
pub(crate) const CLOSE_CODES: &[CloseRow] = &[
    CloseRow { code: 1002, retry: Retry::No, means: "the client broke the WebSocket protocol" },
    CloseRow { code: 1007, retry: Retry::No, means: "text that is not UTF-8, or data that does not inflate" },
    CloseRow {
        code: CLOSE_POLICY,
        retry: Retry::WithToken,
        means: "not allowed: no token, a bad token, or too many messages (the reason then has the word limit, and a new connection may be made)",
    },
    CloseRow { code: 1009, retry: Retry::No, means: "a message or frame is too large" },
    CloseRow {
        code: CLOSE_RESTART,
        retry: Retry::Later,
        means: "the server ends or restarts, and the reason ends with `retry=N`, in milliseconds; or a reload changed the client's rights",
    },
    CloseRow {
        code: CLOSE_TRY_LATER,
        retry: Retry::Later,
        means: "the client was too slow and asked for `on_lag: disconnect`, or the server is short of memory",
    },
    #[cfg(feature = "dialects")]
    CloseRow {
        code: CLOSE_GATHERING_AUTH,
        retry: Retry::WithToken,
        means: "GatheRing: no token, or a bad one",
    },
];

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn file(path: &str) -> String {
        let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn advice(retry: Retry) -> &'static str {
        match retry {
            Retry::No => "no",
            Retry::WithToken => "with another token",
            Retry::Later => "later",
        }
    }

    #[test]
    fn codes_stand_in_the_order_of_their_names() {
        let names: Vec<&str> = ErrorCode::TABLE.iter().map(|row| row.name).collect();
        assert!(names.is_sorted(), "{names:?}");
        assert!(ErrorCode::TABLE.iter().enumerate().all(|(at, row)| row.code as usize == at));
        let labels: Vec<&str> = HttpFault::TABLE.iter().map(|row| row.label).collect();
        assert!(labels.is_sorted(), "{labels:?}");
        assert!(HttpFault::TABLE.iter().enumerate().all(|(at, row)| row.fault as usize == at));
        assert!(labels.iter().all(|label| !names.contains(label)), "a word has one meaning");
        assert!(CLOSE_CODES.is_sorted_by_key(|row| row.code));
    }

    /// Prints the tables that docs/errors.md should have.
    #[test]
    fn the_documentation_has_these_tables() {
        let mut errors = "| code | HTTP | try again | meaning |\n|---|---|---|---|\n".to_owned();
        for ErrorRow { name, status, retry, means, .. } in ErrorCode::TABLE {
            let _ = writeln!(errors, "| `{name}` | {status} | {} | {means} |", advice(*retry));
        }
        let mut faults = "| label | HTTP | try again | meaning |\n|---|---|---|---|\n".to_owned();
        for HttpFaultRow { label, status, retry, means, .. } in HttpFault::TABLE {
            let _ = writeln!(faults, "| `{label}` | {status} | {} | {means} |", advice(*retry));
        }
        let mut closes = "| close code | connect again | meaning |\n|---|---|---|\n".to_owned();
        for CloseRow { code, retry, means } in CLOSE_CODES {
            let _ = writeln!(closes, "| {code} | {} | {means} |", advice(*retry));
        }
        let page = file("docs/errors.md");
        for table in [errors, faults, closes] {
            assert!(page.contains(&table), "docs/errors.md should have this table:\n{table}");
        }
    }

    #[test]
    fn the_clients_follow_the_close_codes() {
        let with = |retry| CLOSE_CODES.iter().filter(move |row| row.retry == retry).map(|row| row.code);
        for path in ["clients/python/src/fanwire/_client.py", "clients/js/src/socket.ts"] {
            let text = file(path);
            let numbers = |line: &str| -> Vec<u16> {
                let words = line.split(|c: char| !c.is_ascii_digit()).filter(|word| word.len() == 4);
                let mut all: Vec<u16> = words.filter_map(|word| word.parse().ok()).collect();
                all.sort_unstable();
                all
            };
            let line = |word: &str| text.lines().find(|line| line.contains(word)).map(numbers);
            assert_eq!(line("denied ="), Some(with(Retry::WithToken).collect()), "{path}");
            let mut later: Vec<u16> = with(Retry::Later).collect();
            let mut listed =
                line("say when to come back").expect("the comment with the codes that may say when");
            listed.retain(|code| *code != 1500);
            later.sort_unstable();
            assert_eq!(listed, later, "{path}");
        }
    }
}
