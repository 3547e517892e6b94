//! Lines found at once and lines read with care.

use super::*;

/// S-030: found at once or read with care, lines end at the same places, wherever a block of octets ends.
#[test]
fn line_ends_are_the_same_however_they_are_looked_for() {
    let odd: [&[u8]; 9] = [b"", b"\0", b"\"\\\0\"", b"\t", b"\r", b"\n", b"\r\r", b"\n\n", b"\xff\x1f"];
    for length in 0..=2 * BLOCK + 3 {
        for octets in odd {
            for behind in ["", "\r\n", "\r\nB: c\r\n\r\n", "\r\nB: c\r\n\r\n\0body\r\n"] {
                let mut text = vec![b'a'; length];
                text.extend_from_slice(octets);
                text.extend_from_slice(behind.as_bytes());
                let mut ends = LineEnds::new(&text);
                let mut start = 0;
                loop {
                    let end = line_end(&text, start);
                    assert_eq!(ends.next(start), end, "{length} octets, {octets:?}, {behind:?}");
                    match end {
                        Some(end) if end > start => start = end + 2,
                        _ => break,
                    }
                }
                assert!(!ends.ascii || text.is_ascii(), "{length} octets, {octets:?}, {behind:?}");
            }
        }
    }
}

#[test]
fn lines_are_found_by_their_header() {
    let text = b"OPTIONS sip:a SIP/2.0\r\nv: 1\r\nQ: 2\r\nVia : 3\r\nTo:4\r\nZ:\r\nQ: \t5 \r\n\r\n";
    let mut index = Index::new();
    assert!(matches!(index.scan(text, &Limits::default()), Ok(Scan::Done(n)) if n == text.len()));
    let values = |id| -> Vec<&[u8]> {
        index.lines_of(id).map(|l| &text[l.value.start as usize..l.value.end as usize]).collect()
    };
    assert_eq!(values(HeaderId::Via), [b"1", b"3"]);
    assert_eq!(values(HeaderId::To), [b"4"]);
    assert_eq!(values(HeaderId::Other), [&b"2"[..], b"", b"5"]);
    assert!(values(HeaderId::From).is_empty() && index.first_of(HeaderId::From).is_none());
    assert_eq!(index.numbered_lines_of(HeaderId::Via).map(|(at, _)| at).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(index.repeated(), HeaderId::Via.bit() | HeaderId::Other.bit());
}
