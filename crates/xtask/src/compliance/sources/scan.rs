//! Items and their attributes, from tokens: just as much of Rust as tells a test from what merely looks like one.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// A run of tokens: a file, or what stands between two braces. Comments are gone, and strings are one token each.
pub(super) struct Tokens(Vec<TokenTree>);

impl Tokens {
    /// Reads Rust.
    ///
    /// # Errors
    /// What is not even made of Rust's tokens.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let stream: TokenStream = text.parse().map_err(|error| anyhow!("not Rust: {error}"))?;
        Ok(Self(stream.into_iter().collect()))
    }

    fn of(group: &Group) -> Self {
        Self(group.stream().into_iter().collect())
    }
}

/// What stands at item level and matters here. Items that are switched off by a `cfg` are left out.
pub(super) enum Item {
    /// `fn name`.
    Function { name: String, attributes: Attributes },
    /// `mod name { … }`, or `mod name;`.
    Module { name: String, body: Option<Tokens>, attributes: Attributes },
    /// `macro_rules! name { … }`.
    Definition { name: String, body: Tokens },
    /// `name! { … }`, whatever its brackets.
    Invocation { name: String, body: Tokens },
}

/// The attributes before an item.
#[derive(Default)]
pub(super) struct Attributes(Vec<Attribute>);

struct Attribute {
    /// As written, without spaces: `tokio::test`.
    path: String,
    /// What follows the path.
    rest: Vec<TokenTree>,
}

impl Attributes {
    /// Whether the compiler, or tokio's macro, makes a test of a function with these.
    pub(super) fn is_test(&self) -> bool {
        self.0.iter().any(|attribute| matches!(attribute.path.as_str(), "test" | "tokio::test"))
    }

    /// Whether a test with these is left out of a run.
    pub(super) fn is_ignored(&self) -> bool {
        self.0.iter().any(|attribute| attribute.path == "ignore")
    }

    /// The file that `#[path = "…"]` names.
    pub(super) fn path(&self) -> Option<String> {
        let attribute = self.0.iter().find(|attribute| attribute.path == "path")?;
        let text = attribute.rest.last()?.to_string();
        Some(text.strip_prefix('"')?.strip_suffix('"')?.to_owned())
    }

    /// Whether a test run has the item: `cfg` decides.
    fn are_met(&self, features: &Features) -> bool {
        let mut conditions = self.0.iter().filter(|attribute| attribute.path == "cfg");
        conditions.all(|condition| match condition.rest.as_slice() {
            [TokenTree::Group(group)] => is_met(&Tokens::of(group).0, features),
            _ => false,
        })
    }
}

/// The features that a package's tests switch on.
pub(super) type Features = BTreeSet<String>;

/// Whether a `cfg` condition holds in a test run on Unix. What is not known does not hold.
fn is_met(condition: &[TokenTree], features: &Features) -> bool {
    match condition {
        [TokenTree::Ident(word)] => *word == "test" || *word == "unix",
        [TokenTree::Ident(word), TokenTree::Punct(_), TokenTree::Literal(name)] => {
            *word == "feature" && features.contains(name.to_string().trim_matches('"'))
        }
        [TokenTree::Ident(word), TokenTree::Group(group)] => {
            let tokens = Tokens::of(group).0;
            let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(comma) if comma.as_char() == ',');
            let mut parts = tokens.split(is_comma).filter(|part| !part.is_empty()).map(|part| is_met(part, features));
            match word.to_string().as_str() {
                "any" => parts.any(|met| met),
                "all" => parts.all(|met| met),
                "not" => !parts.any(|met| met),
                _ => false,
            }
        }
        _ => false,
    }
}

impl Attribute {
    fn of(group: &Group) -> Self {
        let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
        let is_path = |token: &TokenTree| match token {
            TokenTree::Ident(_) => true,
            TokenTree::Punct(punct) => punct.as_char() == ':',
            _ => false,
        };
        let end = tokens.iter().position(|token| !is_path(token)).unwrap_or(tokens.len());
        let path = tokens.iter().take(end).map(ToString::to_string).collect();
        Self { path, rest: tokens.into_iter().skip(end).collect() }
    }
}

/// The items among `tokens`. None of them where an inner `cfg` switches off the whole.
pub(super) fn items(tokens: &Tokens, features: &Features) -> Vec<Item> {
    let mut items = Vec::new();
    let mut attributes = Attributes::default();
    let mut rest = tokens.0.as_slice();
    loop {
        let (item, taken) = match rest {
            [] => return items,
            [TokenTree::Punct(hash), TokenTree::Punct(bang), TokenTree::Group(group), ..]
                if hash.as_char() == '#' && bang.as_char() == '!' =>
            {
                if !Attributes(vec![Attribute::of(group)]).are_met(features) {
                    return Vec::new();
                }
                (None, 3)
            }
            [TokenTree::Punct(hash), TokenTree::Group(group), ..] if hash.as_char() == '#' => {
                attributes.0.push(Attribute::of(group));
                rest = rest.get(2..).unwrap_or_default();
                continue; // they stay for what follows
            }
            [TokenTree::Ident(word), TokenTree::Ident(name), after, ..] if *word == "mod" => {
                let body = match after {
                    TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(Tokens::of(group)),
                    _ => None,
                };
                let name = name.to_string();
                (Some(Item::Module { name, body, attributes: std::mem::take(&mut attributes) }), 3)
            }
            [TokenTree::Ident(word), TokenTree::Ident(name), ..] if *word == "fn" => {
                let name = name.to_string();
                (Some(Item::Function { name, attributes: std::mem::take(&mut attributes) }), 2)
            }
            [TokenTree::Ident(word), TokenTree::Punct(bang), TokenTree::Ident(name), TokenTree::Group(group), ..]
                if *word == "macro_rules" && bang.as_char() == '!' =>
            {
                (Some(Item::Definition { name: name.to_string(), body: Tokens::of(group) }), 4)
            }
            [TokenTree::Ident(name), TokenTree::Punct(bang), TokenTree::Group(group), ..] if bang.as_char() == '!' => {
                (Some(Item::Invocation { name: name.to_string(), body: Tokens::of(group) }), 3)
            }
            // The end of an item: attributes before it were its own.
            [TokenTree::Group(group), ..] if group.delimiter() == Delimiter::Brace => {
                attributes = Attributes::default();
                (None, 1)
            }
            [TokenTree::Punct(end), ..] if end.as_char() == ';' => {
                attributes = Attributes::default();
                (None, 1)
            }
            _ => (None, 1),
        };
        rest = rest.get(taken..).unwrap_or_default();
        items.extend(item.filter(|item| match item {
            Item::Function { attributes, .. } | Item::Module { attributes, .. } => attributes.are_met(features),
            Item::Definition { .. } | Item::Invocation { .. } => std::mem::take(&mut attributes).are_met(features),
        }));
    }
}

/// The tests, by name, of a macro that makes a module under the name it is given: `… => { mod $name { … } }`.
pub(super) fn module_of_tests(definition: &Tokens, features: &Features) -> Option<BTreeMap<String, bool>> {
    let made = definition.0.iter().filter_map(|token| match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(Tokens::of(group)),
        _ => None,
    });
    let body = made.filter_map(|made| {
        made.0.windows(4).find_map(|window| match window {
            [TokenTree::Ident(word), TokenTree::Punct(dollar), TokenTree::Ident(_), TokenTree::Group(group)]
                if *word == "mod" && dollar.as_char() == '$' =>
            {
                Some(Tokens::of(group))
            }
            _ => None,
        })
    });
    let tests: BTreeMap<String, bool> = body
        .flat_map(|body| items(&body, features))
        .filter_map(|item| match item {
            Item::Function { name, attributes } if attributes.is_test() => Some((name, !attributes.is_ignored())),
            _ => None,
        })
        .collect();
    (!tests.is_empty()).then_some(tests)
}

/// The first word that a macro is given, attributes passed over.
pub(super) fn first_word(body: &Tokens) -> Option<String> {
    body.0.iter().find_map(|token| match token {
        TokenTree::Ident(word) => Some(word.to_string()),
        _ => None,
    })
}
