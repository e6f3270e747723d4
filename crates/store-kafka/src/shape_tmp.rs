use weir_store::PartBatch;
#[derive(Debug, Clone, Copy)]
pub enum Format {
    Envelope,
}
pub(crate) fn each(
    batch: &PartBatch,
    mut f: impl FnMut(i64, &[u8]) -> Result<(), crate::producer::Failure>,
) -> Result<(), crate::producer::Failure> {
    let b = batch.payload.load().unwrap();
    let mut r = &b[..];
    while !r.is_empty() {
        let (t, v): (u64, std::collections::BTreeMap<String, String>) = rmp_serde::from_read(&mut r).unwrap();
        let s = serde_json::json!({"time":t,"tag":&*batch.header.tag,"record":v}).to_string();
        f(t as i64 * 1_000_000_000, s.as_bytes())?;
    }
    Ok(())
}
