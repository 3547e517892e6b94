//! The checker's own record: what was acknowledged, and what went wrong.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// The newest REGISTER of a user that was answered 200.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    /// Its Call-ID.
    pub(crate) call_id: String,
    /// Its CSeq.
    pub(crate) cseq: u32,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Ledger {
    bindings: Mutex<BTreeMap<String, Acknowledged>>,
    violations: Mutex<Vec<String>>,
}

impl Ledger {
    /// A REGISTER was answered 200.
    pub(crate) fn acknowledged(&self, user: &str, call_id: &str, cseq: u32) {
        self.bindings.lock().insert(user.to_owned(), Acknowledged { call_id: call_id.to_owned(), cseq });
    }

    /// What every user was promised so far.
    pub(crate) fn promises(&self) -> BTreeMap<String, Acknowledged> {
        self.bindings.lock().clone()
    }

    /// Something happened that must not.
    pub(crate) fn violation(&self, what: String) {
        eprintln!("VIOLATION: {what}");
        self.violations.lock().push(what);
    }

    /// All that happened and must not.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }
}

/// Whether a node's answer to `/api/v1/bindings` holds what was promised, or something newer; otherwise what it has instead.
pub(crate) fn kept(promise: &Acknowledged, answer: &serde_json::Value) -> Result<(), String> {
    let bindings = answer["bindings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mine = bindings.iter().filter(|binding| binding["call_id"] == promise.call_id.as_str());
    match mine.filter_map(|binding| binding["cseq"].as_u64()).max() {
        Some(cseq) if cseq >= u64::from(promise.cseq) && bindings.len() == 1 => Ok(()),
        Some(cseq) if cseq >= u64::from(promise.cseq) => Err(format!("{} bindings and not one", bindings.len())),
        Some(cseq) => Err(format!("CSeq {cseq}, and {} was acknowledged", promise.cseq)),
        None => Err(format!("none of its bindings, but {}", answer["bindings"])),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_promise_is_kept_by_the_same_registration_or_a_newer_one() {
        let promise = Acknowledged { call_id: "a".to_owned(), cseq: 5 };
        let answer = |call_id: &str, cseq: u32| json!({ "bindings": [{ "call_id": call_id, "cseq": cseq }] });
        assert_eq!(kept(&promise, &answer("a", 5)), Ok(()));
        assert_eq!(kept(&promise, &answer("a", 6)), Ok(()));
        assert!(kept(&promise, &answer("a", 4)).is_err());
        assert!(kept(&promise, &answer("b", 9)).is_err());
        assert!(kept(&promise, &json!({ "bindings": [] })).is_err());
        let two = json!({ "bindings": [{ "call_id": "a", "cseq": 5 }, { "call_id": "a", "cseq": 4 }] });
        assert!(kept(&promise, &two).is_err());
    }
}
