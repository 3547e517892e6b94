//! What can go wrong between a node and Redis, by what the caller can do about it.

use crate::seal::OpenError;

/// A question to Redis was not answered as hoped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No answer by the deadline; whether it took effect is not known.
    #[error("Redis did not answer in time")]
    Unavailable,
    /// It took effect on the master, but too few replicas say they hold it.
    #[error("{held} of {wanted} replicas hold it")]
    Replicas {
        /// How many do.
        held: u32,
        /// How many should.
        wanted: u32,
    },
    /// The server will not do this, now or later: rights, a foreign key, a bug.
    #[error("Redis refused: {0}")]
    Refused(String),
    /// An answer of another shape than agreed.
    #[error("Redis gave an answer that makes no sense")]
    Answer,
    /// What is stored cannot be read.
    #[error("a stored record cannot be read: {0}")]
    Record(#[from] OpenError),
}

/// A shard could not be claimed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Somebody was faster, or the caller's knowledge is old.
    #[error("the shard is at epoch {epoch}")]
    Claimed {
        /// The epoch at which the shard is.
        epoch: u64,
        /// Whose it is; empty where it was released.
        owner: String,
    },
    /// Not known whether it was claimed; ask again with the same epoch, or read the fence.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// A fenced operation was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FencedError {
    /// The shard is not ours, or no longer.
    #[error("the shard is owned elsewhere, epoch {epoch}")]
    Fenced {
        /// The epoch at which the shard is; 0 where this node knew by itself that it does not own it.
        epoch: u64,
    },
    /// The record is at another version than expected.
    #[error("the record is at version {current}")]
    Conflict {
        /// The version it is at; 0 where there is none.
        current: u64,
    },
    /// As for any question.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// A record could not be left for a shard's owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeferError {
    /// The owner has not merged what others left; it would grow without bound.
    #[error("{length} records wait already")]
    Full {
        /// How many wait.
        length: u64,
    },
    /// As for any question.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// A lease could not be renewed or given up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Another process lives under this tag.
    #[error("incarnation {incarnation} holds the lease")]
    Held {
        /// Which.
        incarnation: u64,
        /// How long its lease runs, in milliseconds.
        remaining_ms: u64,
    },
    /// As for any question.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// The store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A setting that cannot work.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// No server could be reached, or none would let us in.
    #[error("{endpoint}: {reason}")]
    Server {
        /// Which was tried last.
        endpoint: String,
        /// What it said.
        reason: String,
    },
}
