//! The two text formats of `/metrics`, and the choice between them by a request's `Accept`.
//!
//! Invariants:
//! - A request without a format gets Prometheus' own text, which every scraper and `promtool` read.
//! - Both formats hold the same samples.

use std::fmt::Write as _;

/// A format of the exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exposition {
    /// Prometheus' text format 0.0.4: a counter's HELP and TYPE lines have the name of its samples.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// The media type of OpenMetrics in `Accept`.
const OPEN_METRICS: &str = "application/openmetrics-text";
const OPEN_METRICS_VERSIONS: [&str; 2] = ["1.0.0", "0.0.1"];
const PROMETHEUS_VERSIONS: [&str; 1] = ["0.0.4"];

impl Exposition {
    /// Returns the format that `Accept` headers ask for. OpenMetrics must be named and weigh at least as much as plain text.
    /// A client that accepts neither gets plain text: a readable scrape is better than a 406.
    pub(crate) fn asked<'a>(accept: impl Iterator<Item = &'a str>) -> Self {
        let (mut open_metrics, mut plain) = (0, None);
        for item in accept.flat_map(|value| value.split(',')) {
            let (kind, weight, version) = read_item(item);
            let has = |versions: &[&str]| version.is_none_or(|version| versions.contains(&version));
            // The more specific item counts: `*/*` says nothing about plain text if `text/plain` is named too.
            let exact = match kind.to_ascii_lowercase().as_str() {
                OPEN_METRICS if has(&OPEN_METRICS_VERSIONS) => {
                    open_metrics = open_metrics.max(weight);
                    continue;
                }
                "text/plain" if has(&PROMETHEUS_VERSIONS) => 2,
                "text/*" => 1,
                "*/*" => 0,
                _ => continue,
            };
            plain = plain.max(Some((exact, weight)));
        }
        if open_metrics > 0 && open_metrics >= plain.map_or(0, |(_, weight)| weight) {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Splits an item of `Accept` into its type, its weight in thousandths, and its version if it has one.
fn read_item(item: &str) -> (&str, u16, Option<&str>) {
    let mut parts = item.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let (mut weight, mut version) = (1000, None);
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        match name.trim().to_ascii_lowercase().as_str() {
            // A weight that is not a number counts as zero.
            "q" => weight = value.trim().parse::<f32>().map_or(0, |q| (q.clamp(0.0, 1.0) * 1000.0) as u16),
            "version" => version = Some(value.trim().trim_matches('"')),
            _ => {}
        }
    }
    (kind, weight, version)
}

/// Rewrites OpenMetrics, as `prometheus-client` writes it, as Prometheus' text.
pub(super) fn to_prometheus(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len() + open_metrics.len() / 16);
    let mut help = "";
    for line in open_metrics.lines() {
        if let Some(text) = line.strip_prefix("# HELP ") {
            help = text;
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (ending, kind) = match kind {
                "counter" => ("_total", kind),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            let text = std::mem::take(&mut help).split_once(' ').map_or("", |(_, text)| text);
            // Writing to a String does not fail. Quotes are escaped in OpenMetrics only.
            let _ = if text.contains('"') {
                writeln!(out, "# HELP {name}{ending} {}", text.replace("\\\"", "\""))
            } else {
                writeln!(out, "# HELP {name}{ending} {text}")
            };
            let _ = writeln!(out, "# TYPE {name}{ending} {kind}");
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_asked_for() {
        use Exposition::{OpenMetrics, Prometheus};
        for (accept, want) in [
            (&[][..], Prometheus),
            (&["*/*"], Prometheus),
            (&["text/html,application/xhtml+xml,*/*;q=0.8"], Prometheus),
            (&["application/json"], Prometheus),
            (&["application/openmetrics-text"], OpenMetrics),
            (&["Application/OpenMetrics-Text; Version=1.0.0"], OpenMetrics),
            (&["application/openmetrics-text; version=2.0.0"], Prometheus),
            (&["application/openmetrics-text;q=0"], Prometheus),
            (&["application/openmetrics-text;q=x"], Prometheus),
            (&["application/openmetrics-text;q=0.3, text/plain;q=0.9"], Prometheus),
            (&["text/plain;q=0.3", "application/openmetrics-text;q=0.9"], OpenMetrics),
            (&["application/openmetrics-text;q=0.5,text/plain;q=0.3,*/*"], OpenMetrics),
            // Prometheus 2.42, and 3.
            (
                &[
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ],
                OpenMetrics,
            ),
            (
                &[
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                ],
                OpenMetrics,
            ),
        ] {
            assert_eq!(Exposition::asked(accept.iter().copied()), want, "{accept:?}");
        }
    }

    #[test]
    fn a_counters_head_gets_its_samples_name() {
        let open_metrics = "# HELP a_b Said \\\"so\\\".\n# TYPE a_b counter\n# UNIT a_b b\na_b_total{k=\"v\"} 1\n\
                            # HELP c C.\n# TYPE c gauge\nc 2\n# HELP d D.\n# TYPE d unknown\n# EOF\n";
        let text = "# HELP a_b_total Said \"so\".\n# TYPE a_b_total counter\na_b_total{k=\"v\"} 1\n\
                    # HELP c C.\n# TYPE c gauge\nc 2\n# HELP d D.\n# TYPE d untyped\n";
        assert_eq!(to_prometheus(open_metrics), text);
    }
}
