//! Calls to one HDFS cluster, each with a deadline.
//!
//! hdfs-native waits for a silent NameNode for ever, and its stuck connection goes on counting as alive. So every
//! call runs as a task of its own under a deadline, and after one that passed the whole client is thrown away:
//! its runtime too, since the client's lease renewal is a task that never ends and would keep it alive.
//! A task also catches the panic that the library's pipeline recovery can end in.
//!
//! Left out on purpose: retries, and what an error means for a part.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hdfs_native::{Client, ClientBuilder, HdfsError};
use parking_lot::Mutex;
use tokio::runtime::Runtime;

use crate::settings::HdfsSettings;

/// Threads that move the data of one cluster's files.
const THREADS: usize = 2;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// HDFS answered, or the connection to it failed.
    #[error("HDFS refused")]
    Hdfs(#[from] HdfsError),
    /// No answer within the deadline: it may or may not have taken effect, and may yet.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// The call's task ended without an answer: the client was thrown away under it, or it panicked.
    #[error("the client was lost during the call")]
    Lost,
    /// There is no client.
    #[error("no client could be made")]
    Client(#[source] std::io::Error),
}

impl CallError {
    /// Whether HDFS said that there is no such file or directory.
    pub(crate) fn not_found(&self) -> bool {
        match self {
            Self::Hdfs(HdfsError::FileNotFound(_)) => true,
            Self::Hdfs(HdfsError::RPCError(class, _)) => class == "java.io.FileNotFoundException",
            _ => false,
        }
    }
}

/// One HDFS cluster, with at most one client at a time.
pub(crate) struct Cluster {
    settings: Arc<HdfsSettings>,
    session: Mutex<Option<Arc<Session>>>,
}

/// A client and the runtime that its tasks and calls run on.
struct Session {
    client: Client,
    // Taken on drop.
    runtime: Option<Runtime>,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Drops the tasks where they stand, the stuck ones too, and closes their connections.
            runtime.shutdown_background();
        }
    }
}

impl Cluster {
    pub(crate) fn new(settings: Arc<HdfsSettings>) -> Self {
        Self { settings, session: Mutex::new(None) }
    }

    /// Makes one call to the NameNode.
    pub(crate) async fn call<T, F, Fut>(&self, call: F) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: FnOnce(Client) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, HdfsError>> + Send + 'static,
    {
        self.run(move |client, deadline| async move { within(deadline, call(client)).await }).await
    }

    /// Runs a series of calls. Each must be kept [`within`] the deadline that `work` is given.
    pub(crate) async fn run<T, F, Fut>(&self, work: F) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: FnOnce(Client, Duration) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, CallError>> + Send + 'static,
    {
        let session = self.session()?;
        let runtime = session.runtime.as_ref().ok_or(CallError::Lost)?;
        let deadline = self.settings.deadline;
        let client = session.client.clone();
        let task = runtime.spawn(async move { work(client, deadline).await });
        let answer = task.await.unwrap_or(Err(CallError::Lost));
        if matches!(answer, Err(CallError::Deadline(_) | CallError::Lost)) {
            self.discard(&session);
        }
        answer
    }

    fn session(&self) -> Result<Arc<Session>, CallError> {
        let mut current = self.session.lock();
        if let Some(session) = current.as_ref() {
            return Ok(Arc::clone(session));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("hdfs")
            .enable_all()
            .build()
            .map_err(CallError::Client)?;
        let client = self.settings.client(ClientBuilder::new().with_io_runtime(runtime.handle().clone()))?;
        let session = Arc::new(Session { client, runtime: Some(runtime) });
        *current = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Gives `session` up, unless another call already has.
    fn discard(&self, session: &Arc<Session>) {
        let mut current = self.session.lock();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            tracing::warn!(url = self.settings.url, "giving up a client of HDFS that does not answer");
            *current = None;
        }
    }
}

/// Waits for `call` at most until the deadline.
pub(crate) fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, HdfsError>>,
) -> impl Future<Output = Result<T, CallError>> {
    // On the heap: a file's futures have tens of kilobytes.
    let call = Box::pin(call);
    async move {
        match tokio::time::timeout(deadline, call).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(CallError::Deadline(deadline)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::TcpListener;

    use super::*;

    fn cluster(port: u16) -> Cluster {
        let mut settings = HdfsSettings::new(format!("hdfs://127.0.0.1:{port}"), "/weir");
        settings.deadline = Duration::from_millis(50);
        settings.options = HashMap::from([("dfs.client.failover.max.attempts".into(), "0".into())]);
        Cluster::new(Arc::new(settings))
    }

    // A NameNode that takes connections and says nothing: the kernel answers for a stopped process.
    #[tokio::test]
    async fn a_silent_namenode_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cluster = cluster(listener.local_addr().unwrap().port());
        for _ in 0..2 {
            let answer = cluster.call(|client| async move { client.get_file_info("/").await }).await;
            assert!(matches!(answer, Err(CallError::Deadline(_))), "{answer:?}");
            assert!(cluster.session.lock().is_none(), "the stuck client must not be used again");
        }
    }

    #[tokio::test]
    async fn a_panic_loses_the_call_only() {
        let cluster = cluster(1);
        let answer =
            cluster.call(|_| async { panic!("as the pipeline recovery may") as Result<(), _> }).await;
        assert!(matches!(answer, Err(CallError::Lost)), "{answer:?}");
        let answer = cluster.call(|client| async move { client.get_file_info("/").await }).await;
        assert!(matches!(answer, Err(CallError::Hdfs(_))), "nothing listens on port 1: {answer:?}");
    }
}
