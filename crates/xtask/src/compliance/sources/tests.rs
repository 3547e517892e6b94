//! A small workspace with everything in it that looks like a test.

use super::*;

const LIB: &str = r##"
//! #[test] fn in_a_doc_comment() {}
#![allow(dead_code)]
// #[test] fn in_a_comment() {}
/* #[test]
fn in_a_block_comment() {} */
const TEXT: &str = "#[test] fn in_a_string() {}";
const RAW: &str = r#"#[test] fn in_a_raw_string() {}"#;

mod inner;
mod old;

/// #[test]
fn documented() {}

#[test]
const NOT_FOR_THE_NEXT: u8 = 1;
fn without_attribute() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain() {}

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_a_runtime() {}

    #[test]
    #[should_panic]
    fn with_another_attribute() {}

    #[test]
    #[ignore = "slow"]
    fn left_out() {}

    #[cfg(feature = "none")]
    #[test]
    fn switched_off() {}

    #[cfg(any(feature = "extra", feature = "none"))]
    #[test]
    fn switched_on() {}

    #[cfg(all(feature = "usual", test))]
    #[test]
    fn switched_on_by_default() {}

    #[cfg(all(unix, feature = "none"))]
    #[test]
    fn switched_off_by_half() {}

    #[cfg(not(test))]
    #[test]
    fn for_no_test() {}

    #[cfg(any())]
    mod off {
        #[test]
        fn within_what_is_off() {}
    }

    fn helper() {
        #[test]
        fn within_a_function() {}
    }

    struct Thing;

    impl Thing {
        #[test]
        fn within_an_impl() {}
    }

    #[other::test]
    fn of_another_kind() {}

    swallowed! {
        #[test]
        fn within_a_macro() {}
    }

    proptest! {
        #![proptest_config(Config::default())]

        /// Whatever the number.
        #[test]
        fn a_property(number in 0..3_u8) { assert!(number < 3); }
    }

    proptest::proptest! {
        #[test]
        fn another_property(number in any::<u8>()) {}
        fn not_a_property(number in any::<u8>()) {}
    }
}
"##;

const MANIFEST: &str = r#"
[package]
name = "the-thing"

[features]
default = ["usual"]

[dev-dependencies]
the-thing = { path = ".", features = ["extra"] }
other = { path = "../other", features = ["none"] }
"#;

const SUITE: &str = r##"
#[path = "../shared/stage.rs"]
mod stage;
mod wake;

macro_rules! each_provider {
    ($(#[$doc:meta])* $name:ident, $options:expr) => {
        mod $name {
            #[tokio::test]
            async fn apns() {}
            #[tokio::test]
            async fn fcm() {}
            fn helper() {}
        }
    };
}

macro_rules! nothing {
    ($name:ident) => { mod $name { fn apns() {} } };
}

#[tokio::test]
async fn alone() {}
"##;

fn workspace() -> (tempfile::TempDir, Tests) {
    let dir = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put("crates/thing/Cargo.toml", MANIFEST);
    put("crates/thing/src/lib.rs", LIB);
    put("crates/thing/src/main.rs", "#[cfg(test)] mod tests { #[test] fn of_the_program() {} }");
    put("crates/thing/src/inner.rs", "mod deep;\n#[cfg(test)]\nmod tests;");
    put("crates/thing/src/inner/deep.rs", "#[test]\nfn deep() {}");
    put("crates/thing/src/inner/tests.rs", "#[test]\nfn beside() {}");
    put(
        "crates/thing/src/old/mod.rs",
        "#[cfg(unix)]\n#[test]\nfn in_the_old_place() {}\n#[cfg(windows)]\nmod elsewhere;",
    );
    put("crates/thing/src/forgotten.rs", "#[test]\nfn in_no_module() {}");
    put("crates/thing/tests/suite/main.rs", SUITE);
    put(
        "crates/thing/tests/suite/wake.rs",
        "/// Words.\neach_provider!(\n/// More words.\nanswered, None);\nnothing!(empty);",
    );
    put("crates/thing/tests/shared/stage.rs", "mod part;");
    put("crates/thing/tests/shared/part.rs", "#[test]\nfn shared() {}");
    put("crates/thing/tests/single.rs", "#[test]\nfn single() {}");
    put("crates/thing/examples/example.rs", "#[test]\nfn in_an_example() {}");
    let tests = Tests::of_workspace(dir.path()).unwrap();
    (dir, tests)
}

#[test]
fn tests_are_what_the_compiler_makes_tests_of() {
    let (_dir, tests) = workspace();
    let names: Vec<&str> = tests.all.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "the-thing::bin/the-thing::tests::of_the_program",
            "the-thing::inner::deep::deep",
            "the-thing::inner::tests::beside",
            "the-thing::old::in_the_old_place",
            "the-thing::single::single",
            "the-thing::suite::alone",
            "the-thing::suite::stage::part::shared",
            "the-thing::suite::wake::answered::apns",
            "the-thing::suite::wake::answered::fcm",
            "the-thing::tests::a_property",
            "the-thing::tests::another_property",
            "the-thing::tests::left_out",
            "the-thing::tests::plain",
            "the-thing::tests::switched_on",
            "the-thing::tests::switched_on_by_default",
            "the-thing::tests::with_a_runtime",
            "the-thing::tests::with_another_attribute",
        ]
    );
}

#[test]
fn claims_are_held_against_them() {
    let (_dir, tests) = workspace();
    for (claim, fault) in [
        ("the-thing::tests::plain", None),
        ("the-thing::suite::wake::answered::apns", None),
        ("the-thing::suite::wake::answered::*", None),
        ("the-thing::tests::left_out", Some("the-thing::tests::left_out does not run: it is ignored")),
        ("the-thing::tests::in_a_comment", Some("no test the-thing::tests::in_a_comment")),
        ("the-thing::tests::helper", Some("no test the-thing::tests::helper")),
        ("the-thing::plain", Some("no test the-thing::plain; there is the-thing::tests::plain")),
        ("the-thing::suite::wake::answered", Some("no test the-thing::suite::wake::answered")),
        // What a macro makes may be named as a whole; modules written by hand are named test by test.
        ("the-thing::tests::*", Some("no tests, one per push service, in the-thing::tests")),
        ("the-thing::suite::wake::empty::*", Some("no tests, one per push service, in the-thing::suite::wake::empty")),
        ("", Some("no test ")),
    ] {
        assert_eq!(tests.fault_of(claim).as_deref(), fault, "{claim}");
    }
}

#[test]
fn a_module_without_a_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("crates/thing/src");
    std::fs::create_dir_all(&source).unwrap();
    std::fs::write(dir.path().join("crates/thing/Cargo.toml"), "[package]\nname = \"thing\"\n").unwrap();
    std::fs::write(source.join("lib.rs"), "mod absent;").unwrap();
    let error = format!("{:#}", Tests::of_workspace(dir.path()).unwrap_err());
    assert!(error.ends_with("the module absent has no file"), "{error}");
    std::fs::write(source.join("lib.rs"), "fn broken( {").unwrap();
    let error = format!("{:#}", Tests::of_workspace(dir.path()).unwrap_err());
    assert!(error.contains("lib.rs") && error.contains("not Rust"), "{error}");
}

/// The workspace itself: this very test, one made by a macro, and one behind a feature that its package's tests switch on.
#[test]
fn the_workspace_is_read() {
    let tests = Tests::of_workspace(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap();
    for claim in [
        "xtask::bin/xtask::compliance::sources::tests::the_workspace_is_read",
        "reveille::e2e::wake::answered::*",
        "reveille-cluster::sim::tests::no_history_breaks_a_rule",
    ] {
        assert_eq!(tests.fault_of(claim), None);
    }
}
