//! Where things lie: the repository, what is built, what `tests/prepare.sh` brought.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// Where everything built or downloaded lies: `target/` of the repository, or `CARGO_TARGET_DIR`.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository().join("target"), |dir| repository().join(dir))
}

/// The `weir` program under test: `WEIR_BINARY`, or the release build.
///
/// # Errors
/// If it is not there; the message says how to build it.
pub fn weir_binary() -> Result<PathBuf> {
    binary("WEIR_BINARY", "weir")
}

/// The `weir-loadgen` program: `WEIR_LOADGEN_BINARY`, or the release build.
///
/// # Errors
/// If it is not there; the message says how to build it.
pub fn loadgen_binary() -> Result<PathBuf> {
    binary("WEIR_LOADGEN_BINARY", "weir-loadgen")
}

fn binary(variable: &str, name: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable).map_or_else(|| target().join("release").join(name), PathBuf::from);
    if !path.is_file() {
        bail!("{} is missing: run `cargo build --release` or set {variable}", path.display());
    }
    Ok(path)
}

/// Something below `target/` that `tests/prepare.sh` brings.
pub(crate) fn prepared(below_target: &str) -> Result<PathBuf> {
    let path = target().join(below_target);
    if !path.exists() {
        bail!("{} is missing: run tests/prepare.sh", path.display());
    }
    Ok(path)
}

/// Runs a command to its end and gives its standard output.
pub(crate) fn output(command: &mut std::process::Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot run {shown}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{shown}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}
