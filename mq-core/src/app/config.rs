//! The application's configuration: `application.toml`, `application-PROFILE.toml`, the environment
//! and `--set`, each over the one before, and the typed keys under `mq.`. Not here: the broker's
//! own keys (the broker checks them), what a component reads out of its section.
//!
//! Invariants: a key under `mq.` is known or refused; every fault names where its value came from.
//!
//! The environment variable of a key is its path in upper case with `__` for each dot:
//! `MQ__EMBEDDED__STORE` is `mq.embedded.store`. Names of broker settings keep their case:
//! `MQ__EMBEDDED__SETTINGS__flushDiskType`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{ConfigError, Map, Source, Value, ValueKind};
use serde::de::{self, Deserialize, DeserializeOwned, Deserializer};

/// Every key under `mq.`; `*` stands for any one name.
const KNOWN: &[&str] = &[
    "mq.mode",
    "mq.name_servers",
    "mq.drain",
    "mq.embedded.store",
    "mq.embedded.listen",
    "mq.embedded.settings.*",
    "mq.listener.*.concurrency",
    "mq.listener.*.autostart",
];

const BASE_FILE: &str = "application.toml";

/// The environment's way to a broker setting, whose name keeps its case.
const SETTINGS_VARIABLE: &str = "MQ__EMBEDDED__SETTINGS__";

/// Where the layers come from; a test names its own.
#[derive(Debug)]
pub(crate) struct Layers {
    pub(crate) directory: PathBuf,
    pub(crate) profiles: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) sets: Vec<(String, String)>,
}

impl Layers {
    /// Those of the process; `MQ_PROFILE` names the profiles, separated by commas.
    pub(crate) fn of_process(sets: Vec<(String, String)>) -> Self {
        let text = |name: std::ffi::OsString| name.into_string().ok();
        let environment =
            std::env::vars_os().filter_map(|(k, v)| Some((text(k)?, text(v)?))).collect();
        let profiles = std::env::var("MQ_PROFILE").unwrap_or_default();
        let profiles = profiles.split(',').map(str::trim).filter(|name| !name.is_empty());
        let profiles = profiles.map(str::to_owned).collect();
        Self { directory: directory(), profiles, environment, sets }
    }
}

/// The working directory; but for a program that `cargo run` started elsewhere in the workspace,
/// its package's, which Cargo names.
fn directory() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let configured = |directory: &PathBuf| directory.join(BASE_FILE).exists();
    package
        .filter(|package| !Path::new(BASE_FILE).exists() && configured(package))
        .unwrap_or_default()
}

/// The merged configuration.
#[derive(Clone, Debug)]
pub struct Config(Value);

impl Config {
    pub(crate) fn load(layers: &Layers) -> Result<Self, String> {
        let mut builder = config::Config::builder()
            .add_source(file(&layers.directory, BASE_FILE).required(false));
        for profile in &layers.profiles {
            let name = format!("application-{profile}.toml");
            builder = builder.add_source(file(&layers.directory, &name));
        }
        let merged = builder
            .add_source(Overrides::of_environment(&layers.environment))
            .add_source(Overrides::of_command_line(&layers.sets))
            .build();
        let merged = merged.and_then(|merged| merged.collect());
        merged.map(|table| Self(table.into())).map_err(|error| format!("configuration: {error}"))
    }

    /// The value at a dotted path.
    pub(crate) fn value(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(&self.0, |value, name| match &value.kind {
            ValueKind::Table(table) => table.get(name),
            _ => None,
        })
    }

    /// What stands under `path`, typed; an absent section reads as an empty one.
    ///
    /// # Errors
    /// The key that is missing or of the wrong type.
    pub fn section<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let value = self.value(path).cloned();
        let value = value.unwrap_or_else(|| Map::<String, Value>::new().into());
        value.try_deserialize().map_err(|error| format!("section `{path}`: {error}"))
    }

    /// `text` with each `${key}` and `${key:default}` replaced.
    pub(crate) fn resolve(&self, text: &str) -> Result<String, String> {
        let mut resolved = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (placeholder, after) =
                after.split_once('}').ok_or_else(|| format!("`{text}`: `${{` without `}}`"))?;
            resolved.push_str(before);
            resolved.push_str(&self.placeholder(placeholder)?);
            rest = after;
        }
        resolved.push_str(rest);
        Ok(resolved)
    }

    fn placeholder(&self, placeholder: &str) -> Result<String, String> {
        let (key, default) = match placeholder.split_once(':') {
            Some((key, default)) => (key.trim(), Some(default)),
            None => (placeholder.trim(), None),
        };
        match (self.value(key), default) {
            (Some(value), _) => value.clone().into_string().map_err(|error| error.to_string()),
            (None, Some(default)) => Ok(default.to_owned()),
            (None, None) => {
                let leaves = leaves(&self.0, String::new());
                let known = leaves.iter().map(|(path, _)| path.as_str());
                let near = nearest(key, known).map(|near| format!("; did you mean `{near}`?"));
                let near = near.unwrap_or_default();
                Err(format!(
                    "`${{{key}}}` is not configured{near} (`${{{key}:...}}` has a default)"
                ))
            }
        }
    }

    /// Keys under `mq.` that mean nothing, and listener ids that no listener has.
    pub(crate) fn unknown_keys(&self, listener_ids: &[&str]) -> Vec<String> {
        let Some(mq) = self.value("mq") else { return Vec::new() };
        let unknown = |(path, value): (String, &Value)| {
            let near = match KNOWN.iter().any(|pattern| matches(pattern, &path)) {
                true => nearest_listener(&path, listener_ids)?,
                false => nearest(&path, KNOWN.iter().map(|pattern| fill(pattern, &path)))
                    .map_or_else(|| format!("known keys are {}", KNOWN.join(", ")), did_you_mean),
            };
            Some(format!("unknown key `{path}`{}: {near}", Origin(value)))
        };
        leaves(mq, "mq".to_owned()).into_iter().filter_map(unknown).collect()
    }
}

fn did_you_mean(near: impl fmt::Display) -> String {
    format!("did you mean `{near}`?")
}

/// A complaint if `path` configures a listener that does not exist.
fn nearest_listener(path: &str, ids: &[&str]) -> Option<String> {
    let id = path.strip_prefix("mq.listener.")?.rsplit_once('.')?.0;
    if ids.contains(&id) {
        return None;
    }
    Some(match nearest(id, ids.iter().copied()) {
        Some(near) => format!("no listener has the id `{id}`; did you mean `{near}`?"),
        None => format!("no listener has the id `{id}`; ids are {}", ids.join(", ")),
    })
}

/// The application's own keys, typed.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Name servers of a cluster; none means the embedded broker.
    pub(crate) name_servers: Vec<String>,
    /// How long a stop may take; 30 s unless set.
    pub(crate) drain: Duration,
    /// Directory of the embedded broker's store.
    pub(crate) store: PathBuf,
    /// Address of the embedded broker; absent opens no port.
    pub(crate) listen: Option<SocketAddr>,
    /// Keys of broker.conf for the embedded broker.
    pub(crate) broker: BTreeMap<String, String>,
    /// Overrides by listener id.
    pub(crate) listeners: BTreeMap<String, ListenerSettings>,
}

/// `[mq.listener.<id>]`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub(crate) struct ListenerSettings {
    pub(crate) concurrency: Option<usize>,
    pub(crate) autostart: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Embedded,
    Remote,
}

impl Settings {
    /// Reads every key, and adds what is wrong to `findings`.
    pub(crate) fn read(config: &Config, findings: &mut Vec<String>) -> Self {
        let mut keys = Keys { config, findings };
        let mode: Option<Mode> = keys.read("mq.mode");
        let Names(name_servers) = keys.read("mq.name_servers").unwrap_or_default();
        let drain: Option<Span> = keys.read("mq.drain");
        let store = keys.read("mq.embedded.store").unwrap_or_else(|| "./data/mq".into());
        let listen = keys.read("mq.embedded.listen");
        let broker = keys.read("mq.embedded.settings").unwrap_or_default();
        let listeners: BTreeMap<String, ListenerSettings> =
            keys.read("mq.listener").unwrap_or_default();
        if mode == Some(Mode::Remote) && name_servers.is_empty() {
            let text = "`mq.mode` is \"remote\" but `mq.name_servers` is empty: name the cluster, as \
                        in name_servers = [\"10.0.0.1:9876\"]";
            findings.push(text.to_owned());
        }
        for (id, _) in listeners.iter().filter(|(_, of)| of.concurrency == Some(0)) {
            findings.push(format!("`mq.listener.{id}.concurrency` is at least 1"));
        }
        let name_servers = if mode == Some(Mode::Embedded) { Vec::new() } else { name_servers };
        let drain = drain.map_or(Duration::from_secs(30), |Span(drain)| drain);
        Self { name_servers, drain, store, listen, broker, listeners }
    }
}

struct Keys<'a> {
    config: &'a Config,
    findings: &'a mut Vec<String>,
}

impl Keys<'_> {
    fn read<T: DeserializeOwned>(&mut self, path: &str) -> Option<T> {
        let value = self.config.value(path)?;
        let typed = value.clone().try_deserialize();
        let complain = |error: ConfigError| format!("`{path}`{}: {error}", Origin(value));
        typed.map_err(|error| self.findings.push(complain(error))).ok()
    }
}

/// A list of addresses, or RocketMQ's way of writing one: `a:9876;b:9876`.
#[derive(Default)]
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Written {
            List(Vec<String>),
            Text(String),
        }
        let names = match Written::deserialize(deserializer)? {
            Written::List(names) => names,
            Written::Text(text) => text.split([';', ',']).map(str::to_owned).collect(),
        };
        let names = names.iter().map(|name| name.trim().to_owned());
        Ok(Self(names.filter(|name| !name.is_empty()).collect()))
    }
}

/// A duration written as "500ms", "30s", "5m" or "1h".
struct Span(Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || de::Error::custom(format!("`{text}` is no duration; write \"30s\""));
        parse_span(&text).map(Self).ok_or_else(wrong)
    }
}

fn parse_span(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (count, unit) = text.split_at(digits);
    let unit_ms = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    count.parse::<u64>().ok()?.checked_mul(unit_ms).map(Duration::from_millis)
}

/// Values by path, from outside any file.
#[derive(Clone, Debug)]
struct Overrides(Map<String, Value>);

impl Overrides {
    /// Variables with `__` in them; which of them mean something shows when a key is read.
    fn of_environment(variables: &[(String, String)]) -> Self {
        let path = |name: &str| match name.strip_prefix(SETTINGS_VARIABLE) {
            Some(setting) => Some(format!("mq.embedded.settings.{setting}")),
            None if name.contains("__") => Some(name.to_lowercase().replace("__", ".")),
            None => None,
        };
        let value = |(name, value): &(String, String)| {
            let origin = format!("environment variable {name}");
            path(name).map(|path| (path, Value::new(Some(&origin), value.clone())))
        };
        Self(variables.iter().filter_map(value).collect())
    }

    fn of_command_line(sets: &[(String, String)]) -> Self {
        let origin = "--set".to_owned();
        let value = |(path, value): &(String, String)| {
            (path.clone(), Value::new(Some(&origin), value.clone()))
        };
        Self(sets.iter().map(value).collect())
    }
}

impl Source for Overrides {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

fn file(directory: &Path, name: &str) -> config::File<config::FileSourceFile, config::FileFormat> {
    config::File::from(directory.join(name)).format(config::FileFormat::Toml)
}

/// " (from application.toml)", when it is known.
struct Origin<'a>(&'a Value);

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.origin().map_or(Ok(()), |origin| write!(f, " (from {origin})"))
    }
}

/// Every value that is not a table, with its path, in order of the paths.
fn leaves(value: &Value, path: String) -> Vec<(String, &Value)> {
    let ValueKind::Table(table) = &value.kind else { return vec![(path, value)] };
    let child = |(name, value): (&String, _)| match path.is_empty() {
        true => leaves(value, name.clone()),
        false => leaves(value, format!("{path}.{name}")),
    };
    let mut found: Vec<_> = table.iter().flat_map(child).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn matches(pattern: &str, path: &str) -> bool {
    pattern.split('.').count() == path.split('.').count()
        && pattern.split('.').zip(path.split('.')).all(|(p, name)| p == "*" || p == name)
}

/// The pattern with its `*` replaced by what stands there in `path`.
fn fill(pattern: &str, path: &str) -> String {
    let mut names = path.split('.');
    let fill = |part| match (part, names.next()) {
        ("*", Some(name)) => name,
        ("*", None) => "<name>",
        (part, _) => part,
    };
    pattern.split('.').map(fill).collect::<Vec<_>>().join(".")
}

/// The candidate that a typing mistake most likely meant.
pub(crate) fn nearest<T: AsRef<str>>(word: &str, known: impl Iterator<Item = T>) -> Option<T> {
    let distance = |name: T| (strsim::damerau_levenshtein(word, name.as_ref()), name);
    let near = known.map(distance).min_by_key(|(distance, _)| *distance)?;
    (near.0 <= word.len() / 3 + 1).then_some(near.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Layers {
        /// No file, no profile, nothing from outside.
        pub(crate) fn none() -> Self {
            let directory = PathBuf::from("no-such-directory");
            Self { directory, profiles: vec![], environment: vec![], sets: vec![] }
        }
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn with_sets(sets: &[(&str, &str)]) -> Config {
        Config::load(&Layers { sets: pairs(sets), ..Layers::none() }).expect("legal")
    }

    #[expect(clippy::disallowed_methods, reason = "the files are what is tested")]
    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).expect("writable");
        }
        directory
    }

    #[test]
    fn each_layer_stands_over_the_one_before() {
        let base =
            "[mq]\ndrain = \"1s\"\n[shop]\na = \"file\"\nb = \"file\"\nc = \"file\"\nd = \"file\"";
        let profile = "[shop]\nb = \"profile\"\nc = \"profile\"\nd = \"profile\"";
        let directory = directory(&[("application.toml", base), ("application-eu.toml", profile)]);
        let layers = Layers {
            directory: directory.path().to_owned(),
            profiles: vec!["eu".to_owned()],
            environment: pairs(&[("SHOP__C", "env"), ("SHOP__D", "env"), ("SHOP", "ignored")]),
            sets: pairs(&[("shop.d", "set")]),
        };
        let config = Config::load(&layers).expect("legal");
        let text = "${shop.a} ${shop.b} ${shop.c} ${shop.d}";
        assert_eq!(config.resolve(text), Ok("file profile env set".to_owned()));
    }

    #[test]
    fn a_profile_without_a_file_is_refused() {
        let layers = Layers { profiles: vec!["eu".to_owned()], ..Layers::none() };
        let error = Config::load(&layers).expect_err("there is no file");
        assert!(error.contains("application-eu.toml"), "{error}");
    }

    #[test]
    fn placeholders_have_defaults_and_say_what_is_near() {
        let config = with_sets(&[("shop.topic", "orders")]);
        assert_eq!(config.resolve("a-${shop.topic}-${x:b}"), Ok("a-orders-b".to_owned()));
        let error = config.resolve("${shop.topics}").expect_err("unknown");
        assert!(error.contains("did you mean `shop.topic`?"), "{error}");
        assert!(config.resolve("${shop.topic").is_err());
    }

    #[test]
    fn keys_are_typed_and_the_environment_is_text() {
        let environment = pairs(&[
            ("MQ__NAME_SERVERS", "a:9876; b:9876"),
            ("MQ__EMBEDDED__LISTEN", "127.0.0.1:0"),
            ("MQ__EMBEDDED__SETTINGS__flushDiskType", "ASYNC_FLUSH"),
            ("MQ__LISTENER__BILLING__CONCURRENCY", "8"),
        ]);
        let layers = Layers { environment, sets: pairs(&[("mq.drain", "2m")]), ..Layers::none() };
        let config = Config::load(&layers).expect("legal");
        let mut findings = Vec::new();
        let settings = Settings::read(&config, &mut findings);
        assert_eq!(findings, Vec::<String>::new());
        assert_eq!(config.unknown_keys(&["billing"]), Vec::<String>::new());
        assert_eq!(settings.name_servers, ["a:9876", "b:9876"]);
        assert_eq!(settings.listen.map(|address| address.port()), Some(0));
        assert_eq!(settings.broker["flushDiskType"], "ASYNC_FLUSH");
        assert_eq!(settings.listeners["billing"].concurrency, Some(8));
        assert_eq!(settings.drain, Duration::from_secs(120));
    }

    #[test]
    fn every_wrong_value_is_a_finding() {
        let config = with_sets(&[
            ("mq.mode", "cluster"),
            ("mq.drain", "30"),
            ("mq.embedded.listen", "9876"),
            ("mq.listener.billing.concurrency", "0"),
        ]);
        let mut findings = Vec::new();
        Settings::read(&config, &mut findings);
        assert_eq!(findings.len(), 4, "{findings:#?}");
        assert!(findings.iter().take(3).all(|finding| finding.contains("(from --set)")));
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        let config = with_sets(&[
            ("mq.embeded.store", "x"),
            ("mq.listener.biling.concurrency", "1"),
            ("mq.listener.billing.concurency", "1"),
            ("shop.anything", "is the user's"),
        ]);
        let findings = config.unknown_keys(&["billing"]);
        assert_eq!(findings.len(), 3, "{findings:#?}");
        let near = ["`mq.embedded.store`", "`billing`", "`mq.listener.billing.concurrency`"];
        for near in near.map(|near| format!("did you mean {near}?")) {
            assert!(findings.iter().any(|finding| finding.contains(&near)), "{near} {findings:#?}");
        }
    }

    #[test]
    fn a_cluster_is_named_or_the_broker_is_inside() {
        let read =
            |sets: &[_], findings: &mut Vec<String>| Settings::read(&with_sets(sets), findings);
        let mut findings = Vec::new();
        let both = [("mq.name_servers", "a:1"), ("mq.mode", "embedded")];
        assert!(read(&both, &mut findings).name_servers.is_empty() && findings.is_empty());
        read(&[("mq.mode", "remote")], &mut findings);
        assert!(findings.len() == 1 && findings[0].contains("mq.name_servers"), "{findings:?}");
    }

    #[test]
    fn a_section_that_is_absent_reads_as_empty() {
        #[derive(Debug, serde::Deserialize, PartialEq)]
        struct Shop {
            lanes: Option<u16>,
        }
        let read = |config: Config| config.section::<Shop>("shop").expect("no key is required");
        assert_eq!(read(with_sets(&[])), Shop { lanes: None });
        assert_eq!(read(with_sets(&[("shop.lanes", "4")])), Shop { lanes: Some(4) });
    }
}
