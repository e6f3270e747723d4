//! Where tests may let a commit fail or die.

use std::io;
#[cfg(test)]
use std::sync::Arc;

/// What a commit is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make a temporary file.
    Create,
    /// Bring a temporary file to the disk.
    Sync,
    /// Make a partition's directory.
    MakeDirectory,
    /// Give a file its final name.
    Link,
    /// Remove a temporary file.
    Unlink,
    /// Bring the final names to the disk.
    SyncNames,
}

/// Nothing at all, but in tests.
#[derive(Clone, Default)]
pub(crate) struct Steps {
    #[cfg(test)]
    pub(crate) hook: Option<Arc<dyn Fn(Step) -> io::Result<()> + Send + Sync>>,
}

impl Steps {
    /// Called before each step. An error takes the step's place.
    pub(crate) fn before(&self, _step: Step) -> io::Result<()> {
        #[cfg(test)]
        if let Some(hook) = &self.hook {
            return hook(_step);
        }
        Ok(())
    }
}
