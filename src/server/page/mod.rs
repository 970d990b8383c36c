//! The live page and the operator's view, served from the binary. Imports nothing.
//! Always: one answer is the whole page, with nothing from elsewhere.

/// The whole page: its files one behind the other.
pub(crate) const INDEX: &str = concat!(
    include_str!("head.html"),
    "<style>\n",
    include_str!("style.css"),
    "</style>\n</head>\n",
    include_str!("body.html"),
    "<script>\n",
    include_str!("access.js"),
    include_str!("events.js"),
    include_str!("operator.js"),
    "</script>\n</body>\n</html>\n",
);
