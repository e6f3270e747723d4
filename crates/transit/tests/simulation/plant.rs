//! Faults planted in the drivers around the machines, which the rules must find.

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plant {
    Nothing,
    /// An edge acknowledges what it has only written.
    AckBeforeSync,
    /// An edge reports its journal durable before it is.
    PromiseBeforeSync,
    /// A sink commits without having been promised anything.
    CommitWithoutPromise,
    /// A restarted edge has forgotten what it promised.
    ForgetPromiseOnRestart,
    /// Whoever settles a part looks first and fences later.
    LookBeforeFence,
    /// Whoever settles a part does not fence.
    NoFence,
    /// A sink writes a part without the batches of an edge that did not answer, under the same id.
    PartWithoutSilentEdge,
    /// An edge sends a half-done batch again whole.
    HalfDoneWhole,
    /// The record of an edge's start is not kept.
    SkipEpochRecord,
    /// An edge trims what it has sent.
    TrimOnSend,
    /// A restarted edge has forgotten which chunks it took.
    ForgetChunksOnRestart,
    /// An edge trims before the chunks are written down.
    TrimBeforeSaved,
    /// An edge does not tell a sink which chunks came through it.
    DenyChunks,
    /// A sink does not look whether it has a chunk already.
    BlindToTwins,
    /// A new sink commits without waiting for the edges that have not come yet.
    UnawareOfEdges,
}

impl Plant {
    /// All, with the rules that may find each.
    pub(crate) const ALL: &[(Self, &[&str])] = &[
        (Self::AckBeforeSync, &["acknowledged is durable"]),
        (Self::PromiseBeforeSync, &["commit needs a durable promise"]),
        (Self::CommitWithoutPromise, &["commit needs a durable promise"]),
        (Self::ForgetPromiseOnRestart, &["stored once", "commit needs a durable promise"]),
        (Self::LookBeforeFence, &["stored once", "commit needs a durable promise"]),
        (Self::NoFence, &["stored once", "commit needs a durable promise"]),
        (
            Self::PartWithoutSilentEdge,
            &["stored once", "a part id is one set", "commit needs a durable promise"],
        ),
        (Self::HalfDoneWhole, &["stored once"]),
        (Self::SkipEpochRecord, &["epochs go forward"]),
        (Self::TrimOnSend, &["trimmed is stored"]),
        (Self::ForgetChunksOnRestart, &["stored once"]),
        (Self::TrimBeforeSaved, &["stored once"]),
        (Self::DenyChunks, &["stored once"]),
        (Self::BlindToTwins, &["stored once"]),
        (Self::UnawareOfEdges, &["stored once"]),
    ];
}
