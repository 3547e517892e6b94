//! How messages of a shard are printed. Contact URIs hold push tokens, and so do records: none of them ever is (P-109).

use std::fmt;

use bytes::Bytes;

use super::message::{BindingView, ContactUpdate, ShardInput, ShardOutput, Target};

impl fmt::Debug for BindingView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BindingView")
            .field("key", &self.key)
            .field("generation", &self.generation)
            .field("expires_in", &self.expires_in)
            .field("push", &self.push)
            .field("updated_now", &self.updated_now)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("key", &self.key)
            .field("q", &self.q)
            .field("flow", &self.flow)
            .field("reg_id", &self.reg_id)
            .field("pushable", &self.pushable)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ContactUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContactUpdate")
            .field("q", &self.q)
            .field("expires", &self.expires)
            .field("reg_id", &self.reg_id)
            .field("push", &self.push.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ShardInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register(request) => f.debug_tuple("Register").field(request).finish(),
            Self::Resolve(request) => f.debug_tuple("Resolve").field(request).finish(),
            Self::Wake(request) => f.debug_tuple("Wake").field(request).finish(),
            Self::Next(request) => f.debug_tuple("Next").field(request).finish(),
            Self::Leave { aor, waiter } => f.debug_struct("Leave").field("aor", aor).field("waiter", waiter).finish(),
            Self::RegisterRejected { aor, contacts } => {
                f.debug_struct("RegisterRejected").field("aor", aor).field("contacts", &contacts.len()).finish()
            }
            Self::Written { write, result } => {
                f.debug_struct("Written").field("write", write).field("result", result).finish()
            }
            Self::PushAnswered { aor, key, push, outcome } => f
                .debug_struct("PushAnswered")
                .field("aor", aor)
                .field("key", key)
                .field("push", push)
                .field("outcome", outcome)
                .finish(),
            Self::FlowUnusable { aor, key } => {
                f.debug_struct("FlowUnusable").field("aor", aor).field("key", key).finish()
            }
            Self::Amend(amendment) => f.debug_tuple("Amend").field(&amendment.aor).finish(),
            Self::Loaded(records) => f.debug_tuple("Loaded").field(&records.len()).finish(),
            Self::NoteLeft => f.write_str("NoteLeft"),
            Self::NoteFound { note, age } => {
                f.debug_struct("NoteFound").field("bytes", &note.len()).field("age", age).finish()
            }
        }
    }
}

impl fmt::Debug for ShardOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply { to, event } => f.debug_struct("Reply").field("to", to).field("event", event).finish(),
            Self::Write { write, aor, record } => f
                .debug_struct("Write")
                .field("write", write)
                .field("aor", aor)
                .field("bytes", &record.as_ref().map(Bytes::len))
                .finish(),
            Self::Push(order) => f.debug_tuple("Push").field(order).finish(),
            Self::Note(note) => f.debug_tuple("Note").field(&note.len()).finish(),
            Self::HandIn { aor, .. } => f.debug_tuple("HandIn").field(aor).finish(),
        }
    }
}
