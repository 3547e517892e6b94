//! However a stream is cut into pieces, its frames are the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use reveille_sip::{
    frame::{Frame, FrameError, Framer},
    limits::Limits,
};

fuzz_target!(|data: &[u8]| {
    // The first octet is the size of the pieces. Limits are small, so that they are met.
    let Some((step, stream)) = data.split_first() else { return };
    let limits = Limits { start_line: 200, header_section: 1000, body: 500, message: 1500, ..Limits::default() };
    let whole = frames(stream.chunks(stream.len().max(1)), &limits);
    let pieces = frames(stream.chunks(usize::from(*step).max(1)), &limits);
    assert_eq!(whole.0, pieces.0);
    // Which limit ends a stream may depend on how much had come; that it ends may not.
    assert_eq!(whole.1.is_some(), pieces.1.is_some());
});

fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>, limits: &Limits) -> (Vec<Frame>, Option<FrameError>) {
    let (mut framer, mut all) = (Framer::new(limits.clone()), Vec::new());
    for piece in pieces {
        framer.push(piece);
        loop {
            match framer.next() {
                Ok(Some(frame)) => all.push(frame),
                Ok(None) => break,
                Err(error) => return (all, Some(error)),
            }
        }
    }
    (all, None)
}
