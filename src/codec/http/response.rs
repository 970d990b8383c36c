//! Writes a response.

use std::io::Write as _;

/// Appends a head without a length, for a stream or an upgrade. Header values must not hold line ends.
pub fn write_head(out: &mut Vec<u8>, status: u16, headers: &[(&str, &str)]) {
    // Writing to a vector does not fail.
    let _ = write!(out, "HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in headers {
        debug_assert!(!value.bytes().any(|b| b == b'\r' || b == b'\n'), "a header's value is one line");
        let _ = write!(out, "{name}: {value}\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a whole response. `head_only` leaves the body out, for HEAD.
pub fn write_response(
    out: &mut Vec<u8>,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
    keep_alive: bool,
    head_only: bool,
) {
    let length = body.len().to_string();
    let mut all = Vec::with_capacity(headers.len() + 2);
    all.extend_from_slice(headers);
    if status != 204 {
        all.push(("Content-Length", length.as_str()));
    }
    // `Upgrade` is a hop-by-hop header, so `Connection` has to name it (RFC 9110, 7.8).
    let upgrades = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("upgrade"));
    let connection = match (upgrades, keep_alive) {
        (false, true) => "keep-alive",
        (false, false) => "close",
        (true, true) => "upgrade, keep-alive",
        (true, false) => "upgrade, close",
    };
    all.push(("Connection", connection));
    write_head(out, status, &all);
    if !head_only && status != 204 {
        out.extend_from_slice(body);
    }
}

/// Returns the value of a `Date` header (RFC 9110, 5.6.7) for microseconds since 1970, as `Tue, 27 Jan 2026 10:21:33 GMT`.
/// Years outside 1970 to 9999 are clamped.
#[must_use]
pub fn date(micros: i64) -> String {
    const LAST: i64 = 253_402_300_799;
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = micros.div_euclid(1_000_000).clamp(0, LAST) as u64;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's `civil_from_days`, for days from 1970 on. Years begin in March there.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);
    let (name, month) = (DAYS[(days % 7) as usize], MONTHS[month as usize]);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    // Written by hand: every response has a date, and `format!` takes 3,000 instructions for it, a sixth of a short
    // response.
    let mut text = String::with_capacity("Thu, 01 Jan 1970 00:00:00 GMT".len());
    let two = |text: &mut String, value: u64| {
        text.extend([value / 10 % 10, value % 10].map(|digit| char::from(b'0' + digit as u8)));
    };
    text.push_str(name);
    text.push_str(", ");
    two(&mut text, day);
    text.push(' ');
    text.push_str(month);
    text.push(' ');
    two(&mut text, year / 100);
    two(&mut text, year % 100);
    for (before, value) in [(' ', hour), (':', minute), (':', second)] {
        text.push(before);
        two(&mut text, value);
    }
    text.push_str(" GMT");
    text
}

/// Returns the reason phrase of a status.
#[must_use]
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_769_509_293, "Tue, 27 Jan 2026 10:21:33 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (-5, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (i64::MAX / 1_000_000, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(date(seconds * 1_000_000), text);
        }
    }
}
