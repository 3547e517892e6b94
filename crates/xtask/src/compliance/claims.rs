//! `docs/compliance.toml`: what it says, and what is wrong with it.

use std::collections::HashMap;

use anyhow::Result;
use serde::Deserialize;

use super::{
    numbers::{self, Level},
    sources::Tests,
};

/// One requirement and what proves it, or why nothing does.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Requirement {
    /// Such as `P-001`.
    pub(super) number: String,
    /// How strongly it binds.
    pub(super) level: Level,
    /// What it asks, in our own words.
    pub(super) says: String,
    /// Where it comes from.
    pub(super) section: String,
    /// The tests that prove it: package, or package and integration test, then module and function.
    #[serde(default)]
    pub(super) tests: Vec<String>,
    /// Why no test proves it.
    pub(super) reason: Option<String>,
}

/// How a requirement stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Tests prove the whole of it.
    Proven,
    /// Part of it is missing.
    InPart,
    /// It is built, and no test proves it.
    NotProven,
    /// It is missing.
    NotBuilt,
    /// It needs no test, for the reason given.
    Apart,
}

/// The reasons that mean work to be done, by how they begin.
const OPEN: [(&str, Standing); 3] = [
    ("not built yet: ", Standing::NotBuilt),
    ("built in part, lacking: ", Standing::InPart),
    ("built, lacking: ", Standing::NotProven),
];

impl Requirement {
    /// How it stands.
    pub(super) fn standing(&self) -> Standing {
        let Some(reason) = &self.reason else { return Standing::Proven };
        OPEN.iter().find(|(start, _)| reason.starts_with(start)).map_or(Standing::Apart, |(_, standing)| *standing)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    requirement: Vec<Requirement>,
}

/// Reads the file.
///
/// # Errors
/// What is no such file; keys it does not know are faults.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>> {
    Ok(toml::from_str::<File>(text)?.requirement)
}

/// Everything that is wrong with the claims; nothing where all is well.
pub(super) fn faults(requirements: &[Requirement], tests: &Tests) -> Vec<String> {
    let known: Vec<(String, Level)> = numbers::known();
    let levels: HashMap<&str, Level> = known.iter().map(|(number, level)| (number.as_str(), *level)).collect();
    let mut faults = Vec::new();
    let mut times: HashMap<&str, usize> = HashMap::new();
    for requirement in requirements {
        let number = requirement.number.as_str();
        *times.entry(number).or_default() += 1;
        let found = match levels.get(number) {
            None => Some(format!("{number}: no such number")),
            Some(level) if *level != requirement.level => {
                Some(format!("{number}: is {level}, and not {}", requirement.level))
            }
            Some(_) => None,
        };
        faults.extend(found);
        faults.extend(requirement.own_faults(tests).into_iter().map(|fault| format!("{number}: {fault}")));
    }
    for (number, level) in &known {
        match times.get(number.as_str()) {
            None if level.binds() => faults.push(format!("{number}: is missing, and it is {level}")),
            Some(2..) => faults.push(format!("{number}: is there more than once")),
            _ => {}
        }
    }
    faults
}

impl Requirement {
    fn own_faults(&self, tests: &Tests) -> Vec<String> {
        let mut faults = Vec::new();
        for (key, value) in [("says", &self.says), ("section", &self.section)] {
            if value.trim().is_empty() {
                faults.push(format!("{key} is empty"));
            }
        }
        match (&self.reason, self.tests.is_empty()) {
            (None, true) => faults.push("has neither tests nor a reason".to_owned()),
            (Some(_), false) => faults.push("has both tests and a reason".to_owned()),
            (Some(reason), true) if is_empty(reason) => faults.push("its reason is empty".to_owned()),
            _ => {}
        }
        for (at, claim) in self.tests.iter().enumerate() {
            if self.tests.iter().take(at).any(|earlier| earlier == claim) {
                faults.push(format!("names {claim} twice"));
            }
            faults.extend(tests.fault_of(claim));
        }
        faults
    }
}

/// Whether a reason says nothing, or nothing beyond how it begins.
fn is_empty(reason: &str) -> bool {
    let reason = reason.trim();
    reason.is_empty() || OPEN.iter().any(|(start, _)| reason == start.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that answers for every number by the one test there is.
    fn complete() -> Vec<Requirement> {
        numbers::known()
            .into_iter()
            .map(|(number, level)| Requirement {
                number,
                level,
                says: "something".to_owned(),
                section: "RFC 8599 §4".to_owned(),
                tests: vec!["thing::tests::works".to_owned()],
                reason: None,
            })
            .collect()
    }

    fn sources() -> Tests {
        Tests::of_names(&["thing::tests::works"])
    }

    /// The faults of a complete file after a change to its first entry, which is P-001 and MUST.
    fn after(change: impl FnOnce(&mut Requirement)) -> Vec<String> {
        let mut requirements = complete();
        change(&mut requirements[0]);
        faults(&requirements, &sources())
    }

    #[test]
    fn a_complete_file_has_no_fault() {
        assert_eq!(faults(&complete(), &sources()), <[String; 0]>::default());
    }

    #[test]
    fn a_claimed_test_that_is_not_there_is_a_fault() {
        let found = after(|first| first.tests.push("thing::tests::imagined".to_owned()));
        assert_eq!(found, ["P-001: no test thing::tests::imagined"]);
    }

    #[test]
    fn a_number_that_binds_must_be_there() {
        for (number, binds) in [("P-001", true), ("P-027", true), ("P-043", true), ("S-252", false), ("P-029", false)] {
            let mut requirements = complete();
            requirements.retain(|requirement| requirement.number != number);
            let found = faults(&requirements, &sources());
            assert_eq!(found.len(), usize::from(binds), "{number}: {found:?}");
            assert!(found.iter().all(|fault| fault.starts_with(number) && fault.contains("is missing")), "{found:?}");
        }
    }

    #[test]
    fn a_number_is_there_once() {
        let mut requirements = complete();
        requirements.extend(complete().into_iter().filter(|requirement| requirement.number == "P-007"));
        assert_eq!(faults(&requirements, &sources()), ["P-007: is there more than once"]);
    }

    #[test]
    fn an_unknown_number_is_a_fault() {
        let mut requirements = complete();
        requirements.extend(complete().into_iter().take(1));
        requirements.last_mut().unwrap().number = "P-174".to_owned();
        assert_eq!(faults(&requirements, &sources()), ["P-174: no such number"]);
    }

    #[test]
    fn a_level_cannot_be_talked_down() {
        assert_eq!(after(|first| first.level = Level::Note), ["P-001: is MUST, and not NOTE"]);
    }

    #[test]
    fn either_tests_or_a_reason() {
        let both = after(|first| first.reason = Some("why not".to_owned()));
        assert_eq!(both, ["P-001: has both tests and a reason"]);
        let neither = after(|first| first.tests.clear());
        assert_eq!(neither, ["P-001: has neither tests nor a reason"]);
        let reason = after(|first| {
            first.tests.clear();
            first.reason = Some("not built yet: the whole of it".to_owned());
        });
        assert_eq!(reason, <[String; 0]>::default());
    }

    #[test]
    fn empty_words_are_faults() {
        for reason in ["", " ", "not built yet:", "built in part, lacking: "] {
            let found = after(|first| {
                first.tests.clear();
                first.reason = Some(reason.to_owned());
            });
            assert_eq!(found, ["P-001: its reason is empty"], "{reason:?}");
        }
        assert_eq!(after(|first| first.says.clear()), ["P-001: says is empty"]);
        assert_eq!(after(|first| first.section.clear()), ["P-001: section is empty"]);
        let twice = after(|first| first.tests.push("thing::tests::works".to_owned()));
        assert_eq!(twice, ["P-001: names thing::tests::works twice"]);
    }

    #[test]
    fn keys_that_are_not_known_are_refused() {
        let entry = "[[requirement]]\nnumber = \"P-001\"\nlevel = \"MUST\"\nsays = \"x\"\nsection = \"y\"\n";
        assert_eq!(parse(&format!("{entry}tests = [\"a\"]")).unwrap().len(), 1);
        assert!(parse(&format!("{entry}test = [\"a\"]")).is_err());
        assert!(parse(&format!("{entry}[[requirements]]")).is_err());
        assert!(parse("[[requirement]]\nnumber = \"P-001\"").is_err(), "a level is needed");
    }

    #[test]
    fn reasons_tell_how_a_requirement_stands() {
        let mut requirement = complete().remove(0);
        assert_eq!(requirement.standing(), Standing::Proven);
        for (reason, standing) in [
            ("not built yet: x", Standing::NotBuilt),
            ("built in part, lacking: x", Standing::InPart),
            ("built, lacking: x", Standing::NotProven),
            ("a matter of the machine", Standing::Apart),
        ] {
            requirement.reason = Some(reason.to_owned());
            assert_eq!(requirement.standing(), standing, "{reason}");
        }
    }
}
