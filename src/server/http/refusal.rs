//! Status and metric label of a refused request.

use crate::codec::ws::UpgradeError;
use crate::dialect::{ErrorCode, HttpFault};

/// Status of a refusal's response, and its label in the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FaultStatus {
    pub(crate) status: u16,
    pub(crate) label: &'static str,
}

impl From<ErrorCode> for FaultStatus {
    fn from(code: ErrorCode) -> Self {
        Self { status: code.status(), label: code.name() }
    }
}

impl From<HttpFault> for FaultStatus {
    fn from(fault: HttpFault) -> Self {
        Self { status: fault.status(), label: fault.label() }
    }
}

impl From<UpgradeError> for FaultStatus {
    fn from(error: UpgradeError) -> Self {
        Self { status: error.status(), label: error.label() }
    }
}
