//! Agents and a controller over real sockets, with nodes that only pretend.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use weir_agent::{Adopt, Agent, AgentSettings, Standing, Vitals};
use weir_controller::desk::{Desk, StartRequest};
use weir_controller::rollout::{By, Phase, Policy};
use weir_controller::state::Memory;
use weir_controller::{Controller, ControllerSettings};
use weir_link::ca::Authority;
use weir_link::{Dialer, Identity, Settings};
use weir_model::NodeId;
use weir_telemetry::Health;

const LONG: Duration = Duration::from_secs(60);

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn topology(edges: usize, quota: &str) -> String {
    let edges: String =
        (1..=edges).map(|n| format!("[[edge]]\nname = \"edge-{n}\"\nrack = \"r1\"\n")).collect();
    format!(
        "version = 1\n[cluster]\nname = \"test\"\n{edges}[[group]]\nid = \"app\"\nquota = \"{quota}\"\n\
         sink = [{{ name = \"app-1\", rack = \"r1\", address = \"127.0.0.1:1\" }}]\n\
         [group.store]\nkind = \"file\"\npath = \"/srv\"\n[[route]]\nmatch = \"**\"\ngroups = [\"app\"]\n"
    )
}

/// A node that pretends.
#[derive(Default)]
struct Pretender {
    runs: Mutex<String>,
    refuses: Mutex<Option<String>>,
    sick: AtomicBool,
    errs: AtomicBool,
    adopted: AtomicUsize,
}

#[async_trait]
impl Adopt for Pretender {
    async fn adopt(&self, text: &str) -> Result<(), String> {
        if self.refuses.lock().as_ref().is_some_and(|what| text.contains(what)) {
            return Err("this node does not like it".to_owned());
        }
        *self.runs.lock() = text.to_owned();
        self.adopted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn vitals(&self) -> Vitals {
        let ailment = self.sick.load(Ordering::SeqCst).then(|| "store: down".to_owned());
        // A thousand errors in a second, from the first one on.
        let errors_total = match self.errs.load(Ordering::SeqCst) {
            true => jiff::Timestamp::now().as_millisecond() as f64,
            false => 0.0,
        };
        Vitals { ailment, errors_total, ..Vitals::default() }
    }
}

struct Running {
    pretender: Arc<Pretender>,
    standing: watch::Receiver<Standing>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    kept: PathBuf,
}

struct Scene {
    dir: tempfile::TempDir,
    authority: Authority,
    controller: Option<Controller>,
    address: SocketAddr,
    agents: BTreeMap<String, Running>,
}

fn identity(authority: &Authority, name: &str) -> Identity {
    let issued = authority.issue(&node(name), &[], 30).unwrap();
    Identity::load(&issued.ca, &issued.cert, &issued.key).unwrap()
}

fn small() -> Settings {
    let quick = (Duration::from_secs(3), Duration::from_millis(500));
    Settings {
        dial_sockets: 1,
        socket_buffer: 256 << 10,
        idle_timeout: quick.0,
        keep_alive: quick.1,
        ..Settings::default()
    }
}

impl Scene {
    async fn new(names: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("tls")).unwrap();
        let mut scene = Self {
            dir,
            authority,
            controller: None,
            address: ([127, 0, 0, 1], 0).into(),
            agents: BTreeMap::new(),
        };
        scene.control().await;
        for name in names {
            scene.agent(name);
        }
        scene
    }

    /// A controller that knows nothing yet, at the address of the one before.
    async fn control(&mut self) {
        let state = Arc::new(Memory::default());
        let desk = Arc::new(Desk::new(state.clone(), Box::new(|_| Ok(()))));
        let health = Health::new("controller", node("controller-1"), "test");
        let began = Instant::now();
        // The socket of the one before may live a moment longer than it does.
        let controller = loop {
            let settings = ControllerSettings {
                api: TcpListener::bind("127.0.0.1:0").await.unwrap(),
                tls: None,
                agents: self.address,
                identity: identity(&self.authority, "controller-1"),
                link: small(),
                token_file: self.dir.path().join("admin.token"),
            };
            match Controller::start(settings, desk.clone(), state.clone(), &health) {
                Ok(controller) => break controller,
                Err(error) => assert!(began.elapsed() < LONG, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        self.address = controller.agents();
        self.controller = Some(controller);
    }

    fn agent(&mut self, name: &str) {
        let pretender = self.agents.remove(name).map_or_else(Arc::default, |old| old.pretender);
        let kept = self.dir.path().join(format!("{name}.toml"));
        let settings = AgentSettings {
            role: if name.starts_with("edge") { "edge" } else { "sink" }.to_owned(),
            rack: "r1".to_owned(),
            version: "test".to_owned(),
            kept: kept.clone(),
            controllers: vec![weir_agent::Controller {
                name: node("controller-1"),
                address: self.address.to_string(),
            }],
        };
        let dialer = Arc::new(Dialer::new(&identity(&self.authority, name), small()).unwrap());
        let applied = weir_agent::load(&kept).unwrap().map(|kept| kept.revision);
        let agent = Agent::new(settings, dialer, pretender.clone(), applied);
        let (standing, stop) = (agent.standing(), CancellationToken::new());
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { agent.run(stop).await }
        });
        self.agents.insert(name.to_owned(), Running { pretender, standing, stop, task, kept });
    }

    async fn stop_agent(&mut self, name: &str) {
        let running = &self.agents[name];
        running.stop.cancel();
        let running = self.agents.get_mut(name).unwrap();
        (&mut running.task).await.unwrap();
    }

    fn desk(&self) -> &Arc<Desk> {
        self.controller.as_ref().unwrap().desk()
    }

    async fn upload(&self, text: &str) -> u64 {
        self.desk().upload(text, "", "test").await.unwrap().revision.number
    }

    async fn start(&self, revision: u64) {
        let policy = Policy { settle_seconds: 0, ..Policy::default() };
        self.desk().start(StartRequest { revision, order: By::default(), policy }, "test").await.unwrap();
    }

    async fn phase(&self, what: &str, test: impl Fn(&Phase) -> bool) -> Phase {
        let began = Instant::now();
        loop {
            let phase = self.desk().current().await.unwrap().unwrap().phase;
            if test(&phase) {
                return phase;
            }
            assert!(began.elapsed() < LONG, "no {what}: {phase:?}, {:?}", self.desk().fleet.all());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until(&self, what: &str, test: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !test(self) {
            assert!(began.elapsed() < LONG, "not {what}: {:?}", self.desk().fleet.all());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn runs(&self, name: &str) -> String {
        self.agents[name].pretender.runs.lock().clone()
    }
}

fn done(phase: &Phase) -> bool {
    matches!(phase, Phase::Done { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_reach_all_and_refusals_none() {
    let names = ["edge-1", "edge-2", "edge-3", "app-1"];
    let mut scene = Scene::new(&names).await;
    scene.until("connected", |scene| scene.desk().fleet.count() == 4).await;

    let first = topology(3, "1GiB");
    scene.start(scene.upload(&first).await).await;
    scene.phase("end", done).await;
    for name in names {
        assert_eq!(scene.runs(name), first);
        let kept = weir_agent::load(&scene.agents[name].kept).unwrap().unwrap();
        assert_eq!((kept.revision.number, kept.text.as_str()), (1, first.as_str()));
    }

    // Refused by the canary: nobody else gets it.
    *scene.agents["edge-1"].pretender.refuses.lock() = Some("2GiB".to_owned());
    let bad = scene.upload(&topology(3, "2GiB")).await;
    scene.start(bad).await;
    let phase = scene.phase("roll-back", |phase| matches!(phase, Phase::RolledBack { .. })).await;
    assert!(format!("{phase:?}").contains("edge-1 refused: this node does not like it"), "{phase:?}");
    for name in names {
        assert_eq!(scene.runs(name), first, "{name}");
    }
    assert_eq!(scene.agents["edge-3"].pretender.adopted.load(Ordering::SeqCst), 1, "it never saw the second");

    // Refused again, halted by choice, mended on the node, resumed.
    let policy = Policy {
        settle_seconds: 0,
        on_failure: weir_controller::rollout::OnFailure::Halt,
        ..Policy::default()
    };
    scene.desk().start(StartRequest { revision: bad, order: By::default(), policy }, "test").await.unwrap();
    scene.phase("halt", |phase| matches!(phase, Phase::Halted { .. })).await;
    *scene.agents["edge-1"].pretender.refuses.lock() = None;
    scene.desk().resume("test").await.unwrap();
    scene.phase("end", done).await;
    for name in names {
        assert_eq!(scene.runs(name), topology(3, "2GiB"), "{name}");
    }

    // A canary falls ill some time after it applied.
    let third = scene.upload(&topology(3, "3GiB")).await;
    let policy = Policy { settle_seconds: 600, unwell_seconds: 1, ..Policy::default() };
    scene.desk().start(StartRequest { revision: third, order: By::default(), policy }, "test").await.unwrap();
    scene.phase("watch", |phase| matches!(phase, Phase::Settling { .. })).await;
    scene.agents["app-1"].pretender.sick.store(true, Ordering::SeqCst);
    let phase = scene.phase("roll-back", |phase| matches!(phase, Phase::RolledBack { .. })).await;
    assert!(format!("{phase:?}").contains("app-1 unwell: store: down"), "{phase:?}");
    assert_eq!(scene.runs("app-1"), topology(3, "2GiB"));

    // What happened can be read.
    let (events, _) = scene.desk().events.subscribe(0);
    for kind in [
        "agent.connected",
        "agent.refused",
        "agent.unwell",
        "rollout.started",
        "rollout.done",
        "rollout.rolled_back",
    ] {
        assert!(events.iter().any(|event| event.kind == kind), "{kind}");
    }
    scene.controller.take().unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn racks_wait_for_a_person_and_rising_errors_take_all_back() {
    let names = ["edge-1", "edge-2", "app-1"];
    let mut scene = Scene::new(&names).await;
    scene.until("connected", |scene| scene.desk().fleet.count() == 3).await;
    let in_racks =
        |quota: &str| topology(2, quota).replace("\"edge-2\"\nrack = \"r1\"", "\"edge-2\"\nrack = \"r2\"");
    let (first, second) = (in_racks("1GiB"), in_racks("2GiB"));
    let revision = scene.upload(&first).await;
    let policy = Policy { settle_seconds: 0, approval: true, ..Policy::default() };
    scene.desk().start(StartRequest { revision, order: By::Rack, policy }, "test").await.unwrap();
    scene.phase("wait for a person", |phase| matches!(phase, Phase::Waiting { .. })).await;
    assert_eq!((scene.runs("edge-1"), scene.runs("app-1")), (first.clone(), first.clone()));
    assert_eq!(scene.runs("edge-2"), "", "its rack is the second");
    scene.desk().approve("test").await.unwrap();
    scene.phase("end", done).await;
    assert_eq!(scene.runs("edge-2"), first);

    let revision = scene.upload(&second).await;
    let policy = Policy { settle_seconds: 600, unwell_seconds: 1, ..Policy::default() };
    scene.desk().start(StartRequest { revision, order: By::default(), policy }, "test").await.unwrap();
    scene.phase("watch", |phase| matches!(phase, Phase::Settling { .. })).await;
    assert_eq!(scene.runs("edge-1"), second);
    scene.agents["edge-1"].pretender.errs.store(true, Ordering::SeqCst);
    let phase = scene.phase("roll-back", |phase| matches!(phase, Phase::RolledBack { .. })).await;
    assert!(format!("{phase:?}").contains("errors/s"), "{phase:?}");
    for name in names {
        assert_eq!(scene.runs(name), first, "{name}");
    }
    scene.controller.take().unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_run_on_without_a_controller_and_meet_a_new_one() {
    let mut scene = Scene::new(&["edge-1", "app-1"]).await;
    let first = topology(1, "1GiB");
    scene.until("connected", |scene| scene.desk().fleet.count() == 2).await;
    scene.start(scene.upload(&first).await).await;
    scene.phase("end", done).await;

    // The controller goes, and what it knew.
    scene.controller.take().unwrap().stop().await;
    let mut standing = scene.agents["edge-1"].standing.clone();
    standing.wait_for(|standing| standing.controller.is_none()).await.unwrap();
    assert_eq!(standing.borrow().applied.as_ref().unwrap().number, 1, "it still runs");
    // A node that restarts meanwhile knows what it ran.
    scene.stop_agent("app-1").await;
    scene.agent("app-1");
    assert_eq!(scene.agents["app-1"].standing.borrow().applied.as_ref().unwrap().number, 1);

    // A new one, which knows nothing: nobody is told anything, until there is a revision.
    scene.control().await;
    scene.until("back", |scene| scene.desk().fleet.count() == 2).await;
    for agent in scene.desk().fleet.all() {
        assert_eq!(agent.applied.unwrap().hash, weir_agent::hash(&first));
    }
    assert_eq!(scene.desk().stable().await.unwrap(), None);
    // The same text again: it is known by its content, and not applied again.
    scene.upload(&topology(1, "9GiB")).await;
    scene.start(scene.upload(&first).await).await;
    scene.phase("end", done).await;
    scene
        .until("renumbered", |scene| {
            scene
                .desk()
                .fleet
                .all()
                .iter()
                .all(|agent| agent.applied.as_ref().is_some_and(|applied| applied.number == 2))
        })
        .await;
    for running in scene.agents.values() {
        assert_eq!(running.pretender.adopted.load(Ordering::SeqCst), 1);
    }
    // A node that comes later gets what the fleet runs.
    scene.agent("edge-2");
    scene.until("the newcomer has it", |scene| scene.runs("edge-2") == first).await;
    scene.controller.take().unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_nodes_of_the_cluster_are_let_in() {
    let mut scene = Scene::new(&[]).await;
    let other = tempfile::tempdir().unwrap();
    let stranger = identity(&Authority::create(&other.path().join("tls")).unwrap(), "edge-1");
    let dialer = Dialer::new(&stranger, small()).unwrap();
    let refused = dialer.dial(&scene.address.to_string(), &node("controller-1")).await;
    assert!(refused.is_err());
    // A second process of the same name takes the first one's place.
    scene.agent("edge-1");
    scene.until("connected", |scene| scene.desk().fleet.count() == 1).await;
    let friend = Dialer::new(&identity(&scene.authority, "edge-1"), small()).unwrap();
    let connection = friend.dial(&scene.address.to_string(), &node("controller-1")).await.unwrap();
    // What is no talk is refused on its own connection.
    let (mut sender, _receiver) = connection.open_control().await.unwrap();
    sender.send("nonsense".into()).await.unwrap();
    let closed = tokio::time::timeout(LONG, connection.closed()).await.unwrap();
    assert!(closed.to_string().contains("no hello"), "{closed}");
    assert_eq!(scene.desk().fleet.count(), 1);
    scene.controller.take().unwrap().stop().await;
}

/// A reader of the API's stream of events, over a socket of its own.
struct Reader {
    response: reqwest::Response,
    text: String,
}

impl Reader {
    /// `after` is the id of the last event that it knows.
    async fn open(scene: &Scene, after: Option<u64>) -> Self {
        let url = format!("http://{}/api/v1/events", scene.controller.as_ref().unwrap().api());
        let token = std::fs::read_to_string(scene.dir.path().join("admin.token")).unwrap();
        let tls = weir_controller::tls::client(None, None).unwrap();
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
        let mut request = client.get(url).bearer_auth(token.trim());
        if let Some(after) = after {
            request = request.header("last-event-id", after.to_string());
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    async fn next(&mut self) -> Event {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
                let event = field("data: ").map(|data| {
                    let event: Event = serde_json::from_str(data).unwrap();
                    assert_eq!(field("event: "), Some(event.kind.as_str()));
                    assert_eq!(field("id: "), Some(event.id.to_string().as_str()));
                    event
                });
                self.text = rest.to_owned();
                match event {
                    Some(event) => return event,
                    None => continue, // a sign of life
                }
            }
            let chunk = tokio::time::timeout(LONG, self.response.chunk()).await.expect("no event came");
            self.text.push_str(std::str::from_utf8(&chunk.unwrap().expect("the stream ended")).unwrap());
        }
    }

    /// Reads on to an event of that kind about that subject.
    async fn until(&mut self, kind: &str, subject: &str) -> Event {
        loop {
            let event = self.next().await;
            if event.kind == kind && (event.subject == subject || subject == ANY) {
                return event;
            }
        }
    }
}

/// Every subject.
const ANY: &str = "*";

#[derive(Debug, serde::Deserialize)]
struct Event {
    id: u64,
    kind: String,
    subject: String,
    text: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_what_happens_as_it_happens() {
    let mut scene = Scene::new(&["edge-1", "edge-2", "app-1"]).await;
    scene.until("connected", |scene| scene.desk().fleet.count() == 3).await;
    let token = scene.dir.path().join("admin.token");
    scene.until("the first token", |_| token.exists()).await;
    let mut reader = Reader::open(&scene, None).await;

    let revision = scene.upload(&topology(2, "1GiB")).await;
    let created = reader.until("revision.created", "1").await;
    scene.start(revision).await;
    assert_eq!(reader.until("rollout.started", "1").await.text, "revision 1");
    assert_eq!(reader.until("rollout.applying", "1").await.text, "wave 2 of 2");
    let done = reader.until("rollout.done", "1").await;
    assert!(done.id > created.id);
    scene.stop_agent("edge-2").await;
    reader.until("agent.lost", "edge-2").await;
    scene.agent("edge-2");
    let back = reader.until("agent.connected", "edge-2").await;

    // One that was cut off says what it read last, and gets all that came after, in order and once.
    drop(reader);
    let mut reader = Reader::open(&scene, Some(created.id)).await;
    let (missed, _) = scene.desk().events.subscribe(created.id);
    for event in missed {
        assert_eq!(reader.next().await.id, event.id);
    }
    scene.upload(&topology(2, "2GiB")).await;
    let last = reader.until("revision.created", "2").await;

    // From another controller too, which has events of its own.
    scene.controller.take().unwrap().stop().await;
    drop(reader);
    scene.control().await;
    scene.until("back", |scene| scene.desk().fleet.count() == 3).await;
    scene.until("its first token", |scene| !scene.desk().tokens().is_empty()).await;
    let mut reader = Reader::open(&scene, Some(last.id)).await;
    for _ in 0..3 {
        let event = reader.until("agent.connected", ANY).await;
        assert!(event.id > last.id && last.id > back.id);
    }
    scene.controller.take().unwrap().stop().await;
}

/// CPU time of the threads of that name, in clock ticks of 10 ms.
fn cpu(name: &str) -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
    let ticks = tasks.filter_map(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let (head, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<u64> = fields.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
        head.ends_with(&format!("({name}")).then(|| fields[11] + fields[12])
    });
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// `WEIR_AGENTS=1000 cargo test --release -p weir-controller --test agents -- --nocapture many` prints figures.
#[tokio::test(flavor = "multi_thread")]
async fn many_agents_get_a_revision_while_the_api_answers() {
    let count: usize = std::env::var("WEIR_AGENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let own = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("controller")
        .enable_all()
        .build()
        .unwrap();
    let mut scene = own.spawn(async { Scene::new(&[]).await }).await.unwrap();
    let empty = resident_mib();
    let began = Instant::now();
    for n in 1..count {
        scene.agent(&format!("edge-{n}"));
    }
    scene.agent("app-1");
    scene.until("all connected", |scene| scene.desk().fleet.count() == count).await;
    let connected = began.elapsed();
    let (busy, full) = (cpu("controller"), resident_mib());

    let url = format!("http://{}", scene.controller.as_ref().unwrap().api());
    let token = std::fs::read_to_string(scene.dir.path().join("admin.token")).unwrap();
    let client = weir_controller::client::Client::new(&[url], None, &token).unwrap();
    let asking = tokio::spawn(async move {
        let mut took = Vec::new();
        loop {
            let began = Instant::now();
            let status = client.call(reqwest::Method::GET, "/status", None).await.unwrap();
            took.push(began.elapsed());
            if status["rollout"]["phase"] == "done" {
                took.sort();
                return took;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let revision = scene.upload(&topology(count - 1, "1GiB")).await;
    let began = Instant::now();
    scene.start(revision).await;
    scene
        .until("all applied", |scene| {
            scene.agents.values().all(|agent| agent.pretender.adopted.load(Ordering::SeqCst) == 1)
        })
        .await;
    let applied = began.elapsed();
    scene.phase("end", done).await;
    let done = began.elapsed();
    let took = asking.await.unwrap();
    let spent = cpu("controller") - busy;

    // Everybody is lost at once, and comes back to another controller.
    let controller = scene.controller.take().unwrap();
    own.spawn(controller.stop()).await.unwrap();
    let began = Instant::now();
    let scene = own
        .spawn(async move {
            scene.control().await;
            scene
        })
        .await
        .unwrap();
    scene.until("all back", |scene| scene.desk().fleet.count() == count).await;
    eprintln!(
        "{count} agents: connected in {connected:.1?}; roll-out to all applied {applied:.2?}, to done {done:.2?}; \
         controller's CPU {busy:.1?} to connect, {spent:.1?} to roll out; {} KiB for each agent and its other end; \
         API median {:.1?}, p99 {:.1?}; all back at a new controller after {:.1?}",
        (full - empty) * 1024 / count as u64,
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        began.elapsed(),
    );
    assert!(took[took.len() / 2] < Duration::from_secs(1), "the API is slow");
    drop(scene);
    own.shutdown_background();
}
