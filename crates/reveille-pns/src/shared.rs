//! The port to what all nodes of a cluster share: a credential that one of them mints and the others take (P-143).

use std::time::Duration;

use zeroize::Zeroizing;

use crate::BoxFuture;

/// A credential that is in force in the whole cluster.
pub struct InForce {
    /// As it was offered.
    pub value: Zeroizing<Vec<u8>>,
}

/// The cluster's memory cannot be asked just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what the cluster shares cannot be had")]
pub struct Away;

/// Where the nodes of a cluster keep the credentials they share. A node that is alone has none.
///
/// Each call ends within a second or so, whatever happens to the store behind it.
pub trait SharedCredentials: Send + Sync + 'static {
    /// The credential of this name that is in force, if there is one.
    fn in_force<'a>(&'a self, name: &'a [u8]) -> BoxFuture<'a, Result<Option<InForce>, Away>>;

    /// Offers a credential that is good for `life` from now. It comes into force unless there is one that is still good for
    /// longer than `unless_longer`. Returns the one that is in force afterwards, whoever offered it.
    fn offer<'a>(
        &'a self,
        name: &'a [u8],
        value: &'a [u8],
        life: Duration,
        unless_longer: Duration,
    ) -> BoxFuture<'a, Result<InForce, Away>>;
}
