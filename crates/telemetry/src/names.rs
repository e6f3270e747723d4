//! Every metric of the project: its name, unit, labels, and what it tells an operator.
//!
//! Label values are names of the topology or words from a fixed set; never an address, and never a tag except
//! in the per-tag families, which are capped. A program counts like this:
//!
//! ```
//! use weir_telemetry::names;
//! names::FORWARD_VIOLATIONS_TOTAL.with(["too_long"]).increment(1);
//! names::LOG_BYTES.with(["kafka-main"]).set(4096.0);
//! ```

use metrics::{Counter, Gauge, Histogram, Unit};

use crate::metric::{Entry, Handle, Metric, ShownCounter, ShownGauge};

/// Declares the metrics, and a list of them all.
macro_rules! catalogue {
    ($($handle:ident $constant:ident = $name:literal in $unit:ident by [$($label:literal),*]: $help:literal;)*) => {
        $(
            #[doc = $help]
            #[doc = concat!("\n\nShown as `", $name, "`.")]
            pub const $constant: Metric<$handle, { <[&str]>::len(&[$($label),*]) }> = Metric::declare(Entry {
                name: $name,
                kind: <$handle as Handle>::KIND,
                unit: Unit::$unit,
                labels: &[$($label),*],
                help: $help,
            });
        )*

        /// Every metric, in the order of this file.
        pub const ALL: &[Entry] = &[$(*$constant.entry()),*];
    };
}

catalogue! {
    // Edge: senders.
    Gauge FORWARD_CONNECTIONS = "weir_forward_connections" in Count by []:
        "Sender connections open now.";
    Counter FORWARD_CONNECTIONS_TOTAL = "weir_forward_connections_total" in Count by []:
        "Sender connections accepted.";
    Counter FORWARD_VIOLATIONS_TOTAL = "weir_forward_violations_total" in Count by ["reason"]:
        "Connections closed because the sender broke the protocol or a limit; the log names the sender.";
    Counter FORWARD_SKIPPED_TOTAL = "weir_forward_skipped_total" in Count by ["reason"]:
        "Entries left out of a chunk because they alone were malformed; the rest of the chunk was kept.";
    Counter FORWARD_ACKS_TOTAL = "weir_forward_acks_total" in Count by []:
        "Chunks acknowledged to senders.";
    Counter FORWARD_ACKS_UNREAD_TOTAL = "weir_forward_acks_unread_total" in Count by []:
        "Acknowledgements that were not written because the sender does not read; what it sent is kept all the same.";
    Counter FORWARD_REFUSED_TOTAL = "weir_forward_refused_total" in Count by ["listener", "reason"]:
        "Connections, handshakes or messages that a listener refused; the log names the sender, once in ten seconds.";
    Counter FORWARD_LIMITED_TOTAL = "weir_forward_limited_total" in Count by ["listener", "limit", "action"]:
        "Batches or connections that went beyond a limit, by what was done with them.";
    Counter FORWARD_DROPPED_EVENTS_TOTAL = "weir_forward_dropped_events_total" in Count by ["listener", "limit"]:
        "Events that were dropped, and acknowledged, because they went beyond a limit with the action drop.";
    Counter FORWARD_QUARANTINED_TOTAL = "weir_forward_quarantined_total" in Count by []:
        "Chunks that did not decode three times: kept in the quarantine directory of the edge, and acknowledged.";
    Counter FORWARD_HEARTBEATS_TOTAL = "weir_forward_heartbeats_total" in Count by []:
        "UDP heartbeats of senders that were answered.";
    Gauge FORWARD_HELD_BYTES = "weir_forward_held_bytes" in Bytes by []:
        "Memory that messages of senders take which are on no disk yet: a part of forward.memory, which bounds the process.";
    Gauge LOG_WAITING_BYTES = "weir_log_waiting_bytes" in Bytes by ["group"]:
        "Memory of batches that wait for room in the group's full log; at most the group's share of forward.memory.";
    Counter EDGE_EVENTS_TOTAL = "weir_edge_events_total" in Count by ["group"]:
        "Events taken in and routed to the group.";
    Counter EDGE_BYTES_TOTAL = "weir_edge_bytes_total" in Bytes by ["group"]:
        "Bytes of entries taken in and routed to the group, as they came (compressed where they came so).";
    Counter EDGE_UNROUTED_EVENTS_TOTAL = "weir_edge_unrouted_events_total" in Count by []:
        "Events that no route matched; they are dropped. Add a catch-all route.";

    // Edge: the log of each group.
    Gauge LOG_BYTES = "weir_log_bytes" in Bytes by ["group"]:
        "Bytes of the group's log on disk. Confirmed ones are given back in whole segments. When it reaches the quota, the overflow policy acts.";
    Gauge LOG_BATCHES = "weir_log_batches" in Count by ["group"]:
        "Batches in the group's log; 0 when the store has confirmed all of them.";
    Gauge LOG_OLDEST_SECONDS = "weir_log_oldest_seconds" in Seconds by ["group"]:
        "Age of the oldest segment of the log while there is anything in it that no store has confirmed; grows while the group's store is down.";
    Counter LOG_SYNCS_TOTAL = "weir_log_syncs_total" in Count by ["group"]:
        "Times the group's log was synced to disk.";
    Counter LOG_FULL_TOTAL = "weir_log_full_total" in Count by ["group", "policy"]:
        "Batches that met a full log, by what was done with them.";
    Gauge LOGS = "weir_logs" in Count by ["state"]:
        "Group logs on this edge: attached, draining (its group left the topology), detached (empty, or nobody knows its sinks).";
    Counter LOG_DROPPED_BATCHES_TOTAL = "weir_log_dropped_batches_total" in Count by ["group", "policy"]:
        "Batches that the overflow rule dropped, new ones or old ones; they are in no store.";
    Counter REPEATED_CHUNKS_TOTAL = "weir_repeated_chunks_total" in Count by ["group"]:
        "Chunks that a sender sent again and that were acknowledged without storing them again.";
    Gauge RECENT_CHUNKS = "weir_recent_chunks" in Count by ["group"]:
        "Chunks that the edge remembers, to know a sender's retry by.";
    Counter LOG_DAMAGED_TOTAL = "weir_log_damaged_total" in Count by ["group"]:
        "Damaged records set aside when the log was read; look at them with `weir log verify`.";

    // Edge: on the way to the sinks.
    Gauge DISPATCH_EPOCH = "weir_dispatch_epoch" in Count by ["group"]:
        "Version of who owns what in the group; every change of the live sinks makes a new one.";
    Gauge DISPATCH_INFLIGHT_BYTES = "weir_dispatch_inflight_bytes" in Bytes by ["group", "sink"]:
        "Bytes sent to the sink that are not committed yet.";
    Gauge DISPATCH_PENDING_BATCHES = "weir_dispatch_pending_batches" in Count by ["group"]:
        "Batches that are assigned to a sink and not committed yet.";
    Gauge DISPATCH_CREDIT_BYTES = "weir_dispatch_credit_bytes" in Bytes by ["group", "sink"]:
        "Bytes that the sink lets us send now; at 0 the edge waits in its log.";
    Gauge DISPATCH_PROMISED_PARTS = "weir_dispatch_promised_parts" in Count by ["group"]:
        "Parts promised to a sink whose commit is not known yet; a number that stays is a part in doubt.";
    Counter DISPATCH_COMMITTED_BATCHES_TOTAL = "weir_dispatch_committed_batches_total" in Count by ["group"]:
        "Batches that the group's store has confirmed.";
    Counter DISPATCH_FAILOVERS_TOTAL = "weir_dispatch_failovers_total" in Count by ["group"]:
        "Times that a sink of the group was given up and its batches went to another.";

    // Sink.
    Gauge SINK_EDGES = "weir_sink_edges" in Count by []:
        "Edges connected now.";
    Counter SINK_BATCHES_TOTAL = "weir_sink_batches_total" in Count by []:
        "Batches received from edges, those sent again included.";
    Counter SINK_EVENTS_TOTAL = "weir_sink_events_total" in Count by []:
        "Events received from edges, those sent again included.";
    Gauge SINK_RECENT_CHUNKS = "weir_sink_recent_chunks" in Count by []:
        "Chunks in the store that the sink remembers, to know them by when they come through another edge.";
    Counter SINK_REFUSED_TOTAL = "weir_sink_refused_total" in Count by ["reason"]:
        "Connections of edges that were refused, mostly over certificates; the log names the peer, once in ten seconds.";
    Counter SINK_REPEATED_BATCHES_TOTAL = "weir_sink_repeated_batches_total" in Count by []:
        "Batches that were not stored, as their chunks had come through another edge and are stored.";
    Gauge SINK_COMMITTING_PARTS = "weir_sink_committing_parts" in Count by []:
        "Parts that all their edges have promised and the store is committing; they are in doubt if the sink dies now.";
    Gauge STAGE_MEMORY_BYTES = "weir_stage_memory_bytes" in Bytes by []:
        "Bytes staged in memory until their part is committed.";
    Gauge STAGE_DISK_BYTES = "weir_stage_disk_bytes" in Bytes by []:
        "Bytes staged in spill files; above 0 the store is slower than the edges.";
    Counter PARTS_TOTAL = "weir_parts_total" in Count by ["outcome"]:
        "Parts that came to an end, by how.";
    Counter STORE_EVENTS_TOTAL = "weir_store_events_total" in Count by []:
        "Events that the store has confirmed.";
    Counter STORE_FILTERED_EVENTS_TOTAL = "weir_store_filtered_events_total" in Count by ["group"]:
        "Events that the group's transforms dropped, as asked for; their batches count as stored.";
    Counter STORE_BYTES_TOTAL = "weir_store_bytes_total" in Bytes by []:
        "Bytes written to the store and confirmed, as the store keeps them.";
    Counter STORE_ERRORS_TOTAL = "weir_store_errors_total" in Count by ["kind"]:
        "Calls to the store that failed; transient ones are tried again without end.";
    Histogram STORE_COMMIT_SECONDS = "weir_store_commit_seconds" in Seconds by []:
        "Time from a part's first write to the store's confirmation.";
    Counter STORE_DEAD_LETTERS_TOTAL = "weir_store_dead_letters_total" in Count by []:
        "Events that the store refused for good; they are in the group's dead letter store, with the reason.";

    // Controller.
    Gauge CONTROLLER_AGENTS = "weir_controller_agents" in Count by []:
        "Agents connected now; their nodes run on without us.";
    Gauge CONTROLLER_LEADING = "weir_controller_leading" in Count by []:
        "1 while this controller leads. The sum over all controllers should be 1.";
    Counter CONTROLLER_REFUSALS_TOTAL = "weir_controller_refusals_total" in Count by []:
        "Times an agent refused a revision; `weir rollout status` says who and why.";
    Counter CONTROLLER_HANDSHAKES_FAILED_TOTAL = "weir_controller_handshakes_failed_total" in Count by []:
        "Connections of agents that failed in the handshake, mostly over certificates.";
    Counter CONTROLLER_REQUESTS_TOTAL = "weir_controller_requests_total" in Count by ["class"]:
        "Requests to the API, by the class of the answer's status.";
    Histogram CONTROLLER_REQUEST_SECONDS = "weir_controller_request_seconds" in Seconds by []:
        "Time that the API took for a request; a stream of events counts until its first byte.";

    // Per tag, from the tag table.
    ShownCounter TAG_EVENTS_TOTAL = "weir_tag_events_total" in Count by ["tag", "direction"]:
        "Events by tag: taken in by an edge (in) or confirmed by a store (stored).";
    ShownCounter TAG_BYTES_TOTAL = "weir_tag_bytes_total" in Bytes by ["tag", "direction"]:
        "Bytes by tag: taken in by an edge (in) or confirmed by a store (stored).";
    ShownCounter TAG_OVERFLOW_TOTAL = "weir_tag_overflow_total" in Count by ["direction"]:
        "Times a tag was met that had to be counted under __other__, as the table of tags was full.";

    // Every node.
    ShownGauge CONFIG_INFO = "weir_config_info" in Count by ["revision"]:
        "Always 1; the label says which revision of the topology runs.";
    Counter CONFIG_APPLIED_TOTAL = "weir_config_applied_total" in Count by []:
        "Revisions of the topology that were taken up while running.";
    Counter CONFIG_REFUSED_TOTAL = "weir_config_refused_total" in Count by []:
        "Revisions of the topology that were refused; the one before runs on, and /health says why.";
    ShownGauge BUILD_INFO = "weir_build_info" in Count by ["version"]:
        "Always 1; the label says which version runs.";
    ShownGauge READY = "weir_ready" in Count by []:
        "1 when the node can do its work, else 0; /ready says why not.";
    ShownGauge RESIDENT_MEMORY_BYTES = "process_resident_memory_bytes" in Bytes by []:
        "Memory of the process that is in RAM.";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::metric::Kind;

    #[test]
    fn names_follow_the_conventions() {
        let mut seen = HashSet::new();
        for entry in ALL {
            let Entry { name, kind, unit, labels, help } = *entry;
            assert!(seen.insert(name), "{name} twice");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert!(name.starts_with("weir_") || name.starts_with("process_"), "{name}");
            assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}: _total is for counters");
            let stem = name.trim_end_matches("_total");
            for (of, suffix) in [(Unit::Bytes, "_bytes"), (Unit::Seconds, "_seconds")] {
                assert_eq!(unit == of, stem.ends_with(suffix), "{name}: name and unit disagree");
            }
            assert!(help.ends_with('.') && !help.contains('\n'), "{name}: one sentence");
            for label in labels {
                assert!(!["port", "addr", "peer"].contains(label), "{name}: {label} has no bound");
            }
        }
    }
}
