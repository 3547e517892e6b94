//! How much of a message is taken, enforced while it is read (S-024).

/// Sizes in octets, counts in values.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A whole message.
    pub message: usize,
    /// The start line.
    pub start_line: usize,
    /// One header line, folded lines included.
    pub header_line: usize,
    /// All headers together.
    pub header_section: usize,
    /// Header lines.
    pub headers: usize,
    /// The body.
    pub body: usize,
    /// Via values.
    pub vias: usize,
    /// Route values.
    pub routes: usize,
    /// A Request-URI.
    pub uri: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 65_536,
            start_line: 8_192,
            header_line: 8_192,
            header_section: 32_768,
            headers: 256,
            body: 65_535,
            vias: 70,
            routes: 32,
            uri: 4_096,
        }
    }
}
