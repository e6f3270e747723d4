//! The log reader: whatever lies in a segment file, reading it ends, and it shows no record that is not sound.
#![no_main]

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use weir_model::Seq;
use weir_spool::inspect::{self, Item};

/// In memory where there is such a place; one for each process.
static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let shm = PathBuf::from("/dev/shm");
    let base = if shm.is_dir() { shm } else { std::env::temp_dir() };
    let dir = base.join(format!("weir-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory for segments");
    dir
});

fuzz_target!(|input: &[u8]| {
    // The name that the first segment of a log has.
    let path = DIR.join("00000000000000000001.seg");
    std::fs::write(&path, input).expect("a segment");
    let mut next = 0;
    let visited = inspect::visit(&DIR, Seq(0), |_, item| {
        if let Item::Record { record, .. } = item {
            assert!(record.seq.0 >= next, "records go up");
            next = record.seq.0 + 1;
        }
        ControlFlow::Continue(())
    });
    let _ = (visited, inspect::verify(&DIR));
});
