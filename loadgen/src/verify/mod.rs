//! `weir-loadgen verify`.

/// Options of `verify`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct VerifyArgs {}

/// Runs `verify`.
///
/// # Errors
/// Always: the stores cannot be read yet.
pub(crate) fn command(_args: VerifyArgs) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("verify is not written yet")
}
