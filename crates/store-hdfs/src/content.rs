//! What a part's files hold.
use crate::settings::HdfsSettings;
use bytes::Bytes;
use weir_store::{Committed, Part, Partition, StoreError};

pub(crate) struct File {
    pub(crate) partition: Partition,
    pub(crate) bytes: Bytes,
}
pub(crate) struct Contents {
    pub(crate) files: Vec<File>,
    pub(crate) committed: Committed,
}
pub(crate) fn suffix(_s: &HdfsSettings) -> String {
    ".jsonl".into()
}
pub(crate) async fn of(part: &Part, settings: &HdfsSettings) -> Result<Contents, StoreError> {
    let mut files: std::collections::BTreeMap<Partition, Vec<u8>> = Default::default();
    let mut committed = Committed::default();
    for b in &part.batches {
        let l = b.payload.load().unwrap();
        let mut r = &l[..];
        let ps = settings.partitioner.partitions(&b.header);
        while !r.is_empty() {
            let (t, v): (u64, std::collections::BTreeMap<String, u64>) =
                rmp_serde::from_read(&mut r).unwrap();
            let p: Partition = format!("{}/{}", b.header.tag, t / 3600).into();
            assert!(ps.contains(&p));
            if b.done.contains(&p) {
                continue;
            }
            let f = files.entry(p).or_default();
            f.extend_from_slice(format!("{t} {v:?}\n").as_bytes());
            committed.events += 1;
        }
    }
    let files = files
        .into_iter()
        .map(|(partition, b)| {
            committed.bytes += b.len() as u64;
            File { partition, bytes: b.into() }
        })
        .collect();
    Ok(Contents { files, committed })
}
