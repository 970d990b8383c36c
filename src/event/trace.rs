//! W3C Trace Context of an event: validated and carried, not interpreted.
//!
//! Always: an invalid trace context is left out, and the event is published without one, as the recommendation requires
//! (2.2.5, "if parsing fails").

/// Maximum length of a `tracestate`, in bytes. The recommendation asks for at least 512 characters (3.3.1.5).
const STATE_BYTES_MAX: usize = 1024;

/// Returns whether `text` is a `traceparent`: `00-` trace id `-` parent id `-` flags, in lower case, neither id all
/// zeros. Later versions may have more after that.
pub(super) fn is_parent(text: &str) -> bool {
    let hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_id = |part: &str| hex(part) && part.bytes().any(|byte| byte != b'0');
    let Some((known, more)) = text.split_at_checked(55) else { return false };
    let mut parts = known.split('-');
    let (Some(version), Some(trace), Some(parent), Some(flags), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let lengths = [version, trace, parent, flags].map(str::len) == [2, 32, 16, 2];
    let is_rest = more.is_empty() || (version != "00" && more.starts_with('-') && more.len() <= 64);
    let is_printable = more.bytes().all(|byte| byte.is_ascii_graphic());
    lengths
        && hex(version)
        && version != "ff"
        && is_id(trace)
        && is_id(parent)
        && hex(flags)
        && is_rest
        && is_printable
}

/// Returns whether `text` is an acceptable `tracestate`.
pub(super) fn is_state(text: &str) -> bool {
    !text.is_empty() && text.len() <= STATE_BYTES_MAX && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_trace_parent_is_recognized() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_parent(good));
        assert!(is_parent(&format!("{}-what-comes", good.replacen("00", "cc", 1))), "a later version");
        for bad in [
            "",
            "00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
            "004bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-----",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-a\n",
            "ééééééééééééééééééééééééééééééééééé",
        ] {
            assert!(!is_parent(bad), "{bad}");
        }
        assert!(is_state("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"));
        assert!(!is_state("") && !is_state("a=\r\nb") && !is_state(&"x".repeat(2000)));
    }
}
