//! `weir status` through a controller: every node of the fleet, and how people say which controller.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _};
use reqwest::Method;
use serde_json::{Value, json};

use weir_controller::client::Client;

use crate::rollout::progress;
use crate::terminal::{Palette, size, table};
use crate::topology::Output;

/// Which controller, and as whom.
#[derive(Args)]
pub(crate) struct Access {
    /// Where a controller's API is; several, with commas.
    #[arg(long, env = "WEIR_CONTROLLER", value_name = "URL", value_delimiter = ',')]
    controller: Vec<String>,
    /// A file with a token of the controller.
    #[arg(long, env = "WEIR_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The certificate authority of an https URL.
    #[arg(long, env = "WEIR_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// For people or programs.
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

impl Access {
    /// Whether a controller is named at all.
    pub(crate) fn is_given(&self) -> bool {
        !self.controller.is_empty()
    }

    /// A client of that controller. Ends the process, as for wrong arguments, if no controller or no token is named.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let missing = |what: &str| -> ! {
            crate::Arguments::command().error(ErrorKind::MissingRequiredArgument, what).exit()
        };
        if !self.is_given() {
            missing("no controller: --controller or WEIR_CONTROLLER says where its API is");
        }
        let Some(file) = &self.token_file else {
            missing("no token: --token-file or WEIR_TOKEN_FILE says in which file one is");
        };
        let token = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the token in {}", file.display()))?;
        if self.ca.is_none() && self.controller.iter().any(|url| url.starts_with("https:")) {
            bail!("https needs --ca: the authority of the controller's certificate");
        }
        Ok(Client::new(&self.controller, self.ca.as_deref(), &token)?)
    }
}

/// Asks a controller and shows the fleet.
pub(crate) async fn status(access: &Access) -> anyhow::Result<ExitCode> {
    let client = access.client()?;
    let status = client.call(Method::GET, "/status", None).await?;
    let agents = client.call(Method::GET, "/agents", None).await?;
    let palette = Palette { colours: std::io::stdout().is_terminal() };
    print(access.output, &json!({"status": status, "agents": agents}), |answer| text(answer, palette));
    Ok(ExitCode::SUCCESS)
}

/// Prints an answer of the API, in words or as it came.
pub(crate) fn print(output: Output, answer: &Value, words: impl FnOnce(&Value) -> String) {
    match output {
        Output::Json => println!("{answer:#}"),
        Output::Text => print!("{}", words(answer)),
    }
}

pub(crate) fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// The fleet for people. What ails a node stands below it.
fn text(answer: &Value, palette: Palette) -> String {
    let status = &answer["status"];
    let stable =
        status["stable"]["number"].as_u64().map_or("no revision yet".to_owned(), |n| format!("revision {n}"));
    let mut words = format!(
        "{}: {} connected, {} away, {} unwell, {} refused\n",
        palette.strong(&stable),
        status["connected"],
        status["away"],
        status["unwell"],
        status["refused"]
    );
    if status["rollout"].is_object() {
        words.push_str(&progress(&status["rollout"]));
    }
    let agents = answer["agents"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut rows =
        vec![["NODE", "ROLE", "RACK", "REVISION", "LOGS", "EVENTS/S", "ERRORS/S"].map(str::to_owned)];
    rows.extend(agents.iter().map(|agent| {
        let logs = agent["logs"].as_array().into_iter().flatten().filter_map(|log| log["bytes"].as_f64());
        let rate = |what: &str| agent[what].as_f64().unwrap_or_default();
        [
            text_of(&agent["name"]).to_owned(),
            text_of(&agent["role"]).to_owned(),
            text_of(&agent["rack"]).to_owned(),
            agent["applied"]["number"].as_u64().map_or("-".to_owned(), |number| number.to_string()),
            // A sum of nothing would be -0.
            size(logs.fold(0.0, |sum, bytes| sum + bytes)),
            format!("{:.0}", rate("events_per_second")),
            format!("{:.1}", rate("errors_per_second")),
        ]
    }));
    let table = table(&rows);
    let mut lines = table.lines();
    words.push('\n');
    words.extend(lines.next().map(|head| format!("{head}\n")));
    // Mostly all run one program; then it is no news.
    let versions: std::collections::BTreeSet<&str> =
        agents.iter().map(|agent| text_of(&agent["version"])).collect();
    for (agent, line) in agents.iter().zip(lines) {
        words.push_str(&format!("{line}\n"));
        let mut ill = |text: String| words.push_str(&format!("  {}\n", palette.bad(&text)));
        if agent["connected"] == false {
            ill(format!("away since {}", text_of(&agent["since"])));
            continue;
        }
        if let Some(reason) = agent["refused"]["reason"].as_str() {
            let number = number(&agent["refused"]["revision"]["number"]);
            ill(format!("refused revision {number}: {}", reason.lines().next().unwrap_or_default()));
        }
        if let Some(ailment) = agent["ailment"].as_str() {
            ill(format!("unwell: {ailment}"));
        }
        if versions.len() > 1 {
            words.push_str(&format!("  version {}\n", text_of(&agent["version"])));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_read_in_80_columns() {
        let rollout = json!({
            "id": 120, "phase": "waiting_for_approval", "wave": 1, "from": {"number": 1119}, "to": {"number": 1120},
            "waves": [
                {"label": "canary", "nodes": 12, "applied": 12, "away": 0, "refused": 0},
                {"label": "rack fra-2-17", "nodes": 1000, "applied": 250, "away": 3, "refused": 0},
            ],
        });
        let agents: Vec<Value> = (990..=1010)
            .map(|n| {
                json!({
                    "name": format!("edge-{n}.fra2"), "role": "edge", "rack": "fra-2-17", "version": "0.1.0",
                    "connected": n != 1000, "since": "2026-11-25T16:00:00Z", "applied": {"number": 1120},
                    "refused": null, "ailment": (n == 991).then_some("store: down"),
                    "logs": [{"bytes": 987_654_321_012.0}, {"bytes": 1.0}],
                    "events_per_second": 1_234_567.8, "errors_per_second": 1234.56,
                })
            })
            .collect();
        let status = json!({
            "stable": {"number": 1119}, "connected": 999, "away": 1, "unwell": 1, "refused": 0, "rollout": rollout,
        });
        let shown = text(&json!({"status": status, "agents": agents}), Palette { colours: false });
        for line in shown.lines() {
            assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
        }
        let expected = "\
revision 1119: 999 connected, 1 away, 1 unwell, 0 refused
roll-out 120: revision 1120 in place of 1119, wave 2 of 2, waiting for approval
  WAVE           NODES  APPLIED  AWAY  REFUSED
  canary            12       12     0        0
> rack fra-2-17   1000      250     3        0

NODE            ROLE  RACK      REVISION       LOGS  EVENTS/S  ERRORS/S
edge-990.fra2   edge  fra-2-17      1120  919.8 GiB   1234568    1234.6
edge-991.fra2   edge  fra-2-17      1120  919.8 GiB   1234568    1234.6
  unwell: store: down
";
        assert!(shown.starts_with(expected), "{shown}");
        assert!(shown.contains("edge-1000.fra2  edge  fra-2-17      1120  919.8 GiB   1234568    1234.6\n  away since 2026-11-25T16:00:00Z\n"), "{shown}");
    }
}
