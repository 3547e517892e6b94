//! Whatever is read is read without panic; what is sound can be forwarded and answered.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use reveille_sip::{
    edit::Edit,
    limits::Limits,
    message::Message,
    response::{ResponseBuilder, best_effort},
    validate,
};

fuzz_target!(|data: &[u8]| {
    let limits = Limits::default();
    let _ = best_effort(data, 400, "Bad Request");
    let Ok(message) = Message::parse(Bytes::copy_from_slice(data), &limits) else { return };
    let _ = (message.redacted(), message.contacts(), message.from_tag(), message.expires());
    let unchanged = Message::parse(Edit::new(&message).finish(), &limits);
    assert_eq!(unchanged.map(|m| m.body()).ok(), Some(message.body()));
    if !message.is_request() {
        let _ = validate::response(&message);
        return;
    }
    if validate::request(&message).is_err() {
        return;
    }
    let mut edit = Edit::new(&message);
    edit.add_top_via_params(Some([192, 0, 2, 1].into()), Some(5060));
    edit.push_via("SIP/2.0/UDP h;branch=z9hG4bKx");
    edit.pop_routes(1);
    edit.set_max_forwards(1);
    assert!(Message::parse(edit.finish(), &limits).is_ok_and(|m| validate::request(&m).is_ok()));
    let answer = Message::parse(ResponseBuilder::to(&message, 400).to_tag("t").build(), &limits);
    assert!(answer.is_ok_and(|a| validate::response(&a).is_ok()));
});
