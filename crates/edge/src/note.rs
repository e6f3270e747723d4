//! The note beside each group log: which sinks take its batches, and whether the topology still has the group.
//!
//! With it a log can be delivered although its group has left the topology, also after a restart, and `weir log list` can say
//! what a directory is without asking anybody.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use weir_model::NodeId;
use weir_routing::Member;
use weir_topology::{Affinity, Group};

const FILE: &str = "group.json";
const VERSION: u32 = 1;

/// What a group log is to the node that it lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogState {
    /// The topology has the group.
    Attached,
    /// The group has left the topology; what is in the log is still delivered to the sinks that it had.
    Draining,
    /// The group has left the topology, and nobody works on the log. A group of that id takes it up again.
    Detached,
}

impl std::fmt::Display for LogState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Attached => "attached",
            Self::Draining => "draining",
            Self::Detached => "detached",
        })
    }
}

/// The note beside a group log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogNote {
    version: u32,
    /// What the log is.
    pub state: LogState,
    /// Bytes that it may have on disk.
    pub quota_bytes: u64,
    pub(crate) rack_affinity: bool,
    pub(crate) sinks: Vec<NotedSink>,
}

/// A sink as the edge must know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NotedSink {
    pub(crate) name: NodeId,
    pub(crate) rack: String,
    pub(crate) address: String,
    pub(crate) weight: u32,
}

impl LogNote {
    /// The note of a group that the topology has.
    pub(crate) fn attached(group: &Group) -> Self {
        let sinks = group.sinks.iter().map(|sink| NotedSink {
            name: sink.name.clone(),
            rack: sink.rack.clone(),
            address: sink.address.clone(),
            weight: sink.weight,
        });
        Self {
            version: VERSION,
            state: LogState::Attached,
            quota_bytes: group.quota.0,
            rack_affinity: group.affinity == Affinity::Rack,
            sinks: sinks.collect(),
        }
    }

    /// The sinks as members of a ring.
    pub(crate) fn members(&self) -> Vec<Member> {
        let member = |sink: &NotedSink| Member {
            node: sink.name.clone(),
            weight: sink.weight,
            rack: sink.rack.clone(),
        };
        self.sinks.iter().map(member).collect()
    }

    /// Reads the note in `dir`, the directory of a log; `None` if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(dir.join(FILE)) {
            Ok(text) => {
                let note: Self = serde_json::from_slice(&text)?;
                let known = note.version == VERSION;
                known.then_some(Some(note)).ok_or_else(|| io::Error::other("it is of another version"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the note into `dir`, in the place of an earlier one.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        let temporary = dir.join(format!("{FILE}.new"));
        let mut file = File::create(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(temporary, dir.join(FILE))
    }
}
