//! Where a store's heavy work runs: on threads that may block, and that give way to the others.
//!
//! What a store writes lies in an edge's log and waits there without harm; who sends a batch, or asks for a promise, waits
//! for an answer. Where the cores are all busy, the answer comes first.

use std::cell::Cell;

use tokio::task::JoinError;

/// How far these threads give way to others of their process, as nice(2) counts: a third of the others' share.
const NICE: i32 = 5;

/// Runs `work` on a thread that may block and that gives way to the link and to the metrics page.
///
/// # Errors
/// `work` panicked, or the runtime is ending.
pub async fn background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    let task = tokio::task::spawn_blocking(|| {
        give_way();
        work()
    });
    task.await
}

/// Lowers the priority of this thread for as long as it lives: only a privileged process could raise it again.
fn give_way() {
    thread_local!(static DONE: Cell<bool> = const { Cell::new(false) });
    if !DONE.replace(true) {
        // On Linux a priority is a thread's own. Where it cannot be had, work is done all the same.
        let _ = rustix::process::nice(NICE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_work_gives_way_and_the_caller_does_not() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let inside = background(nice).await.unwrap();
        assert_eq!((inside, nice()), ((before + NICE).min(19), before));
    }
}
