//! Heads read as they come and heads read with care.

use bytes::Bytes;

use super::{super::index::FEW, *};
use crate::{limits::Limits, message::careful};

/// Everything that an index says.
fn told(index: &Index) -> String {
    let mut index = index.clone();
    index.ascii = false; // the careful reading does not tell
    format!("{index:?}")
}

/// Reads `text` in pieces of `step` octets.
fn read(text: &[u8], step: usize) -> (Progress, Reader) {
    let mut reader = Reader::new();
    let ends = (step..text.len()).step_by(step).chain([text.len()]);
    for end in ends {
        match reader.read(&text[..end]) {
            Progress::More => {}
            progress => return (progress, reader),
        }
    }
    (Progress::More, reader)
}

/// S-030: found as it comes or read with care, a head ends at the same place and says the same, wherever a block of octets
/// or what was received ends.
#[test]
fn an_index_is_the_same_however_the_head_is_read() {
    let odd: [&[u8]; 14] = [
        b"",
        b"\0",
        b"\"\\\0\"",
        b"\t",
        b"\r",
        b"\n",
        b"\r\r",
        b"\n\n",
        b"\xff\x1f",
        b"\r\nB",
        b"\r\n c",
        b"\r\n: c",
        b"\r\nv: \xc3\xa9, d\r\nVia: e",
        b"\r\nB\xc3: c",
    ];
    let mut plain = 0;
    for length in 0..=2 * scan::BLOCK + 3 {
        for octets in odd {
            for behind in ["", "\r\n", "\r\nB: c\r\n\r\n", "\r\nB: c\r\n\r\n\0body\r\n"] {
                let mut text = b"OPTIONS sip:a SIP/2.0\r\nA: ".to_vec();
                text.extend(std::iter::repeat_n(b'a', length));
                text.extend_from_slice(octets);
                text.extend_from_slice(behind.as_bytes());
                let careful = careful::index(&mut Bytes::from(text.clone()), &Limits::default());
                for step in [1, 3, 64, 1000] {
                    let (progress, reader) = read(&text, step);
                    match &careful {
                        Ok(careful) if progress == Progress::Whole => {
                            plain += 1;
                            assert_eq!(told(reader.index()), told(careful), "{length} octets, {octets:?}, {behind:?}");
                            assert_eq!(reader.index().ascii, text[..careful.body].is_ascii());
                        }
                        // What is not plain may be folded, or hold a quoted NUL.
                        Ok(_) => assert_eq!(progress, Progress::Odd, "{length} octets, {octets:?}, {behind:?}"),
                        Err(_) => assert_ne!(progress, Progress::Whole, "{length} octets, {octets:?}, {behind:?}"),
                    }
                }
            }
        }
    }
    assert!(plain > 4 * 2 * 2 * scan::BLOCK, "what is plain is read as it comes");
}

#[test]
fn a_head_of_very_many_lines_is_not_indexed_before_it_is_whole() {
    let lines = |count: usize| format!("OPTIONS sip:a SIP/2.0\r\n{}\r\n", "a:\r\n".repeat(count));
    assert_eq!(read(lines(FEW).as_bytes(), 10).0, Progress::Whole);
    assert_eq!(read(lines(FEW + 1).as_bytes(), 10).0, Progress::Odd);
    let index = careful::index(&mut Bytes::from(lines(200)), &Limits::default());
    assert!(index.is_ok_and(|index| index.lines().len() == 200));
}

#[test]
fn lines_are_found_by_their_header() {
    let text = b"OPTIONS sip:a SIP/2.0\r\nv: 1\r\nQ: 2\r\nVia : 3\r\nTo:4\r\nZ:\r\nQ: \t5 \r\n\r\n";
    let (progress, reader) = read(text, text.len());
    let index = reader.index();
    assert_eq!((progress, index.body), (Progress::Whole, text.len()));
    let values = |id| -> Vec<&[u8]> { index.lines_of(id).map(|l| l.value.of(text)).collect() };
    assert_eq!(values(HeaderId::Via), [b"1", b"3"]);
    assert_eq!(values(HeaderId::To), [b"4"]);
    assert_eq!(values(HeaderId::Other), [&b"2"[..], b"", b"5"]);
    assert!(values(HeaderId::From).is_empty() && index.first_of(HeaderId::From).is_none());
    assert_eq!(index.numbered_lines_of(HeaderId::Via).map(|(at, _)| at).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(index.repeated(), HeaderId::Via.bit() | HeaderId::Other.bit());
}

/// S-022: line ends before the start line belong to the stream; in a message they are a fault.
#[test]
fn a_head_begins_with_its_start_line() {
    for text in ["\r\n", "\r\n\r\n", "\r\n OPTIONS sip:a SIP/2.0\r\n\r\n", "\r\nOPTIONS sip:a SIP/2.0\r\n\r\n"] {
        assert_eq!(read(text.as_bytes(), text.len()).0, Progress::Odd, "{text:?}");
        let message = crate::message::Message::parse(bytes::Bytes::from_static(text.as_bytes()), &Limits::default());
        assert_eq!(
            message.map_err(|error| (error.status, error.reason)).err(),
            Some((400, "Bad Start Line")),
            "{text:?}"
        );
    }
}
