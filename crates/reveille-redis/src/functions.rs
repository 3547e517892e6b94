//! The server-side functions: as a library of Redis Functions where the server has and allows them (7.0 and later), else as
//! scripts.

use std::sync::atomic::{AtomicBool, Ordering};

use redis::{Arg, Cmd, Pipeline};
use ring::digest;

/// The functions' text. Part of the library's name is a number; two versions of this software run side by side during an upgrade.
const SOURCE: &str = include_str!("functions.lua");
/// Raise it with every change of the text; a test holds the two together.
const VERSION: u32 = 2;

/// One of the functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Write,
    Claim,
    Release,
    Defer,
    Settle,
    Renew,
    Resign,
    Announce,
    Share,
}

impl Function {
    const ALL: [Function; 9] = [
        Function::Write,
        Function::Claim,
        Function::Release,
        Function::Defer,
        Function::Settle,
        Function::Renew,
        Function::Resign,
        Function::Announce,
        Function::Share,
    ];

    fn name(self) -> &'static str {
        match self {
            Function::Write => "write",
            Function::Claim => "claim",
            Function::Release => "release",
            Function::Defer => "defer",
            Function::Settle => "settle",
            Function::Renew => "renew",
            Function::Resign => "resign",
            Function::Announce => "announce",
            Function::Share => "share",
        }
    }
}

/// How the functions are called here: their names and hashes, made once.
pub(crate) struct Functions {
    scripts: AtomicBool,
    names: Vec<(String, String)>,
}

impl Functions {
    pub(crate) fn new() -> Self {
        let name = |function: Function| {
            let script = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, script(function).as_bytes());
            (format!("reveille{VERSION}_{}", function.name()), hex::encode(script))
        };
        Functions { scripts: AtomicBool::new(false), names: Function::ALL.into_iter().map(name).collect() }
    }

    /// Whether scripts stand in for functions.
    pub(crate) fn uses_scripts(&self) -> bool {
        self.scripts.load(Ordering::Relaxed)
    }

    /// The server has no functions, or does not let us use them.
    pub(crate) fn use_scripts(&self) {
        if !self.scripts.swap(true, Ordering::Relaxed) {
            tracing::info!("Redis Functions are absent or forbidden; scripts are used instead");
        }
    }

    /// Begins a call: the keys and arguments follow.
    pub(crate) fn call(&self, function: Function, keys: &[&str]) -> Cmd {
        let (name, hash) = &self.names[function as usize];
        let mut cmd = match self.uses_scripts() {
            true => redis::cmd("EVALSHA"),
            false => redis::cmd("FCALL"),
        };
        cmd.arg(if self.uses_scripts() { hash } else { name }).arg(keys.len());
        for key in keys {
            cmd.arg(*key);
        }
        cmd
    }

    /// The same call in the way that is in use by now.
    pub(crate) fn again(&self, cmd: &Cmd) -> Cmd {
        let mut args = cmd.args_iter().filter_map(|arg| match arg {
            Arg::Simple(octets) => Some(octets),
            _ => None,
        });
        let (old, called) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
        let known = self.names.iter().find(|(name, hash)| [name.as_bytes(), hash.as_bytes()].contains(&called));
        let (verb, called) = match (known, self.uses_scripts()) {
            (Some((_, hash)), true) => (&b"EVALSHA"[..], hash.as_bytes()),
            (Some((name, _)), false) => (&b"FCALL"[..], name.as_bytes()),
            (None, _) => (old, called),
        };
        let mut again = Cmd::new();
        again.arg(verb).arg(called);
        for arg in args {
            again.arg(arg);
        }
        again
    }

    /// What to send so that the server knows the functions.
    pub(crate) fn load(&self) -> Pipeline {
        let mut pipeline = redis::pipe();
        if self.uses_scripts() {
            for function in Function::ALL {
                pipeline.cmd("SCRIPT").arg("LOAD").arg(script(function));
            }
        } else {
            pipeline.cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(library());
        }
        pipeline
    }
}

fn library() -> String {
    let mut library = format!("#!lua name=reveille{VERSION}\n{SOURCE}");
    for function in Function::ALL {
        let name = function.name();
        library.push_str(&format!("redis.register_function('reveille{VERSION}_{name}', {name})\n"));
    }
    library
}

fn script(function: Function) -> String {
    format!("{SOURCE}\nreturn {}(KEYS, ARGV)\n", function.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes of different versions share a Redis: one name must never stand for two texts.
    #[test]
    fn the_text_and_its_number_change_together() {
        let hash = hex::encode(digest::digest(&digest::SHA256, SOURCE.as_bytes()));
        assert_eq!((VERSION, hash.as_str()), (2, HASH), "raise VERSION, then note the new hash here");
    }

    #[test]
    fn a_call_can_be_made_anew_in_the_other_way() {
        let functions = Functions::new();
        let mut call = functions.call(Function::Claim, &["k1", "k2"]);
        call.arg("owner").arg(5);
        functions.use_scripts();
        let mut expected = functions.call(Function::Claim, &["k1", "k2"]);
        expected.arg("owner").arg(5);
        assert_eq!(functions.again(&call).get_packed_command(), expected.get_packed_command());
        assert!(expected.get_packed_command().starts_with(b"*7\r\n$7\r\nEVALSHA\r\n$40\r\n"));
    }

    const HASH: &str = "66fe4cfd9e5b5b28823bbc557864bec9b985974d18d221e780f622385ffd9fd6";
}
