//! `weir controller`: one controller, as its node file says; its state as a backup, and back.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use reqwest::Method;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use weir_controller::desk::Desk;
use weir_controller::state::{Embedded, Etcd, EtcdSettings, EtcdTls, Standing, State};
use weir_controller::tls::ServerTls;
use weir_controller::{Controller, ControllerSettings};
use weir_link::Settings;
use weir_telemetry::{Health, LogFormat, Logging, Page, Server};
use weir_topology::{ApiTls, ControllerConfig, StateConfig, Topology};

use crate::configuration;
use crate::fleet::Access;
use crate::node::{self, address};
use crate::systemd;

/// The file of an embedded state, in the data directory.
const STATE_FILE: &str = "controller.redb";

/// The file of the first admin token, in the data directory.
const TOKEN_FILE: &str = "admin.token";

/// How long a restore waits to lead: longer than the lease of a controller that died.
const LEAD_MAX: Duration = Duration::from_secs(30);

#[derive(Subcommand)]
pub(crate) enum ControllerCommand {
    /// Writes all that a running controller keeps (revisions, roll-outs, tokens as hashes, audit log) to a file.
    Backup {
        /// Where to.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        access: Access,
    },
    /// Puts a backup into the empty state of a controller that does not run.
    Restore {
        /// The node file of the controller.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// What `weir controller backup` wrote.
        #[arg(value_name = "BACKUP")]
        backup: PathBuf,
    },
}

/// Backs a controller's state up, or restores it.
pub(crate) async fn keep(command: ControllerCommand) -> anyhow::Result<ExitCode> {
    match command {
        ControllerCommand::Backup { file, access } => {
            let answer = access.client()?.call(Method::GET, "/backup", None).await?;
            let text = answer.as_str().context("the controller's answer is no backup")?;
            write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
            println!("{}", file.display());
        }
        ControllerCommand::Restore { config, backup } => {
            let config = configuration::controller(&config)?;
            let text = configuration::read(&backup)?;
            std::fs::create_dir_all(&config.data_dir)
                .with_context(|| format!("cannot make the data directory {}", config.data_dir.display()))?;
            let state = state(&config)?;
            lead(state.as_ref()).await?;
            let restored = weir_controller::backup::restore(state.as_ref(), &text).await;
            state.resign().await;
            let entries = restored.with_context(|| format!("{} is not restored", backup.display()))?;
            println!("{entries} entries restored; start the controllers");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until this process may change the state.
async fn lead(state: &dyn State) -> anyhow::Result<()> {
    let mut standing = state.standing();
    let led = tokio::time::timeout(LEAD_MAX, standing.wait_for(|now| *now == Standing::Leading)).await;
    match led {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => match &*state.standing().borrow() {
            Standing::Following(Some(api)) => {
                bail!("a controller leads at {api}; stop all controllers, then restore")
            }
            _ => bail!("the state cannot be reached; look at etcd"),
        },
    }
}

/// Writes a file for its owner alone, in one step.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(beside, path)
}

/// Runs a controller until it is told to stop.
pub(crate) async fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let config = configuration::controller(path)?;
    let format = match config.log.format {
        weir_topology::LogFormat::Text => LogFormat::Text,
        weir_topology::LogFormat::Json => LogFormat::Json,
    };
    Logging::init(&config.log.level, format)?;
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot make the data directory {}", config.data_dir.display()))?;

    let health = Health::new("controller", config.name.clone(), env!("CARGO_PKG_VERSION"));
    let pages = Server::start(address(&config.metrics).await?, Page::new(health.clone())).await?;
    let state = state(&config)?;
    let desk = Arc::new(Desk::new(Arc::clone(&state), Box::new(judge)));
    let tls = match &config.api_tls {
        ApiTls::Same => Some(ServerTls::load(&config.tls.cert, &config.tls.key)?),
        ApiTls::Own { cert, key } => Some(ServerTls::load(cert, key)?),
        ApiTls::Plain => None,
    };
    let api = address(&config.api).await?;
    let settings = ControllerSettings {
        api: TcpListener::bind(api).await.with_context(|| format!("cannot listen on {api} for the API"))?,
        tls,
        agents: address(&config.agents).await?,
        identity: node::identity(&config.name, &config.tls)?,
        link: Settings::default(),
        token_file: config.data_dir.join(TOKEN_FILE),
    };
    let controller = Controller::start(settings, desk, state, &health)?;
    eprintln!(
        "weir ready role=controller api={} agents={} metrics={}",
        controller.api(),
        controller.agents(),
        pages.local_addr()
    );
    stopped(&config, &controller).await?;
    systemd::stopping();
    controller.stop().await;
    pages.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Opens the state that the node file chose.
fn state(config: &ControllerConfig) -> anyhow::Result<Arc<dyn State>> {
    Ok(match &config.state {
        StateConfig::Embedded => Arc::new(Embedded::open(&config.data_dir.join(STATE_FILE))?),
        StateConfig::Etcd(etcd) => Arc::new(Etcd::start(EtcdSettings {
            endpoints: etcd.endpoints.clone(),
            prefix: etcd.prefix.clone(),
            tls: etcd.ca.clone().map(|ca| EtcdTls { ca, identity: etcd.identity.clone() }),
            api: etcd.advertise.clone(),
        })?),
    })
}

/// Whether every store takes its settings. Secrets are the nodes': none is asked for here.
fn judge(topology: &Topology) -> Result<(), String> {
    for group in &topology.groups {
        weir_sink::check_backend(group).map_err(|error| format!("group {}: {error:#}", group.id))?;
    }
    Ok(())
}

/// Returns when the process is asked to stop; reloads certificates at SIGHUP.
async fn stopped(config: &ControllerConfig, controller: &Controller) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    systemd::watchdog();
    systemd::ready();
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => {
                systemd::reloading();
                let reloaded = node::identity(&config.name, &config.tls).and_then(|identity| Ok(controller.reload(&identity)?));
                match reloaded {
                    Ok(()) => tracing::info!("certificates are read again, for connections from now on"),
                    Err(error) => tracing::error!("the old certificates stay: {error:#}"),
                }
                systemd::ready();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_needs_no_secret_of_a_node() {
        let topology = |password: &str| {
            let text = format!(
                "version = 1\n[cluster]\nname = \"t\"\n[[edge]]\nname = \"e\"\nrack = \"r\"\n[[group]]\nid = \"bus\"\n\
                 sink = [{{ name = \"bus-1\", rack = \"r\", address = \"127.0.0.1:1\" }}]\n\
                 [group.store]\nkind = \"kafka\"\nbrokers = [\"k:9092\"]\n[group.store.options]\n{password}\n\
                 [[route]]\nmatch = \"**\"\ngroups = [\"bus\"]\n"
            );
            weir_topology::parse_topology(&text, "t").map(|(topology, _)| topology)
        };
        let elsewhere = "\"sasl.password\" = { file = \"/only/on/the/nodes\" }";
        judge(&topology(elsewhere).expect("it is sound")).expect("it is taken");
        let unknown = "\"no.such.option\" = \"x\"";
        judge(&topology(unknown).expect("it is sound")).expect_err("no store has that option");
    }
}
