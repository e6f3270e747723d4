//! Logs: to standard error, as text for a terminal or as JSON for a collector.

use std::io;

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt, reload};

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logs could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// Not a level, nor a list of targets with levels.
    #[error(
        "{level:?} is no log level; expected error, warn, info, debug, trace, or like \"info,weir_link=debug\""
    )]
    Level {
        /// As it was given.
        level: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// Logs were set up before; a process does that once.
    #[error("logs are set up already")]
    Twice(#[source] TryInitError),
}

/// The logs of this process, once set up.
#[derive(Debug, Clone)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Logging {
    /// Sets up the logs of this process, those of packages that use `log` included. `level` is a level, or levels
    /// by target: `info,weir_link=debug`.
    ///
    /// # Errors
    /// [`LoggingError`] when `level` means nothing, or when logs were set up before.
    pub fn init(level: &str, format: LogFormat) -> Result<Self, LoggingError> {
        let (filter, handle) = reload::Layer::new(parse(level)?);
        let lines =
            fmt::layer().with_writer(io::stderr).with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
        let lines = match format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().flatten_event(true).with_ansi(false).boxed(),
        };
        // This also takes what packages write through `log`.
        tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(LoggingError::Twice)?;
        Ok(Self { filter: handle })
    }

    /// Whether `level` means something.
    ///
    /// # Errors
    /// [`LoggingError::Level`] when it does not.
    pub fn check(level: &str) -> Result<(), LoggingError> {
        parse(level).map(drop)
    }

    /// Changes what is logged, while running.
    ///
    /// # Errors
    /// [`LoggingError::Level`] when `level` means nothing; what was set stays.
    pub fn set_level(&self, level: &str) -> Result<(), LoggingError> {
        let filter = parse(level)?;
        // Fails only when the subscriber is gone, and it lives as long as the process.
        let _ = self.filter.reload(filter);
        Ok(())
    }
}

fn parse(level: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder()
        .parse(level)
        .map_err(|source| LoggingError::Level { level: level.to_owned(), source })
}
