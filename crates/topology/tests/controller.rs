//! The node file of a controller: what is read, and what is reported of a wrong one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use weir_topology::{ApiTls, ControllerConfig, StateConfig, is_controller, parse_controller};

const FILE: &str = r#"name = "controller-1"
role = "controller"
data_dir = "data"
[tls]
ca = "ca.crt"
cert = "controller-1.crt"
key = "controller-1.key"
"#;

fn parsed(text: &str) -> ControllerConfig {
    parse_controller(text, "controller.toml").unwrap()
}

#[test]
fn the_short_file_is_enough() {
    let mut config = parsed(FILE);
    assert!(is_controller(FILE) && !is_controller(&FILE.replace("\"controller\"", "\"edge\"")));
    assert_eq!((config.api.as_str(), config.agents.as_str()), ("127.0.0.1:24230", "0.0.0.0:24231"));
    assert_eq!((&config.state, &config.api_tls), (&StateConfig::Embedded, &ApiTls::Same));
    config.rebase("/etc/weir".as_ref());
    assert_eq!(config.data_dir.to_str(), Some("/etc/weir/data"));
    assert_eq!(parsed(&format!("state = \"embedded\"\n{FILE}")).state, StateConfig::Embedded);
}

#[test]
fn one_line_chooses_etcd() {
    let config = parsed(&format!("state = {{ etcd = [\"http://a:2379\", \"http://b:2379\"] }}\n{FILE}"));
    let StateConfig::Etcd(etcd) = config.state else { panic!("{:?}", config.state) };
    assert_eq!(etcd.endpoints, ["http://a:2379", "http://b:2379"]);
    assert_eq!((etcd.prefix.as_str(), etcd.advertise.as_str()), ("/weir", "https://127.0.0.1:24230"));
    let text = format!(
        "state = {{ etcd = [\"https://a:2379\"], prefix = \"/x\", ca = \"e.crt\", cert = \"c\", key = \"k\" }}\n{FILE}[api]\nadvertise = \"https://ctl:1\"\n"
    );
    let mut config = parsed(&text);
    config.rebase("/d".as_ref());
    let StateConfig::Etcd(etcd) = config.state else { panic!("{:?}", config.state) };
    assert_eq!(etcd.ca.as_deref(), Some("/d/e.crt".as_ref()));
    assert_eq!(etcd.identity, Some(("/d/c".into(), "/d/k".into())));
    assert_eq!(etcd.advertise, "https://ctl:1");
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    // Put before the file, or after it; then `line:column`, a piece of the message, a piece of the hint.
    let before: &[(&str, &str, &str, &str)] = &[
        ("state = \"etcd\"\n", "1:9", "\"etcd\" is not known", "state.etcd = ["),
        ("state = { etcd = [] }\n", "1:18", "needs an endpoint", "all its members"),
        ("state = { etcd = [\"a:2379\"] }\n", "1:19", "not the URL", "http://host:port"),
        ("state = { etcd = [\"https://a:1\"] }\n", "1:9", "whom to trust", "ca ="),
        ("state = { etcd = [\"http://a:1\"], cert = \"c\" }\n", "1:41", "go together", "both cert and key"),
        ("topology = \"t\"\n", "1:1", "unknown key `topology`", ""),
    ];
    let after: &[(&str, &str, &str, &str)] = &[
        ("[api]\nkey = \"k\"\n", "9:7", "go together", "[api]"),
        ("[api]\nplain = true\n[listen]\napi = \"0.0.0.0:1\"\n", "9:9", "in clear", "127.0.0.1"),
        ("[listen]\nlink = \"0.0.0.0:1\"\n", "9:1", "unknown key `link`", "api"),
        ("[listen]\napi = \"x\"\n", "9:7", "has no port", "host:port"),
    ];
    let texts = before.iter().map(|case| (format!("{}{FILE}", case.0), case));
    let texts = texts.chain(after.iter().map(|case| (format!("{FILE}{}", case.0), case)));
    for (text, (_, place, message, hint)) in texts {
        let problems = parse_controller(&text, "c").unwrap_err();
        let found = problems.iter().find(|problem| problem.message.contains(message));
        let found = found.unwrap_or_else(|| panic!("{text}: {problems:?}"));
        assert_eq!(format!("{}:{}", found.line, found.column), *place, "{text}");
        assert!(found.hint.as_deref().unwrap_or_default().contains(hint), "{found}");
    }
    let plain = parsed(&format!("{FILE}[api]\nplain = true\n[listen]\napi = \"[::1]:0\"\n"));
    assert_eq!(plain.api_tls, ApiTls::Plain);
}
