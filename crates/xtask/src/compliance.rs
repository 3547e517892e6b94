//! `cargo xtask compliance`: which test proves which requirement.
//!
//! `docs/compliance.toml` says it by hand. Here it is held against the sources (a claimed test must be one that runs) and against
//! the list of numbers (none may be left out), and `docs/compliance.md` is made of it.

mod claims;
mod numbers;
mod page;
mod sources;

use std::path::Path;

use anyhow::{Context, Result, bail};

use self::{
    claims::{Requirement, Standing},
    sources::Tests,
};

/// What is written by hand.
const CLAIMS: &str = "docs/compliance.toml";
/// What is made of it.
const PAGE: &str = "docs/compliance.md";

/// Checks the claims at the root of the workspace and writes the page; with `check` the page must be there already.
pub(crate) fn run(check: bool) -> Result<()> {
    let tests = Tests::of_workspace(Path::new("."))?;
    let text = std::fs::read_to_string(CLAIMS).with_context(|| format!("cannot read {CLAIMS}"))?;
    let requirements = claims::parse(&text).with_context(|| CLAIMS.to_owned())?;
    let faults = claims::faults(&requirements, &tests);
    if !faults.is_empty() {
        for fault in &faults {
            println!("    {CLAIMS}: {fault}");
        }
        bail!("{} faults in {CLAIMS}", faults.len());
    }
    let page = page::render(&requirements);
    if check {
        // A page that is not there is one that differs.
        let present = std::fs::read_to_string(PAGE).unwrap_or_default();
        compare(&present, &page)?;
    } else {
        std::fs::write(PAGE, &page).with_context(|| format!("cannot write {PAGE}"))?;
    }
    println!("    {}", summary(&requirements));
    Ok(())
}

fn compare(present: &str, wanted: &str) -> Result<()> {
    if present != wanted {
        bail!("{PAGE} is not what {CLAIMS} makes: run `cargo xtask compliance` and look at the difference");
    }
    Ok(())
}

/// One line of counts.
fn summary(requirements: &[Requirement]) -> String {
    let count = |standing| requirements.iter().filter(|requirement| requirement.standing() == standing).count();
    format!(
        "{} requirements: {} proven by tests, {} built in part, {} built and not proven, {} not built yet, {} not to be tested",
        requirements.len(),
        count(Standing::Proven),
        count(Standing::InPart),
        count(Standing::NotProven),
        count(Standing::NotBuilt),
        count(Standing::Apart),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_differs_is_a_fault() {
        assert!(compare("one\n", "one\n").is_ok());
        let error = compare("one\n", "two\n").unwrap_err().to_string();
        assert!(error.contains("cargo xtask compliance"), "{error}");
        assert!(compare("", "one\n").is_err(), "so is none");
    }

    #[test]
    fn the_counts_are_of_every_kind() {
        let text = [
            "tests = [\"a::b\"]",
            "reason = \"built in part, lacking: c\"",
            "reason = \"not built yet: d\"",
            "reason = \"e\"",
        ]
        .iter()
        .map(|rest| {
            format!("[[requirement]]\nnumber = \"P-001\"\nlevel = \"MUST\"\nsays = \"x\"\nsection = \"y\"\n{rest}\n")
        })
        .collect::<String>();
        assert_eq!(
            summary(&claims::parse(&text).unwrap()),
            "4 requirements: 1 proven by tests, 1 built in part, 0 built and not proven, 1 not built yet, 1 not to be tested"
        );
    }
}
