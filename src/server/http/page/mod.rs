//! The live page and the operator's view, served from the binary.
//!
//! Always: one response is the whole page, without resources from elsewhere. Its policy names its own script and style
//! by their hashes, so no other script runs on it.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// Whole page: its files joined.
pub(crate) const INDEX: &str = concat!(
    include_str!("head.html"),
    "<style>\n",
    include_str!("style.css"),
    "</style>\n</head>\n",
    include_str!("body.html"),
    "<script>\n",
    include_str!("access.js"),
    include_str!("chart.js"),
    include_str!("list.js"),
    include_str!("link.js"),
    include_str!("operator.js"),
    include_str!("run.js"),
    include_str!("journey.js"),
    "</script>\n</body>\n</html>\n",
);

/// Returns the page's `Content-Security-Policy`: its own script and style, and its own server only.
pub(crate) fn policy() -> &'static str {
    static POLICY: OnceLock<String> = OnceLock::new();
    POLICY.get_or_init(|| {
        let hash_of = |tag: &str| {
            let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
            let inside = INDEX.split_once(&open).and_then(|(_, rest)| rest.split_once(&close));
            STANDARD.encode(Sha256::digest(inside.map_or("", |(inside, _)| inside)))
        };
        format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; connect-src 'self' ws: \
             wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash_of("script"),
            hash_of("style")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_script_and_one_style_and_stays_small() {
        for tag in ["script", "style"] {
            assert_eq!(INDEX.matches(&format!("<{tag}")).count(), 1, "{tag}");
            assert_eq!(INDEX.matches(&format!("</{tag}")).count(), 1, "{tag}");
        }
        assert!(!INDEX.contains(" style=") && !policy().contains("unsafe"), "{}", policy());
        assert!(INDEX.len() < 96 * 1024, "{} bytes", INDEX.len());
    }
}
