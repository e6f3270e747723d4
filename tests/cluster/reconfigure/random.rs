//! Random valid revisions of the test's cluster.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::cluster::{Cluster, SINKS, group};

pub(crate) struct Random(StdRng);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// Nodes that get new certificates: some, or none.
    pub(crate) fn names(&mut self) -> Vec<&'static str> {
        let mut names: Vec<_> = SINKS.iter().map(|(name, _)| *name).chain(["edge-1"]).collect();
        names.retain(|_| self.0.random_bool(0.2));
        if names.is_empty() { vec!["edge-1"] } else { names }
    }

    /// Another topology: groups come and go, sinks within a group and listeners too; weights, quotas, limits and routes
    /// change.
    pub(crate) fn topology(&mut self, cluster: &Cluster) -> String {
        let mut text =
            "version = 1\n[cluster]\nname = \"live\"\n[[edge]]\nname = \"edge-1\"\nrack = \"r1\"\n"
                .to_owned();
        text += &self.listeners(cluster);
        let mut ids = vec!["a", "b", "c"];
        ids.retain(|_| self.0.random_bool(0.8));
        if ids.is_empty() {
            ids.push("b");
        }
        for id in &ids {
            let mut weights = [(); 4].map(|()| self.0.random_range(1..=3));
            // One of the two sinks of group a may be out of service.
            if self.0.random_bool(0.4) {
                weights[self.0.random_range(0..2)] = 0;
            }
            let keys = format!(
                "quota = \"{}MiB\"\naffinity = \"{}\"\noverflow = \"block\"",
                self.0.random_range(200..2000),
                self.pick(&["none", "rack"]),
            );
            // Another store is another life of the sink.
            let store = if self.0.random_bool(0.2) { "codec = \"gzip\"" } else { "" };
            let mut tables = String::new();
            if self.0.random_bool(0.2) {
                tables += &format!("[group.part]\nage = \"{}ms\"\n", self.0.random_range(200..1500));
            }
            if self.0.random_bool(0.3) {
                // Steps that leave the records as the ledger knows them.
                let step = self.pick(&[
                    "add = { seq = \"${record.seq}\" }",
                    "rename = { message = \"m\" }\n[[group.transform]]\nrename = { m = \"message\" }",
                    "drop = { field = \"stream\", match = \"^nobody\" }",
                ]);
                tables += &format!("[[group.transform]]\n{step}\n");
            }
            text += &group(id, &weights, &cluster.links, &keys, store, &tables);
        }
        for _ in 0..self.0.random_range(0..6) {
            let pattern = match self.0.random_range(0..4) {
                0 => format!("app.*{}", self.0.random_range(0..10)),
                1 => format!("app.{{1,2,3{}}}", self.0.random_range(0..10)),
                2 => format!("client.{}", self.0.random_range(0..3)),
                _ => format!("app.{}* client.**", self.0.random_range(1..4)),
            };
            text += &format!("[[route]]\nmatch = \"{pattern}\"\ngroups = [\"{}\"]\n", self.pick(&ids));
        }
        text + &format!("[[route]]\nmatch = \"**\"\ngroups = [\"{}\"]\n", self.pick(&ids))
    }

    /// Listeners open and close beside the one that is in use, whose limits change.
    fn listeners(&mut self, cluster: &Cluster) -> String {
        let mut text = format!(
            "[forward]\nmax_connections = {}\nidle_timeout = \"{}s\"\n[[forward.limit]]\nname = \"flood\"\nper = \"{}\"\nevents = {}\naction = \"slow\"\n",
            self.0.random_range(1_000..100_000),
            self.0.random_range(60..600),
            self.pick(&["connection", "source", "listener"]),
            self.0.random_range(100_000..1_000_000),
        );
        if self.0.random_bool(0.5) {
            text += "[[listener]]\nname = \"forward\"\n";
            text += &format!("[[listener]]\nname = \"beside\"\naddress = \"127.0.0.1:{}\"\n", cluster.beside);
        }
        text
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from.choose(&mut self.0).copied().unwrap_or_default()
    }
}
