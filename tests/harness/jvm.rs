//! Java programs from the jars that `tests/prepare.sh` brings.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::paths::prepared;

/// What a short life on a small machine wants: the quick compiler only, the small collector, shared class data.
const FLAGS: [&str; 4] =
    ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Djava.net.preferIPv4Stack=true"];

/// A `java` command with the jars of `target/stores/STORE/lib`, found behind the configuration directory, and a bound
/// on the heap.
pub(crate) fn java(store: &str, conf: &Path, heap_mib_max: u32) -> Result<Command> {
    let mut class_path = OsString::from(conf);
    class_path.push(":");
    class_path.push(prepared(&format!("stores/{store}/lib"))?.join("*"));
    let mut command = Command::new("java");
    command.args(FLAGS).arg(format!("-Xmx{heap_mib_max}m")).arg("-cp").arg(class_path);
    Ok(command)
}
