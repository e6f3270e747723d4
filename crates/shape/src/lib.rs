//! From a batch to what a store writes: transforms, lines of JSON, the partitions they belong to, and the packing of files.
//!
//! Start at [`each_event`]. What a group changes on the way, [`transform()`](transform::transform) has done before. Records are transcoded from MessagePack to JSON in one pass ([`write_json`]);
//! [`Partitioner`] says where in a store events go; [`Codec`] packs what is written.
//! Left out on purpose: files, topics, part sizes, which partitions of a batch are done already (all of that is
//! the stores'), and the metadata that Fluent Bit puts beside a record, which no format has a place for.

mod codec;
mod events;
mod json;
mod keys;
mod msgpack;
mod partition;
mod text;
mod time;
pub mod transform;

pub use codec::{Codec, CodecWriter};
pub use events::{Event, Format, ShapeError, UNPACKED_BYTES_MAX, each_event, each_event_of};
pub use json::{Transcoder, write_json};
/// Leaves some chunks out of a batch.
pub use weir_forward::keep_chunks;

pub use partition::{Partitioner, TagPartitions, TemplateError};
