//! The tests that the sources hold. Read from tokens, so that no comment and no string passes for one: a function is a test where
//! the compiler would make it one, at item level of a module that is reached from the root of a target.

mod scan;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use self::scan::{Attributes, Features, Item, Tokens};

/// Every test of the workspace, named as cargo-nextest does: the package, for an integration test its name, the path within.
#[derive(Debug, Default)]
pub(super) struct Tests {
    /// By name: whether it runs.
    all: BTreeMap<String, bool>,
    /// Modules that a macro of the tests makes, a test in each per push service.
    families: BTreeSet<String>,
}

impl Tests {
    /// Reads every package of the workspace at `root`.
    ///
    /// # Errors
    /// A source that cannot be read, or a module without a file.
    pub(super) fn of_workspace(root: &Path) -> Result<Self> {
        let mut packages: Vec<PathBuf> = folder(&root.join("crates"))?;
        packages.push(root.join("loadtest"));
        let mut tests = Self::default();
        for package in packages.into_iter().filter(|package| package.join("Cargo.toml").is_file()) {
            tests.add_package(&package).with_context(|| package.display().to_string())?;
        }
        Ok(tests)
    }

    #[cfg(test)]
    pub(super) fn of_names(names: &[&str]) -> Self {
        Self { all: names.iter().map(|name| ((*name).to_owned(), true)).collect(), families: BTreeSet::new() }
    }

    /// What is wrong with naming `claim` as a proof.
    pub(super) fn fault_of(&self, claim: &str) -> Option<String> {
        if let Some(module) = claim.strip_suffix("::*") {
            return (!self.families.contains(module)).then(|| format!("no tests, one per push service, in {module}"));
        }
        match self.all.get(claim) {
            Some(true) => None,
            Some(false) => Some(format!("{claim} does not run: it is ignored")),
            None => {
                let name = claim.rsplit("::").next().unwrap_or(claim);
                let alike: Vec<&str> =
                    self.all.keys().map(String::as_str).filter(|test| test.rsplit("::").next() == Some(name)).collect();
                let hint = if alike.is_empty() { String::new() } else { format!("; there is {}", alike.join(", ")) };
                Some(format!("no test {claim}{hint}"))
            }
        }
    }

    fn add_package(&mut self, package: &Path) -> Result<()> {
        let manifest: Manifest = toml::from_str(&read(&package.join("Cargo.toml"))?)?;
        let features = manifest.tested_features();
        let name = manifest.package.name;
        let mut targets = vec![
            (package.join("src/lib.rs"), name.clone()),
            (package.join("src/main.rs"), format!("{name}::bin/{name}")),
        ];
        for path in folder(&package.join("tests")).unwrap_or_default() {
            let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
            let prefix = format!("{name}::{stem}");
            if path.extension().is_some_and(|extension| extension == "rs") {
                targets.push((path, prefix));
            } else {
                targets.push((path.join("main.rs"), prefix));
            }
        }
        for (root, prefix) in targets.into_iter().filter(|(root, _)| root.is_file()) {
            let mut target = Target { features: features.clone(), ..Target::default() };
            let children = root.parent().map(Path::to_path_buf).unwrap_or_default();
            target.file(&root, &children, &prefix)?;
            self.take(target);
        }
        Ok(())
    }

    /// Takes the tests of a target, those that its macros make among them.
    fn take(&mut self, target: Target) {
        self.all.extend(target.tests);
        for (name, module, argument) in target.invocations {
            let Some(tests) = target.macros.get(&name) else { continue };
            let family = format!("{module}::{argument}");
            self.all.extend(tests.iter().map(|(test, runs)| (format!("{family}::{test}"), *runs)));
            if tests.values().any(|runs| *runs) {
                self.families.insert(family);
            }
        }
    }
}

/// One crate as the compiler sees it: a library, a program or an integration test.
#[derive(Default)]
struct Target {
    features: Features,
    tests: BTreeMap<String, bool>,
    /// Macros that make a module of tests under the name they are given: the tests of each.
    macros: HashMap<String, BTreeMap<String, bool>>,
    /// Macros called at item level: name, module, first word given.
    invocations: Vec<(String, String, String)>,
}

impl Target {
    /// Reads a file; its child modules are files in `children`.
    fn file(&mut self, path: &Path, children: &Path, module: &str) -> Result<()> {
        let tokens = Tokens::parse(&read(path)?).with_context(|| path.display().to_string())?;
        self.items(&tokens, path, children, module)
    }

    fn items(&mut self, tokens: &Tokens, path: &Path, children: &Path, module: &str) -> Result<()> {
        for item in scan::items(tokens, &self.features) {
            match item {
                Item::Function { name, attributes } if attributes.is_test() => {
                    self.tests.insert(format!("{module}::{name}"), !attributes.is_ignored());
                }
                Item::Function { .. } => {}
                Item::Module { name, body: Some(body), .. } => {
                    self.items(&body, path, &children.join(&name), &format!("{module}::{name}"))?;
                }
                Item::Module { name, body: None, attributes } => {
                    let (file, within) = child(path, children, &name, &attributes)?;
                    self.file(&file, &within, &format!("{module}::{name}"))?;
                }
                Item::Definition { name, body } => {
                    if let Some(tests) = scan::module_of_tests(&body, &self.features) {
                        self.macros.insert(name, tests);
                    }
                }
                // What it holds is what it makes, the functions' own attributes included.
                Item::Invocation { name, body } if name == "proptest" => self.items(&body, path, children, module)?,
                Item::Invocation { name, body } => {
                    if let Some(argument) = scan::first_word(&body) {
                        self.invocations.push((name, module.to_owned(), argument));
                    }
                }
            }
        }
        Ok(())
    }
}

/// The file of a module declared in `path`, and the folder of its own child modules.
fn child(path: &Path, children: &Path, name: &str, attributes: &Attributes) -> Result<(PathBuf, PathBuf)> {
    let parent = |file: &Path| file.parent().map(Path::to_path_buf).unwrap_or_default();
    if let Some(given) = attributes.path() {
        let file = parent(path).join(given);
        let within = parent(&file);
        return Ok((file, within));
    }
    let (flat, nested) = (children.join(format!("{name}.rs")), children.join(name).join("mod.rs"));
    let file = if flat.is_file() { flat } else { nested };
    if !file.is_file() {
        bail!("{}: the module {name} has no file", path.display());
    }
    Ok((file, children.join(name)))
}

#[derive(Deserialize)]
struct Manifest {
    package: Package,
    #[serde(default)]
    features: HashMap<String, Vec<String>>,
    #[serde(default, rename = "dev-dependencies")]
    dev_dependencies: HashMap<String, toml::Value>,
}

impl Manifest {
    /// The default features, and those with which the package depends on itself for its tests.
    fn tested_features(&self) -> Features {
        let defaults = self.features.get("default").into_iter().flatten().cloned();
        let itself = self.dev_dependencies.get(&self.package.name);
        let own = itself.and_then(|itself| itself.get("features")?.as_array()).into_iter().flatten();
        defaults.chain(own.filter_map(|feature| feature.as_str().map(str::to_owned))).collect()
    }
}

#[derive(Deserialize)]
struct Package {
    name: String,
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// What is in a folder, in order.
fn folder(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests;
