//! The registrar's binding, as far as its refresh may be deferred.

use reveille_registrar::Binding;

use super::Registration;

impl Registration for Binding {
    fn call_id(&self) -> &str {
        &self.call_id
    }

    fn cseq(&self) -> u32 {
        self.cseq
    }

    /// In unix seconds.
    fn registered_at(&self) -> u64 {
        self.registered_at
    }

    /// In unix seconds.
    fn expires_at(&self) -> u64 {
        self.expires_at
    }

    /// A refresh over another connection or path is more than a refresh: whoever takes the shard over would send requests the
    /// old way.
    fn differs_only_in_registration(&self, other: &Self) -> bool {
        let Self { key, contact, params, q, instance, reg_id, flow, path, push, dead_push, pnsreg, .. } = self;
        (key, contact, params, q, instance) == (&other.key, &other.contact, &other.params, &other.q, &other.instance)
            && (reg_id, flow, path) == (&other.reg_id, &other.flow, &other.path)
            && (push, dead_push, pnsreg) == (&other.push, &other.dead_push, &other.pnsreg)
    }
}

#[cfg(test)]
mod tests {
    use reveille_registrar::{BindingKey, FlowRef, NodeTag, Transport};

    use super::*;
    use crate::deferred::{NotDeferrable, deferrable};

    fn binding() -> Binding {
        Binding {
            key: BindingKey(1),
            generation: 4,
            contact: "sip:alice@192.0.2.1;pn-provider=webpush;pn-prid=x".into(),
            params: String::new(),
            q: 1000,
            instance: Some("<urn:uuid:1>".into()),
            reg_id: Some(1),
            call_id: "one".into(),
            cseq: 7,
            expires_at: 2000,
            registered_at: 1000,
            flow: None,
            path: vec!["<sip:edge.example.com;lr>".into()],
            push: None,
            dead_push: None,
            pnsreg: false,
            more: Vec::new(),
        }
    }

    #[test]
    fn a_refresh_is_deferrable_and_a_move_is_not() {
        let refresh = Binding {
            generation: 5,
            call_id: "two".into(),
            cseq: 1,
            expires_at: 2500,
            registered_at: 1500,
            ..binding()
        };
        assert_eq!(deferrable(Some(&binding()), &refresh, 1500), Ok(()));
        let flow = FlowRef::Stream { node: NodeTag(1), epoch: 1, connection: 9, transport: Transport::Tls };
        for moved in [
            Binding { contact: "sip:alice@192.0.2.1;pn-provider=webpush;pn-prid=y".into(), ..refresh.clone() },
            Binding { path: Vec::new(), ..refresh.clone() },
            Binding { flow: Some(flow), ..refresh.clone() },
            Binding { pnsreg: true, ..refresh.clone() },
            Binding { q: 500, ..refresh.clone() },
        ] {
            assert_eq!(deferrable(Some(&binding()), &moved, 1500), Err(NotDeferrable::Changed), "{moved:?}");
        }
    }
}
