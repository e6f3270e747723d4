//! `weir controller`: one controller, as its node file says.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use weir_controller::desk::Desk;
use weir_controller::state::{Embedded, Etcd, EtcdSettings, EtcdTls, State};
use weir_controller::tls::ServerTls;
use weir_controller::{Controller, ControllerSettings};
use weir_link::Settings;
use weir_telemetry::{Health, LogFormat, Logging, Page, Server};
use weir_topology::{ApiTls, ControllerConfig, StateConfig, Topology};

use crate::configuration;
use crate::node::{self, address};
use crate::systemd;

/// The file of an embedded state, in the data directory.
const STATE_FILE: &str = "controller.redb";

/// The file of the first admin token, in the data directory.
const TOKEN_FILE: &str = "admin.token";

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

/// Whether every store takes its settings.
fn judge(topology: &Topology) -> Result<(), String> {
    for group in &topology.groups {
        weir_sink::open_backend(group).map_err(|error| format!("group {}: {error:#}", group.id))?;
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
