//! Thirty ways to break a topology, each as a change to one that is right.

/// A change, and a piece of what the edge says about it.
pub(crate) struct Broken {
    pub(crate) what: &'static str,
    from: &'static str,
    to: &'static str,
    pub(crate) said: &'static str,
}

impl Broken {
    /// The broken text.
    pub(crate) fn of(&self, good: &str) -> String {
        assert!(good.contains(self.from), "{}: nothing to change", self.what);
        good.replacen(self.from, self.to, 1)
    }
}

const fn broken(what: &'static str, from: &'static str, to: &'static str, said: &'static str) -> Broken {
    Broken { what, from, to, said }
}

pub(crate) const TOPOLOGIES: &[Broken] = &[
    broken("no TOML", "version = 1", "version = = 1", "topology.toml:1:11: error"),
    broken("half a file", "[[route]]", "[[rou", "error"),
    broken("another version", "version = 1", "version = 7", "version 7"),
    broken("no version", "version = 1\n", "", "missing field `version`"),
    broken("no cluster", "[cluster]\nname = \"live\"\n", "", "names no cluster"),
    broken("an unknown key", "quota =", "qouta =", "did you mean \"quota\"?"),
    broken("an unknown table", "[[route]]", "[[rout]]", "unknown key `rout`"),
    broken("this edge is gone", "\"edge-1\"", "\"edge-2\"", "edge-1 is not an [[edge]]"),
    broken("a name of no node", "\"edge-1\"", "\"edge 1\"", "letters, digits"),
    broken("two nodes of one name", "name = \"a-2\"", "name = \"a-1\"", "there are two nodes"),
    broken("two groups of one id", "id = \"b\"", "id = \"a\"", "there are two groups"),
    broken("a quota without unit", "\"1GiB\"", "\"1GoB\"", "1GoB"),
    broken("a negative quota", "\"1GiB\"", "-1", "error"),
    broken("a weight of 0", "weight = 1", "weight = 0", "weight 0"),
    broken("a negative weight", "weight = 1", "weight = -1", "error"),
    broken("an address without port", "127.0.0.1:", "127.0.0.1/", "has no port"),
    broken(
        "a group without sinks",
        "id = \"b\"\nquota = \"1GiB\"\nsink = [",
        "id = \"b\"\nsink = []\nother = [",
        "no sinks",
    ),
    broken("a sink without rack", "rack = \"r1\", address", "address", "missing field `rack`"),
    broken("an unknown overflow", "quota = \"1GiB\"", "overflow = \"explode\"", "\"explode\" is not known"),
    broken("an unknown affinity", "quota = \"1GiB\"", "affinity = \"room\"", "\"room\" is not known"),
    broken("an unknown acknowledgement", "quota = \"1GiB\"", "ack = \"never\"", "\"never\" is not known"),
    broken("an unknown store", "kind = \"file\"", "kind = \"tape\"", "no store is of kind \"tape\""),
    broken("a store without kind", "kind = \"file\"\n", "", "no kind"),
    broken("a store without path", "path =", "#", "missing field `path`"),
    broken("an unknown codec", "shared = true", "shared = true\ncodec = \"rar\"", "\"rar\" is not known"),
    broken("a wrong partition", "shared = true", "partition = \"%Q\"", "partition"),
    broken(
        "an unknown transform",
        "[group.store]",
        "[[group.transform]]\nmangle = 'a'\n[group.store]",
        "no transform is called",
    ),
    broken(
        "a transform that is no regular expression",
        "[group.store]",
        "[[group.transform]]\ndrop = { field = 'a', match = '(' }\n[group.store]",
        "unclosed group",
    ),
    broken("shared as text", "shared = true", "shared = \"yes\"", "error"),
    broken("a pattern that is open", "\"app.*1\"", "\"app.{1\"", "the '{'"),
    broken("a regular expression", "\"app.*1\"", "\"/app.*/\"", "regular expressions"),
    broken("a route that matches nothing", "\"app.*1\"", "\" \"", "matches nothing"),
    broken("a route that leads nowhere", "groups = [\"b\"]", "groups = []", "leads nowhere"),
    broken("a route to no group", "groups = [\"b\"]", "groups = [\"d\"]", "there is no group \"d\""),
    broken("a route to one group twice", "groups = [\"b\"]", "groups = [\"b\", \"b\"]", "named twice"),
];
