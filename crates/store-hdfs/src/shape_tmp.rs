#[derive(Debug, Clone, Copy)]
pub enum Format {
    Envelope,
}
#[derive(Debug, Clone, Copy)]
pub enum Codec {
    None,
    Gzip,
}
#[derive(Debug, Clone, Copy, Default)]
pub struct Partitioner;
impl Partitioner {
    pub fn partitions(&self, h: &weir_model::BatchHeader) -> Vec<weir_store::Partition> {
        h.minutes
            .iter()
            .map(|m| format!("{}/{}", h.tag, m.minute / 60).into())
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect()
    }
}
