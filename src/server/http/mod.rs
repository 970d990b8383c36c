//! The HTTP side of a connection: routes, bodies, the checks of `Host` and `Origin`, and the page.

pub(crate) mod door;
pub(crate) mod events_page;
pub(crate) mod explain;
pub(crate) mod operator;
pub(crate) mod page;
pub(crate) mod publish_body;
mod refusal;
pub(crate) mod routes;
