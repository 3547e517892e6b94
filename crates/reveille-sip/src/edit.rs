//! Forwarding by splicing: lines that are not touched leave as they came, in one copy into one buffer.

mod write;

use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use self::write::{Sink, is_length_line, push_number, write_line_named, write_value};
pub(crate) use self::write::{write_corrected_via, write_length, write_line};
use crate::{
    header::HeaderId,
    message::{Line, Message},
    split,
};

/// A set of changes to a message.
pub struct Edit<'m> {
    message: &'m Message,
    /// Every new value, one behind the other, so that a set of changes costs one allocation.
    text: Vec<u8>,
    request_uri: Option<Text>,
    /// Lines written above everything, newest on top: Via.
    top: SmallVec<[Text; 2]>,
    /// Lines written above the first line of their name, newest on top.
    before: SmallVec<[(HeaderId, Text); 4]>,
    /// Lines written below all others.
    after: SmallVec<[(Name, Text); 2]>,
    changes: SmallVec<[Change; 8]>,
    /// One bit for each header that a line written above or a change is about: lines of all others are only copied.
    touched: u64,
    popped_vias: usize,
    popped_routes: usize,
    body: Option<Bytes>,
}

/// A piece of [`Edit::text`].
#[derive(Clone, Copy)]
struct Text {
    start: u32,
    end: u32,
}

#[derive(Clone, Copy)]
enum Name {
    Known(HeaderId),
    Other(Text),
}

/// What happens to existing lines; the last one that names a line decides.
enum Change {
    Remove(HeaderId),
    RemoveNamed(Text),
    /// The first line gets this value, others go; without a line it is added.
    Replace(HeaderId, Text),
    /// The line with this index gets this value, or goes.
    Line(usize, Option<Text>),
}

impl<'m> Edit<'m> {
    /// No change yet.
    pub fn new(message: &'m Message) -> Self {
        Self {
            message,
            text: Vec::with_capacity(224),
            request_uri: None,
            top: SmallVec::new(),
            before: SmallVec::new(),
            after: SmallVec::new(),
            changes: SmallVec::new(),
            touched: HeaderId::ContentLength.bit(),
            popped_vias: 0,
            popped_routes: 0,
            body: None,
        }
    }

    /// Replaces the Request-URI.
    pub fn set_request_uri(&mut self, uri: impl Into<String>) {
        self.request_uri = Some(self.keep(&uri.into()));
    }

    /// Puts a Via value on top.
    pub fn push_via(&mut self, value: &str) {
        let start = self.text.len() as u32;
        self.text.put(b"Via: ");
        write_value(&mut self.text, value);
        self.text.put(b"\r\n");
        self.top.push(Text { start, end: self.text.len() as u32 });
    }

    /// Takes the topmost Via value off; once more, the one below it.
    pub fn pop_via(&mut self) {
        self.popped_vias += 1;
        self.pop_values(HeaderId::Via, self.popped_vias);
    }

    /// Takes the first `count` Route values off; called again, as many more.
    pub fn pop_routes(&mut self, count: usize) {
        self.popped_routes = self.popped_routes.saturating_add(count);
        self.pop_values(HeaderId::Route, self.popped_routes);
    }

    fn pop_values(&mut self, id: HeaderId, mut count: usize) {
        let message = self.message;
        self.touched |= id.bit();
        for (at, line) in message.index().numbered_lines_of(id) {
            if count == 0 {
                return;
            }
            let values: SmallVec<[&str; 4]> =
                split::outside_quotes(message.text(line.value).unwrap_or(""), b',').collect();
            let rest = values.get(count.min(values.len())..).unwrap_or_default();
            let left = (!rest.is_empty()).then(|| self.keep(&rest.join(", ")));
            self.changes.push(Change::Line(at, left));
            count = count.saturating_sub(values.len());
        }
    }

    /// Adds `received` and `rport` to the topmost Via of the message as it came (S-087). What it claimed of itself there is
    /// overwritten.
    pub fn add_top_via_params(&mut self, received: Option<IpAddr>, rport: Option<u16>) {
        if received.is_none() && rport.is_none() {
            return;
        }
        let message = self.message;
        let Some((at, line)) = message.index().numbered_lines_of(HeaderId::Via).next() else { return };
        self.touched |= HeaderId::Via.bit();
        let start = self.text.len();
        write_corrected_via(&mut self.text, message.raw(line.value), received, rport);
        self.changes.push(Change::Line(at, Some(Text { start: start as u32, end: self.text.len() as u32 })));
    }

    /// Sets Max-Forwards.
    pub fn set_max_forwards(&mut self, hops: u8) {
        let start = self.text.len() as u32;
        push_number(&mut self.text, usize::from(hops));
        self.touched |= HeaderId::MaxForwards.bit();
        self.changes.push(Change::Replace(HeaderId::MaxForwards, Text { start, end: self.text.len() as u32 }));
    }

    /// Adds a line above all lines of its name.
    pub fn prepend(&mut self, id: HeaderId, value: &str) {
        self.touched |= id.bit();
        let value = self.keep(value);
        self.before.push((id, value));
    }

    /// Adds a line below all headers.
    pub fn append(&mut self, id: HeaderId, value: &str) {
        let value = self.keep(value);
        self.after.push((Name::Known(id), value));
    }

    /// Adds a line of a header without an id below all headers.
    pub fn append_named(&mut self, name: &str, value: &str) {
        let (name, value) = (self.keep(name), self.keep(value));
        self.after.push((Name::Other(name), value));
    }

    /// Removes all lines of a header.
    pub fn remove(&mut self, id: HeaderId) {
        self.touched |= id.bit();
        self.changes.push(Change::Remove(id));
    }

    /// Removes all lines of a header by its long name.
    pub fn remove_named(&mut self, name: &str) {
        match HeaderId::from_name(name.as_bytes()) {
            HeaderId::Other => {
                self.touched |= HeaderId::Other.bit();
                let name = self.keep(name);
                self.changes.push(Change::RemoveNamed(name));
            }
            id => self.remove(id),
        }
    }

    /// Gives a header this one value.
    pub fn replace(&mut self, id: HeaderId, value: &str) {
        self.touched |= id.bit();
        let value = self.keep(value);
        self.changes.push(Change::Replace(id, value));
    }

    /// Keeps only the lines of a header whose value `keep` accepts.
    pub fn retain_lines(&mut self, id: HeaderId, mut keep: impl FnMut(&str) -> bool) {
        let message = self.message;
        self.touched |= id.bit();
        for (at, line) in message.index().numbered_lines_of(id) {
            if !keep(message.text(line.value).unwrap_or("")) {
                self.changes.push(Change::Line(at, None));
            }
        }
    }

    /// Shows every line's value to `change`, which says what it is to be instead: the same (`None`), another, or gone (`Some(None)`).
    /// What is said of a line later counts more.
    pub fn rewrite_lines<T: AsRef<str>>(&mut self, mut change: impl FnMut(HeaderId, &'m [u8]) -> Option<Option<T>>) {
        let message = self.message;
        for (at, line) in message.index().lines().iter().enumerate() {
            if let Some(value) = change(line.id, message.raw(line.value)) {
                self.touched |= line.id.bit();
                let value = value.map(|value| self.keep(value.as_ref()));
                self.changes.push(Change::Line(at, value));
            }
        }
    }

    /// Replaces the body and its type; how the old one was encoded goes with it.
    pub fn set_body(&mut self, content_type: &str, body: Bytes) {
        self.replace(HeaderId::ContentType, content_type);
        self.remove(HeaderId::ContentEncoding);
        self.body = Some(body);
    }

    /// The changed message.
    pub fn finish(self) -> Bytes {
        let mut out = Vec::with_capacity(self.room());
        self.write(&mut out);
        Bytes::from(out)
    }

    /// Writes the changed message behind what `out` holds: one that sends from a buffer of its own need not allocate another.
    pub fn finish_into(self, out: &mut BytesMut) {
        out.reserve(self.room());
        self.write(out);
    }

    fn body(&self) -> &[u8] {
        let message = self.message;
        self.body.as_deref().or(message.bytes().get(message.index().body..)).unwrap_or_default()
    }

    /// As many octets as the changed message may need.
    fn room(&self) -> usize {
        let added = 28 * (self.before.len() + self.after.len()) + 32;
        self.message.index().body + self.body().len() + self.text.len() + added
    }

    fn write(&self, out: &mut impl Sink) {
        let (message, body) = (self.message, self.body());
        // Runs of untouched lines are copied in one piece, from here; the start line is the first of them if it stays.
        let mut copied = 0;
        if self.request_uri.is_some() || !self.top.is_empty() || !message.is_canonical_version() {
            self.write_start_line(out);
            for line in self.top.iter().rev() {
                out.put(self.read(*line));
            }
            copied = message.index().headers;
        }
        // Headers whose first line has been dealt with.
        let mut written = 0_u64;
        let mut length_written = false;
        let (lines, touched, mut next) = (message.index().lines(), self.touched, 0);
        let is_touched = |line: &Line| touched & line.id.bit() != 0;
        while let Some(skipped) = lines.get(next..).and_then(|rest| rest.iter().position(is_touched)) {
            let at = next + skipped;
            next = at + 1;
            let Some(line) = lines.get(at) else { break };
            if line.id == HeaderId::ContentLength {
                // Always our own count of octets (S-025), and only one line of it.
                if length_written || !is_length_line(message.raw(line.whole()), body.len()) {
                    copy(out, message, copied, line.start);
                    copied = line.end as usize;
                    if !length_written {
                        write_length(out, body.len());
                    }
                }
                length_written = true;
                continue;
            }
            let first = written & line.id.bit() == 0;
            let fresh = first && self.before.iter().any(|(id, _)| *id == line.id);
            let verdict = self.verdict(at, line.id, message.raw(line.name()), first);
            if !fresh && matches!(verdict, Verdict::Keep) {
                continue;
            }
            if fresh {
                copy(out, message, copied, line.start);
                copied = line.start as usize;
                self.write_before(out, line.id);
            }
            if first && (fresh || matches!(verdict, Verdict::Replace(_))) {
                written |= line.id.bit();
            }
            match verdict {
                Verdict::Keep => {}
                Verdict::Replace(value) => {
                    // The name as it came leaves with the lines above it.
                    let between = line.name_end() as usize..line.value.start as usize;
                    if message.bytes().get(between) == Some(b": ") {
                        copy(out, message, copied, line.value.start);
                    } else {
                        copy(out, message, copied, line.name_end());
                        out.put(b": ");
                    }
                    out.put(value);
                    // So do its line end and the lines below.
                    copied = (line.end as usize).saturating_sub(2);
                }
                Verdict::Drop => {
                    copy(out, message, copied, line.start);
                    copied = line.end as usize;
                }
            }
        }
        let end = message.index().body;
        if length_written && !self.adds_lines(written) && self.body.is_none() {
            // The empty line and the body are untouched too.
            return copy(out, message, copied, message.bytes().len() as u32);
        }
        copy(out, message, copied, end.saturating_sub(2) as u32);
        self.write_additions(out, written);
        if !length_written {
            write_length(out, body.len());
        }
        out.put(b"\r\n");
        out.put(body);
    }

    /// Whether [`Edit::write_additions`] may write anything.
    fn adds_lines(&self, written: u64) -> bool {
        let missing = |change: &Change| matches!(change, Change::Replace(id, _) if !self.message.has(*id));
        !self.after.is_empty()
            || self.before.iter().any(|(id, _)| written & id.bit() == 0)
            || self.changes.iter().any(missing)
    }

    fn write_start_line(&self, out: &mut impl Sink) {
        let message = self.message;
        if self.request_uri.is_none() && message.is_canonical_version() {
            out.put(message.bytes().get(..message.index().headers).unwrap_or_default());
            return;
        }
        match message.status() {
            None => {
                let uri = self.request_uri.map_or(message.request_uri().as_bytes(), |uri| self.read(uri));
                out.put(message.method_name().as_bytes());
                out.put(b" ");
                out.put(uri);
                out.put(b" SIP/2.0\r\n");
            }
            Some(_) => {
                // From the status code on as it came.
                let rest = message.index().second.start as usize..message.index().headers;
                out.put(b"SIP/2.0 ");
                out.put(message.bytes().get(rest).unwrap_or_default());
            }
        }
    }

    fn write_before(&self, out: &mut impl Sink, id: HeaderId) {
        for (_, value) in self.before.iter().rev().filter(|(other, _)| *other == id) {
            write_line_named(out, id.name().as_bytes(), self.read(*value));
        }
    }

    /// New lines of headers that the message did not have, and those asked for at the end.
    fn write_additions(&self, out: &mut impl Sink, mut written: u64) {
        for (id, _) in &self.before {
            if written & id.bit() == 0 {
                written |= id.bit();
                self.write_before(out, *id);
            }
        }
        for (at, change) in self.changes.iter().enumerate() {
            let is_last = |id: &HeaderId| {
                let mut later = self.changes.iter().skip(at + 1);
                !later.any(|c| matches!(c, Change::Replace(i, _) | Change::Remove(i) if i == id))
            };
            if let Change::Replace(id, value) = change
                && !self.message.has(*id)
                && is_last(id)
            {
                write_line_named(out, id.name().as_bytes(), self.read(*value));
            }
        }
        for (name, value) in &self.after {
            match name {
                Name::Known(id) => write_line_named(out, id.name().as_bytes(), self.read(*value)),
                Name::Other(name) => write_line_named(out, self.read(*name), self.read(*value)),
            }
        }
    }

    /// A line break in a value would begin a header of its own (S-029); whoever made it, it leaves as a space.
    fn keep(&mut self, text: &str) -> Text {
        let start = self.text.len();
        write_value(&mut self.text, text);
        Text { start: start as u32, end: self.text.len() as u32 }
    }

    fn read(&self, text: Text) -> &[u8] {
        self.text.get(text.start as usize..text.end as usize).unwrap_or_default()
    }

    fn verdict(&self, at: usize, id: HeaderId, name: &[u8], first: bool) -> Verdict<'_> {
        for change in self.changes.iter().rev() {
            match change {
                Change::Line(line, value) if *line == at => {
                    return value.map_or(Verdict::Drop, |value| Verdict::Replace(self.read(value)));
                }
                Change::Remove(removed) if *removed == id => return Verdict::Drop,
                Change::RemoveNamed(removed) if name.eq_ignore_ascii_case(self.read(*removed)) => {
                    return Verdict::Drop;
                }
                Change::Replace(replaced, value) if *replaced == id => {
                    return if first { Verdict::Replace(self.read(*value)) } else { Verdict::Drop };
                }
                _ => {}
            }
        }
        Verdict::Keep
    }
}

enum Verdict<'a> {
    Keep,
    Replace(&'a [u8]),
    Drop,
}

fn copy(out: &mut impl Sink, message: &Message, start: usize, end: u32) {
    out.put(message.bytes().get(start..end as usize).unwrap_or_default());
}
