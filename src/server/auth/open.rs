//! Authentication of a server built without the feature `auth`: every client has all rights.

use std::sync::Arc;

use super::grant::{Grant, SavedGrant};
use super::revocation::Revocation;
use super::{Denied, NoTicket, SavedSeal};
use crate::codec::http::Request;
use crate::event::{Since, Timestamp};
use crate::server::limits::budget::Budget;

/// No authentication.
#[derive(Debug, Default)]
pub(crate) struct Auth(());

#[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "same interface as `guard`")]
impl Auth {
    pub(crate) fn changes(&self) -> u64 {
        0
    }

    pub(crate) fn is_open(&self) -> bool {
        true
    }

    pub(crate) fn admit(
        &self,
        _: &Request,
        _: &[String],
        _: Timestamp,
        _: &mut Budget,
    ) -> Result<Option<Arc<Grant>>, Denied> {
        Ok(None)
    }

    pub(crate) fn verify(&self, _: &str, _: Timestamp, _: &mut Budget) -> Result<Option<Arc<Grant>>, Denied> {
        Ok(None)
    }

    pub(crate) fn ended(&self, _: &Grant, _: Timestamp) -> Option<Denied> {
        None
    }

    pub(crate) fn make_ticket(&self, _: &Arc<Grant>, _: Timestamp) -> Result<(String, u64), NoTicket> {
        Err(NoTicket::Full)
    }

    pub(crate) fn held_bytes(&self) -> usize {
        0
    }

    pub(crate) fn restore(&self, _: SavedGrant, _: Timestamp) -> Option<Arc<Grant>> {
        None
    }

    pub(crate) fn seal(&self, _: &Since, _: u64) -> Option<Since> {
        None
    }

    pub(crate) fn open_seal(&self, _: &str) -> Option<Since> {
        None
    }

    pub(crate) fn save_seal(&self) -> Option<SavedSeal> {
        None
    }

    pub(crate) fn take_seal(&self, _: SavedSeal) {}

    pub(crate) fn save_revoked(&self) -> Vec<Revocation> {
        Vec::new()
    }

    pub(crate) fn revoke(&self, _: Revocation, _: Timestamp) -> Result<usize, usize> {
        Ok(0)
    }
}
