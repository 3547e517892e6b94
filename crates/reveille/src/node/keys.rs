//! Keys that a node makes for itself and keeps: what it sealed before a restart must be readable after it.

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use anyhow::{Context, bail};
use reveille_edge::{TokenKey, TokenRing};

/// The node's own keys.
pub(super) struct NodeKeys {
    /// Seals flow tokens (S-127).
    pub(super) tokens: TokenRing,
}

const KEY_LENGTH: usize = 32;

impl NodeKeys {
    /// Reads the keys from `data_dir`, or makes them there, readable by nobody else.
    pub(super) fn load(data_dir: &Path) -> anyhow::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .with_context(|| format!("node.data_dir: {} cannot be made", data_dir.display()))?;
        let secret = load_or_make(&data_dir.join("flow-token.key"))?;
        Ok(Self { tokens: TokenRing::new(TokenKey::new(0, &secret), []) })
    }
}

fn load_or_make(path: &Path) -> anyhow::Result<Vec<u8>> {
    if let Ok(secret) = fs::read(path) {
        if secret.len() != KEY_LENGTH {
            bail!(
                "node.data_dir: {} is damaged; remove it to have a new one made (calls in progress lose their way)",
                path.display()
            );
        }
        return Ok(secret);
    }
    let secret: [u8; KEY_LENGTH] = rand::random();
    // Written beside and renamed, so that a crash leaves either no key or a whole one.
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .with_context(|| format!("node.data_dir: {} cannot be written", fresh.display()))?;
    file.write_all(&secret)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    Ok(secret.to_vec())
}
