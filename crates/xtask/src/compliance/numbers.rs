//! The numbers that have to be answered for.

use std::fmt;

use serde::Deserialize;

/// How strongly a requirement binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Level {
    /// MUST or MUST NOT of the source.
    Must,
    /// SHOULD or RECOMMENDED of the source.
    Should,
    /// A rule of this project, or one that its source states without a keyword.
    Adopt,
    /// MAY of the source.
    May,
    /// A fact worth knowing.
    Note,
}

impl Level {
    /// Whether a number of this level may not be left out.
    pub(super) fn binds(self) -> bool {
        matches!(self, Self::Must | Self::Should | Self::Adopt)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
            Self::Adopt => "ADOPT",
            Self::May => "MAY",
            Self::Note => "NOTE",
        })
    }
}

/// The P-numbers of each level: single ones and ranges.
const PUSH: &[(Level, &str)] = &[
    (Level::Must, "1-3 18 22-23 25 30 32 35 37-41 47 50 58 65-66 73-75 77-79 82 104 107 111 127-128 132 134"),
    (Level::Should, "27 36 64 81 91 93 131"),
    (Level::Note, "29 33 44 130 157 167-168"),
    (
        Level::Adopt,
        "4-17 19-21 24 26 28 31 34 42-43 45-46 48-49 51-57 59-63 67-72 76 80 83-90 92 94-103 105-106 108-110 \
         112-126 129 133 135-156 158-166 169-173",
    ),
];

/// The S-numbers that are answered for here.
const SIP: &[(Level, &str)] = &[(Level::May, "252-253")];

/// Every number with its level, in order: push first.
pub(super) fn known() -> Vec<(String, Level)> {
    let mut all = Vec::new();
    for (letter, levels) in [('P', PUSH), ('S', SIP)] {
        let numbers = levels.iter().flat_map(|(level, text)| ranges(text).map(move |number| (number, *level)));
        let mut numbers: Vec<_> = numbers.collect();
        numbers.sort_by_key(|(number, _)| *number);
        all.extend(numbers.into_iter().map(|(number, level)| (format!("{letter}-{number:03}"), level)));
    }
    all
}

fn ranges(text: &str) -> impl Iterator<Item = u16> {
    text.split_whitespace().flat_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        // What is no number makes an empty range, which the test below would miss in the count.
        first.parse::<u16>().unwrap_or(1)..=last.parse::<u16>().unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_known_once() {
        let wanted: Vec<String> =
            (1..=173).map(|number| format!("P-{number:03}")).chain(["S-252".to_owned(), "S-253".to_owned()]).collect();
        assert_eq!(known().into_iter().map(|(number, _)| number).collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn levels_are_read_and_shown_alike() {
        #[derive(Deserialize)]
        struct Holder {
            level: Level,
        }
        for level in [Level::Must, Level::Should, Level::Adopt, Level::May, Level::Note] {
            assert_eq!(toml::from_str::<Holder>(&format!("level = \"{level}\"")).unwrap().level, level);
        }
        assert!(toml::from_str::<Holder>("level = \"PERHAPS\"").is_err());
    }
}
