//! `docs/compliance.md`, for people.

use std::fmt::Write as _;

use super::{claims::Requirement, numbers, summary};

/// What the numbers are about, by the first of each part.
const PARTS: &[(&str, &str)] = &[
    ("P-001", "Push parameters in URIs"),
    ("P-022", "Feature-Caps"),
    ("P-034", "REGISTER"),
    ("P-052", "Requests to a phone that sleeps"),
    ("P-073", "Requests within dialogs"),
    ("P-084", "Moving phones, long dialogs"),
    ("P-092", "Refresh pushes"),
    ("P-099", "Grammar"),
    ("P-104", "Security and privacy"),
    ("P-127", "Web Push"),
    ("P-142", "APNs"),
    ("P-158", "FCM"),
    ("P-169", "Clusters"),
    ("S-252", "SIP"),
];

const HEAD: &str = "\
# What is proven, and by which test

This page is made of [compliance.toml](compliance.toml) by `cargo xtask compliance`; do not edit it. A P-number is this project's
number for something that RFC 8599 or a push service's documentation asks of us, or that we ask of ourselves; code and tests cite
it. `cargo xtask test` fails where a test named here is not one that runs, or a number is left out.

Level: MUST, SHOULD and MAY are the source's; ADOPT is a rule of ours, or one that its source states without such a word; NOTE is a
fact to know. A test is named by its package, or package and integration test, then module and function, as cargo-nextest does;
`::*` stands for all tests of a module, one per push service.
";

/// The whole page.
pub(super) fn render(requirements: &[Requirement]) -> String {
    let mut page = format!("{HEAD}\n{}.\n", summary(requirements));
    for (number, _) in numbers::known() {
        if let Some((_, part)) = PARTS.iter().find(|(first, _)| *first == number) {
            let _ =
                write!(page, "\n## {part}\n\n| number | level | what | source | proven by |\n|---|---|---|---|---|\n");
        }
        for requirement in requirements.iter().filter(|requirement| requirement.number == number) {
            page.push_str(&row(requirement));
        }
    }
    page
}

fn row(requirement: &Requirement) -> String {
    let Requirement { number, level, says, section, tests, reason } = requirement;
    let proof = match reason {
        Some(reason) => cell(reason),
        None => tests.iter().map(|test| format!("`{test}`")).collect::<Vec<_>>().join("<br>"),
    };
    format!("| {number} | {level} | {} | {} | {proof} |\n", cell(says), cell(section))
}

/// Text that stays within its cell.
fn cell(text: &str) -> String {
    text.trim().replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compliance::claims::parse;

    #[test]
    fn rows_stand_in_the_order_of_their_numbers_under_their_part() {
        let entry = |number: &str, rest: &str| {
            format!(
                "[[requirement]]\nnumber = \"{number}\"\nlevel = \"MUST\"\nsays = \"a|b\"\nsection = \"§1\"\n{rest}\n"
            )
        };
        let text =
            entry("P-023", "reason = \"built in part, lacking: c\"") + &entry("P-001", "tests = [\"x::y\", \"x::z\"]");
        let page = render(&parse(&text).unwrap());
        let rows: Vec<_> = page.lines().filter(|line| line.starts_with("## ") || line.starts_with("| P-")).collect();
        assert_eq!(
            rows[..4],
            [
                "## Push parameters in URIs",
                "| P-001 | MUST | a\\|b | §1 | `x::y`<br>`x::z` |",
                "## Feature-Caps",
                "| P-023 | MUST | a\\|b | §1 | built in part, lacking: c |",
            ]
        );
        assert!(page.contains("2 requirements: 1 proven by tests, 1 built in part"));
    }

    #[test]
    fn every_part_begins_with_a_number_there_is() {
        let known = numbers::known();
        assert!(PARTS.iter().all(|(first, _)| known.iter().any(|(number, _)| number == first)));
    }
}
