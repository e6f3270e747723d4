//! Logs are set up once per process, so these steps are one test in a process of its own.

use weir_telemetry::{LogFormat, Logging, LoggingError};

#[test]
fn levels_are_checked_set_once_and_changed_live() {
    let error = Logging::init("loud=very", LogFormat::Json).unwrap_err();
    assert!(matches!(&error, LoggingError::Level { level, .. } if level == "loud=very"), "{error}");

    let logging = Logging::init("warn,weir_link=debug", LogFormat::Json).unwrap();
    assert!(tracing::enabled!(target: "weir_link", tracing::Level::DEBUG));
    assert!(!tracing::enabled!(target: "weir_spool", tracing::Level::INFO));
    assert!(matches!(Logging::init("info", LogFormat::Text), Err(LoggingError::Twice(_))));

    logging.set_level("error").unwrap();
    assert!(!tracing::enabled!(target: "weir_link", tracing::Level::DEBUG));
    assert!(!tracing::enabled!(tracing::Level::WARN));
    // Packages that use `log` are asked for no more than is wanted, and for as much.
    assert_eq!(tracing_log::log::max_level(), tracing_log::log::LevelFilter::Error);
    logging.set_level("debug").unwrap();
    assert_eq!(tracing_log::log::max_level(), tracing_log::log::LevelFilter::Debug);
    assert!(logging.set_level("=").is_err());
    assert!(tracing::enabled!(tracing::Level::DEBUG), "what was set stays");
}
