//! Whether a text may become a revision, and what is wrong with it.

use std::path::Path;

use serde::Serialize;
use utoipa::ToSchema;
use weir_agent::talk::TEXT_BYTES_MAX;
use weir_topology::{Severity, StoreConfig, Topology, parse_topology};

use crate::secrets;

/// What problems call the text.
const FILE: &str = "topology.toml";

/// One thing that is wrong, or looks wrong, in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// `error` (the text is refused) or `warning`.
    pub severity: &'static str,
    /// Counted from 1; 0 when no one place is to blame.
    pub line: usize,
    /// Counted from 1, in characters; 0 when no one place is to blame.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What only the program with the stores can judge, such as a store's own settings.
pub type Judge = dyn Fn(&Topology) -> Result<(), String> + Send + Sync;

/// A text that may become a revision.
#[derive(Debug)]
pub struct Sound {
    /// What it says.
    pub topology: Topology,
    /// What looks wrong in it.
    pub warnings: Vec<Problem>,
}

/// Checks everything that can be checked without a node.
///
/// # Errors
/// All problems, warnings too; one at least is an error.
pub fn check(text: &str, judge: &Judge) -> Result<Sound, Vec<Problem>> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(vec![whole(format!("the text has {} bytes, more than {TEXT_BYTES_MAX}", text.len()))]);
    }
    let clear: Vec<Problem> = secrets::clear(text).into_iter().map(|clear| secret(text, &clear)).collect();
    let (topology, warnings) = match parse_topology(text, FILE) {
        Ok((topology, warnings)) => (topology, warnings),
        Err(problems) => {
            let mut problems: Vec<Problem> = problems.iter().map(Problem::from).collect();
            problems.extend(clear);
            problems.sort_by_key(|problem| (problem.line, problem.column));
            return Err(problems);
        }
    };
    let warnings: Vec<Problem> = warnings.iter().map(Problem::from).collect();
    let mut errors = clear;
    for group in &topology.groups {
        if let StoreConfig::File(store) = &group.store
            && store.path.is_relative()
        {
            let message = format!(
                "the path {} of group {} must be absolute: a revision lies in no directory",
                store.path.display(),
                group.id
            );
            errors.push(whole(message));
        }
    }
    let mut elsewhere = topology.clone();
    elsewhere.rebase(Path::new("/"));
    if errors.is_empty() && elsewhere != topology {
        let message = "the path of a certificate, or of the file of a secret, must be absolute: a revision lies in no \
                       directory";
        errors.push(whole(message.to_owned()));
    }
    let routes = topology.routes.iter().map(|route| (route.patterns.clone(), route.groups.clone()));
    if let Err(error) = weir_routing::Router::new(routes.collect()) {
        errors.push(whole(worded(&error)));
    } else if let Err(error) = judge(&topology) {
        errors.push(whole(error));
    }
    if errors.is_empty() {
        return Ok(Sound { topology, warnings });
    }
    errors.extend(warnings);
    Err(errors)
}

fn whole(message: String) -> Problem {
    Problem { severity: "error", line: 0, column: 0, message, hint: None }
}

fn secret(text: &str, clear: &secrets::Clear) -> Problem {
    let before = &text[..clear.span.start];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Problem {
        severity: "error",
        line: 1 + before.matches('\n').count(),
        column: 1 + before[line_start..].chars().count(),
        message: format!("`{}` holds a secret, and revisions are kept and shown", clear.key),
        hint: Some(
            "write { file = \"/path\" } or { env = \"NAME\" } instead, and give the secret to the nodes"
                .to_owned(),
        ),
    }
}

/// An error with its causes.
pub(crate) fn worded(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

impl From<&weir_topology::Problem> for Problem {
    fn from(problem: &weir_topology::Problem) -> Self {
        Self {
            severity: match problem.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            line: problem.line,
            column: problem.column,
            message: problem.message.clone(),
            hint: problem.hint.clone(),
        }
    }
}
