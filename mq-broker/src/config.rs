//! Configuration of the broker and of the name server: one struct each, every field with its
//! key, default and range; reading from properties text and from `key=value` settings; limits.
//!
//! Not here: client options, defaults of the command line, the text format
//! (`java_properties.rs`), changes while the server runs (`live_settings.rs`; what may change then
//! is [`Hot`]: numbers and switches, never a path, a name or an address). Invariants: a key exists
//! only if it does something; a configuration that was read has been validated as a whole; all
//! findings are told together.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use crate::hot::{Hot, Word};
use crate::java_properties;

/// What a frame may carry beside the body: header and framing.
const FRAME_OVERHEAD_BYTES: u64 = 64 * 1024;

/// The largest frame of the protocol.
const MAX_FRAME_BYTES: u64 = 16 * 1024 * 1024;

/// Every key that some release of Apache RocketMQ reads in a `broker.conf` or `namesrv.conf`, and
/// those that its widely copied examples carry.
const ROCKETMQ_KEYS: &str = include_str!("rocketmq_keys.txt");

/// Writes a configuration: the struct, its defaults, its keys, and how one value is read and shown.
/// A line is `field: Type = "rocketMqKey", default, check(arguments);`, and `check` is a function
/// `fn(&str, arguments..) -> Result<Type, String>` that says what it would have accepted.
macro_rules! settings {
    ($(#[$doc:meta])* $config:ident { $($(#[$field_doc:meta])*
        $field:ident: $type:ty = $key:literal, $default:expr, $check:ident($($arg:expr),*);)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $config {
            $($(#[$field_doc])*
            #[doc = concat!("\n\nKey `", $key, "`, default `", stringify!($default),
                "`, accepted: `", stringify!($check), "(", stringify!($($arg),*), ")`.")]
            pub $field: $type,)*
        }

        impl Default for $config {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl Settings for $config {
            const KEYS: &'static [&'static str] = &[$($key),*];

            fn assign(&mut self, key: &str, text: &str) -> Result<(), String> {
                match key {
                    $($key => self.$field = $check(text, $($arg),*)?,)*
                    other => unreachable!("{other} is not among KEYS"),
                }
                Ok(())
            }

            fn change(&self, key: &str, text: &str) -> Result<bool, String> {
                match key {
                    $($key => Ok(self.$field.take(&$check(text, $($arg),*)?)),)*
                    other => unreachable!("{other} is not among KEYS"),
                }
            }

            fn is_hot(&self, key: &str) -> bool {
                match key {
                    $($key => self.$field.is_hot(),)*
                    _ => false,
                }
            }

            fn entries(&self) -> Vec<(&'static str, String)> {
                vec![$(($key, self.$field.text())),*]
            }

            fn findings(&self) -> Findings {
                self.check()
            }
        }
    };
}

settings! {
    /// What one broker is told. `Default` is a broker for this machine alone: it listens on
    /// loopback and acknowledges a message once it is synced.
    BrokerConfig {
        /// Cluster that the broker says it belongs to.
        broker_cluster_name: String = "brokerClusterName", "DefaultCluster".to_owned(), name();
        /// Name of the broker; a master and its slaves share it.
        broker_name: String = "brokerName", "broker-a".to_owned(), name();
        /// 0 is a master. Slaves are not there yet.
        broker_id: u64 = "brokerId", 0, number(0..=0);
        /// Only a master that nobody follows is there yet.
        broker_role: BrokerRole = "brokerRole", BrokerRole::AsyncMaster, role();
        /// Host that clients are told to connect to; empty for the address that is listened on.
        broker_ip1: String = "brokerIP1", String::new(), host();
        /// Address to listen on. Beyond loopback only with `insecureAllowPlaintext`.
        bind_address: IpAddr = "bindAddress", IpAddr::V4(Ipv4Addr::LOCALHOST), address();
        /// Port to listen on; 0 lets the system choose.
        listen_port: u16 = "listenPort", 10911, number(0..=65535);
        /// Accept connections from the network though they carry neither credentials nor TLS.
        insecure_allow_plaintext: bool = "insecureAllowPlaintext", false, switch();
        /// Name servers to register with, `host:port` separated by `;`.
        namesrv_addr: Vec<String> = "namesrvAddr", Vec::new(), name_servers();
        /// Time between two registrations, in ms.
        register_name_server_period_ms: Hot<u64> =
            "registerNameServerPeriod", Hot::new(30_000), hot_number(10_000..=60_000);
        /// Time a name server has to answer a registration, in ms.
        register_broker_timeout_ms: Hot<u64> =
            "registerBrokerTimeoutMills", Hot::new(6_000), hot_number(100..=60_000);
        /// What clients may do here: 4 read, 2 write, 6 both. Routes lose what is missing; pulls
        /// are refused without 4, sends to ordered topics without 2.
        broker_permission: Hot<u64> = "brokerPermission", Hot::new(6), permission();
        /// Region that the answer to a send names.
        region_id: String = "regionId", "DefaultRegion".to_owned(), name();
        /// Whether the answer to a send asks the client to trace.
        trace_on: Hot<bool> = "traceOn", Hot::new(true), hot_switch();
        /// A group without an offset starts at the first message of a queue as long as that lies
        /// within this share of the machine's memory from the log's end, in percent; else where
        /// its members say.
        access_message_in_memory_max_ratio: u64 = "accessMessageInMemoryMaxRatio", 40,
            number(0..=100);
        /// Largest body of a message (of a batch: of all its messages), in bytes.
        max_message_size: Hot<u64> = "maxMessageSize", Hot::new(4 * 1024 * 1024),
            hot_number(1024..=MAX_FRAME_BYTES - FRAME_OVERHEAD_BYTES);
        /// Create a topic when the first message for it arrives.
        auto_create_topic_enable: Hot<bool> = "autoCreateTopicEnable", Hot::new(true), hot_switch();
        /// Queues of the template topic TBW102, and so the most that a client may ask for when
        /// its first message creates a topic.
        default_topic_queue_nums: i32 = "defaultTopicQueueNums", 8, number(1..=64);
        /// Create a consumer group when its first member appears.
        auto_create_subscription_group: Hot<bool> =
            "autoCreateSubscriptionGroup", Hot::new(true), hot_switch();
        /// Make the topic of message traces, with one queue; otherwise it is made like any other.
        trace_topic_enable: bool = "traceTopicEnable", false, switch();
        /// Whether consumers may select messages by SQL92 conditions.
        enable_property_filter: bool = "enablePropertyFilter", true, switch();
        /// Folder of the store.
        store_path_root_dir: PathBuf = "storePathRootDir", PathBuf::from("store"), path();
        /// When a message is acknowledged: once it is synced, or once the system has it.
        flush_disk_type: FlushDiskType = "flushDiskType", FlushDiskType::Sync, flush();
        /// Time a send waits for the sync before it is answered FLUSH_DISK_TIMEOUT, in ms.
        sync_flush_timeout_ms: Hot<u64> =
            "syncFlushTimeout", Hot::new(5_000), hot_number(100..=60_000);
        /// Time between two syncs under ASYNC_FLUSH, in ms.
        flush_interval_commit_log_ms: Hot<u64> =
            "flushIntervalCommitLog", Hot::new(500), hot_number(1..=60_000);
        /// Length of a commit log file, in bytes.
        mapped_file_size_commit_log: u64 = "mappedFileSizeCommitLog", 64 * 1024 * 1024,
            number(64 * 1024..=1024 * 1024 * 1024);
        /// Length of a consume queue file, in bytes: a multiple of 20.
        mapped_file_size_consume_queue: u64 = "mappedFileSizeConsumeQueue", 6_000_000,
            number(20..=1024 * 1024 * 1024);
        /// Slots of a key index file.
        max_hash_slot_num: u32 = "maxHashSlotNum", 5_000_000, number(1..=50_000_000);
        /// Entries of a key index file.
        max_index_num: u32 = "maxIndexNum", 20_000_000, number(2..=50_000_000);
        /// The delay levels, from level 1.
        message_delay_level: DelayLevels = "messageDelayLevel", DelayLevels::default(), levels();
        /// Store replies to requests too, which are handed to the client that asked in any case.
        store_reply_message_enable: Hot<bool> =
            "storeReplyMessageEnable", Hot::new(true), hot_switch();
        /// Refuse messages of transactions.
        reject_transaction_message: Hot<bool> =
            "rejectTransactionMessage", Hot::new(false), hot_switch();
        /// Age of an undecided transaction from which its producer is asked about it, in ms. A
        /// message may say another age for itself.
        transaction_time_out_ms: Hot<u64> =
            "transactionTimeOut", Hot::new(6_000), hot_number(0..=86_400_000);
        /// How often a producer is asked before its message goes to TRANS_CHECK_MAX_TIME_TOPIC.
        transaction_check_max: Hot<u64> =
            "transactionCheckMax", Hot::new(15), hot_number(1..=1_000);
        /// Time between two looks for undecided transactions, in ms.
        transaction_check_interval_ms: Hot<u64> =
            "transactionCheckInterval", Hot::new(30_000), hot_number(100..=3_600_000);
        /// The furthest instant that a message may ask to be delivered at, in seconds from now.
        timer_max_delay_sec: u32 = "timerMaxDelaySec", 3 * 24 * 3_600, number(1..=400 * 24 * 3_600);
        /// Let a sender take back a message that waits for its instant.
        recall_message_enable: bool = "recallMessageEnable", true, switch();
        /// Time between two snapshots of the groups' offsets, in ms.
        flush_consumer_offset_interval_ms: Hot<u64> =
            "flushConsumerOffsetInterval", Hot::new(5_000), hot_number(100..=600_000);
        /// Time between two snapshots of the delay levels' progress, in ms.
        flush_delay_offset_interval_ms: Hot<u64> =
            "flushDelayOffsetInterval", Hot::new(10_000), hot_number(100..=600_000);
    }
}

settings! {
    /// What a name server is told. `Default` listens on loopback.
    NameServerConfig {
        /// Address to listen on. Beyond loopback only with `insecureAllowPlaintext`.
        bind_address: IpAddr = "bindAddress", IpAddr::V4(Ipv4Addr::LOCALHOST), address();
        /// Port to listen on; 0 lets the system choose.
        listen_port: u16 = "listenPort", 9876, number(0..=65535);
        /// Accept connections from the network though they carry neither credentials nor TLS.
        insecure_allow_plaintext: bool = "insecureAllowPlaintext", false, switch();
        /// Time between two looks for brokers that have fallen silent, in ms.
        scan_not_active_broker_interval_ms: Hot<u64> =
            "scanNotActiveBrokerInterval", Hot::new(10_000), hot_number(100..=60_000);
        /// File of the values that administrators put; empty to keep them in memory only.
        kv_config_path: PathBuf = "kvConfigPath", PathBuf::new(), optional_path();
        /// Answer the question for all topics.
        enable_all_topic_list: Hot<bool> = "enableAllTopicList", Hot::new(true), hot_switch();
        /// Put the queue order of a topic, where one is configured, into its route.
        order_message_enable: Hot<bool> = "orderMessageEnable", Hot::new(false), hot_switch();
        /// Tell a broker that registers which topics have a queue order.
        return_order_topic_config_to_broker: Hot<bool> =
            "returnOrderTopicConfigToBroker", Hot::new(true), hot_switch();
        /// Forget the topics that a broker's registration no longer lists.
        delete_topic_with_broker_registration: Hot<bool> =
            "deleteTopicWithBrokerRegistration", Hot::new(false), hot_switch();
    }
}

impl BrokerConfig {
    /// Host and port to listen on.
    pub fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.bind_address, self.listen_port)
    }

    /// Host that clients and name servers are told.
    pub fn advertised_host(&self) -> String {
        match self.broker_ip1.as_str() {
            "" => self.bind_address.to_string(),
            host => host.to_owned(),
        }
    }

    fn check(&self) -> Findings {
        let mut findings = Findings::default();
        check_network(&mut findings, self.bind_address, self.insecure_allow_plaintext);
        self.check_advertised(&mut findings);
        self.check_store(&mut findings);
        findings
    }

    fn check_advertised(&self, findings: &mut Findings) {
        let told = &self.broker_ip1;
        if told.is_empty() && self.bind_address.is_unspecified() {
            findings.refuse(format!(
                "bindAddress={} is no address that clients can connect to: set brokerIP1",
                self.bind_address
            ));
        }
        let elsewhere = told.parse::<IpAddr>().is_ok_and(|ip| !ip.is_loopback());
        if elsewhere && self.bind_address.is_loopback() {
            findings.warn(format!(
                "clients are told brokerIP1={told}, but the broker listens on {} only: \
                 set bindAddress, unless something forwards to it",
                self.bind_address
            ));
        }
    }

    fn check_store(&self, findings: &mut Findings) {
        let segment = self.mapped_file_size_commit_log;
        let largest = self.max_message_size.now() + FRAME_OVERHEAD_BYTES;
        if segment < largest {
            findings.refuse(format!(
                "mappedFileSizeCommitLog={segment} has no room for a message of \
                 maxMessageSize={}: at least {largest}",
                self.max_message_size
            ));
        }
        let queue_file = self.mapped_file_size_consume_queue;
        if !queue_file.is_multiple_of(20) {
            findings.refuse(format!(
                "mappedFileSizeConsumeQueue={queue_file} is not a multiple of 20, the size of an \
                 entry: use {}",
                queue_file.next_multiple_of(20)
            ));
        }
        if self.flush_disk_type == FlushDiskType::Async {
            findings.warn(
                "flushDiskType=ASYNC_FLUSH acknowledges messages that a power cut can take back"
                    .to_owned(),
            );
        }
    }
}

impl NameServerConfig {
    /// Host and port to listen on.
    pub fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.bind_address, self.listen_port)
    }

    fn check(&self) -> Findings {
        let mut findings = Findings::default();
        check_network(&mut findings, self.bind_address, self.insecure_allow_plaintext);
        findings
    }
}

fn check_network(findings: &mut Findings, bind: IpAddr, allowed: bool) {
    match (bind.is_loopback(), allowed) {
        (true, _) => {}
        (false, false) => findings.refuse(format!(
            "bindAddress={bind} opens the port to the network without credentials or TLS: listen \
             on 127.0.0.1, or say insecureAllowPlaintext=true if that network can be trusted"
        )),
        (false, true) => findings.warn(format!(
            "insecureAllowPlaintext: whoever reaches {bind} can read and write all messages"
        )),
    }
}

/// Where settings come from. Later ones win: the file first, then the pairs in their order.
#[derive(Clone, Debug, Default)]
pub struct Sources<'a> {
    /// Name (for the findings) and text of a properties file, where keys of Apache RocketMQ that
    /// mean nothing here are borne with a warning.
    pub file: Option<(&'a str, &'a str)>,
    /// Pairs of key and value, where they are refused.
    pub pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Sources<'a> {
    /// Settings without a file.
    pub fn pairs(settings: &'a BTreeMap<String, String>) -> Self {
        let pairs = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        Self { file: None, pairs }
    }
}

/// A configuration that can be used, and what its author should know.
#[derive(Clone, Debug)]
pub struct Loaded<C> {
    /// The configuration, validated.
    pub config: C,
    /// Sentences to show or log.
    pub warnings: Vec<String>,
}

/// Everything that is wrong with a configuration, a line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// A configuration with keys. Implemented by [`BrokerConfig`] and [`NameServerConfig`] only.
pub trait Settings: Default {
    /// The keys, in the order of the fields.
    const KEYS: &'static [&'static str];

    /// Reads one value. `key` is one of [`Self::KEYS`]; the error says what is accepted.
    fn assign(&mut self, key: &str, text: &str) -> Result<(), String>;

    /// Gives a hot setting another value; false when the setting is none. `key` is one of
    /// [`Self::KEYS`].
    fn change(&self, key: &str, text: &str) -> Result<bool, String>;

    /// Whether a setting may be changed while the server runs.
    fn is_hot(&self, key: &str) -> bool;

    /// All keys with their values as text, which `assign` reads back.
    fn entries(&self) -> Vec<(&'static str, String)>;

    /// What the values, each good by itself, are together.
    fn findings(&self) -> Findings;

    /// Reads and validates all. The error lists every finding, not the first.
    fn load(sources: &Sources<'_>) -> Result<Loaded<Self>, ConfigError> {
        let mut config = Self::default();
        let mut findings = Findings::default();
        if let Some((name, text)) = sources.file {
            read_file(&mut config, name, text, &mut findings);
        }
        for (key, value) in &sources.pairs {
            read_pair(&mut config, key, value, &mut findings);
        }
        findings.append(config.findings());
        match findings.refused.is_empty() {
            true => Ok(Loaded { config, warnings: findings.warnings }),
            false => Err(ConfigError(findings.refused)),
        }
    }

    /// Checks values that were put into the struct by hand. Gives the warnings.
    fn validate(&self) -> Result<Vec<String>, ConfigError> {
        let pairs = self.entries();
        let pairs = pairs.iter().map(|(key, value)| (*key, value.as_str())).collect();
        Self::load(&Sources { file: None, pairs }).map(|loaded| loaded.warnings)
    }

    /// All keys and values in the format of `broker.conf`.
    fn to_properties(&self) -> String {
        let entries = self.entries();
        java_properties::write(entries.iter().map(|(key, value)| (*key, value.as_str())))
    }
}

/// What was found: errors, and what is only worth saying.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    refused: Vec<String>,
    warnings: Vec<String>,
}

impl Findings {
    fn refuse(&mut self, finding: String) {
        self.refused.push(finding);
    }

    fn warn(&mut self, finding: String) {
        self.warnings.push(finding);
    }

    fn append(&mut self, mut other: Self) {
        self.refused.append(&mut other.refused);
        self.warnings.append(&mut other.warnings);
    }
}

fn read_file<C: Settings>(config: &mut C, name: &str, text: &str, findings: &mut Findings) {
    let mut lines = BTreeMap::new();
    let mut ignored = Vec::new();
    for entry in java_properties::parse(text) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(bad) => {
                findings.refuse(format!("{name}:{}: malformed \\uXXXX escape", bad.line));
                continue;
            }
        };
        let java_properties::Entry { line, key, value } = entry;
        match read(config, &key, &value) {
            Ok(()) => {}
            Err(Refused::Ignored) => ignored.push(key.clone()),
            Err(Refused::Wrong(why)) => findings.refuse(format!("{name}:{line}: {why}")),
        }
        if let Some(before) = lines.insert(key.clone(), line) {
            let doubled =
                format!("{name}:{line}: {key} again, after line {before}: the last counts");
            findings.warn(doubled);
        }
    }
    if !ignored.is_empty() {
        let keys = ignored.join(", ");
        findings.warn(format!("{name}: keys of RocketMQ without effect here: {keys}"));
    }
}

fn read_pair<C: Settings>(config: &mut C, key: &str, value: &str, findings: &mut Findings) {
    match read(config, key, value.trim()) {
        Ok(()) => {}
        Err(Refused::Ignored) => {
            findings
                .refuse(format!("{key} is a key of RocketMQ without effect here: leave it out"));
        }
        Err(Refused::Wrong(why)) => findings.refuse(why),
    }
}

enum Refused {
    /// A key of RocketMQ that means nothing here.
    Ignored,
    /// The reason, naming key and value.
    Wrong(String),
}

fn read<C: Settings>(config: &mut C, key: &str, value: &str) -> Result<(), Refused> {
    if C::KEYS.contains(&key) {
        return config
            .assign(key, value)
            .map_err(|accepted| Refused::Wrong(format!("{key}={value}: {accepted}")));
    }
    if let Some(reason) = promise(key, value) {
        return Err(Refused::Wrong(format!("{key}={value}: {reason}")));
    }
    if ROCKETMQ_KEYS.lines().any(|known| known == key) {
        return Err(Refused::Ignored);
    }
    Err(Refused::Wrong(match nearest(key, C::KEYS) {
        Some(near) => format!("unknown key {key}: did you mean {near}?"),
        None => format!("unknown key {key}: the keys are {}", C::KEYS.join(", ")),
    }))
}

/// Keys whose value promises something that is not there yet: to ignore them would break the
/// promise without a word.
fn promise(key: &str, value: &str) -> Option<&'static str> {
    let guards = ["aclEnable", "authenticationEnabled", "authorizationEnabled"];
    let copies = ["enableDLegerCommitLog", "enableControllerMode", "duplicationEnable"];
    match value != "false" {
        true if guards.contains(&key) => Some("access control is not there yet: set it to false"),
        true if copies.contains(&key) => Some("replication is not there yet: set it to false"),
        _ => None,
    }
}

/// The key that was probably meant: the fewest slips away, and few enough to be slips.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let wanted = key.to_lowercase();
    let distance = |candidate: &str| strsim::osa_distance(&wanted, &candidate.to_lowercase());
    let (slips, near) = known.iter().map(|known| (distance(known), *known)).min()?;
    (slips <= 2.max(key.len() / 3)).then_some(near)
}

/// Whether acknowledged means synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushDiskType {
    /// An acknowledged message is on the disk.
    Sync,
    /// An acknowledged message is in the system's page cache: it survives the process only.
    Async,
}

impl Display for FlushDiskType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sync => "SYNC_FLUSH",
            Self::Async => "ASYNC_FLUSH",
        })
    }
}

/// What a broker is among those of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerRole {
    /// A master that does not wait for slaves.
    AsyncMaster,
}

impl Display for BrokerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ASYNC_MASTER")
    }
}

/// The delays that a message may ask for by level, `1s 5s 10s ...` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayLevels {
    /// The delay of level n is at n - 1.
    pub levels_ms: Vec<i64>,
    text: String,
}

impl Default for DelayLevels {
    fn default() -> Self {
        levels("1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h")
            .expect("the default delay levels are well formed")
    }
}

impl Display for DelayLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The most delay levels: each has a queue and a reader.
const MAX_DELAY_LEVELS: usize = 64;

/// The longest delay of a level.
const MAX_DELAY_MS: i64 = 40 * 24 * 3_600_000;

fn levels(text: &str) -> Result<DelayLevels, String> {
    let accepted = || {
        format!("accepts 1 to {MAX_DELAY_LEVELS} delays such as `1s 5m 2h 1d`, each at most 40d")
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let levels_ms: Option<Vec<i64>> = words.iter().map(|word| delay_ms(word)).collect();
    match levels_ms {
        Some(levels_ms) if (1..=MAX_DELAY_LEVELS).contains(&levels_ms.len()) => {
            Ok(DelayLevels { levels_ms, text: words.join(" ") })
        }
        _ => Err(accepted()),
    }
}

fn delay_ms(word: &str) -> Option<i64> {
    let unit_ms = match word.chars().last()? {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return None,
    };
    let count = word.get(..word.len() - 1)?;
    let delay_ms = count.parse::<u32>().ok().map(i64::from)?.checked_mul(unit_ms)?;
    (1..=MAX_DELAY_MS).contains(&delay_ms).then_some(delay_ms)
}

fn number<T: FromStr + PartialOrd + Display>(
    text: &str,
    range: RangeInclusive<T>,
) -> Result<T, String> {
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("accepts a whole number from {} to {}", range.start(), range.end())),
    }
}

fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "accepts true or false".to_owned())
}

fn hot_number(text: &str, range: RangeInclusive<u64>) -> Result<Hot<u64>, String> {
    number(text, range).map(Hot::new)
}

fn hot_switch(text: &str) -> Result<Hot<bool>, String> {
    switch(text).map(Hot::new)
}

fn permission(text: &str) -> Result<Hot<u64>, String> {
    match text {
        "2" | "4" | "6" => number(text, 2..=6).map(Hot::new),
        _ => Err("accepts 2 (write), 4 (read) or 6 (both)".to_owned()),
    }
}

fn flush(text: &str) -> Result<FlushDiskType, String> {
    match text {
        "SYNC_FLUSH" => Ok(FlushDiskType::Sync),
        "ASYNC_FLUSH" => Ok(FlushDiskType::Async),
        _ => Err("accepts SYNC_FLUSH or ASYNC_FLUSH".to_owned()),
    }
}

fn role(text: &str) -> Result<BrokerRole, String> {
    match text {
        "ASYNC_MASTER" => Ok(BrokerRole::AsyncMaster),
        "SYNC_MASTER" | "SLAVE" => Err("replication is not there yet: use ASYNC_MASTER".to_owned()),
        _ => Err("accepts ASYNC_MASTER".to_owned()),
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "accepts an IP address such as 127.0.0.1".to_owned())
}

fn path(text: &str) -> Result<PathBuf, String> {
    match text.is_empty() {
        true => Err("accepts the path of a folder".to_owned()),
        false => Ok(PathBuf::from(text)),
    }
}

/// RocketMQ's examples give an empty path where nothing is to be written.
#[expect(clippy::unnecessary_wraps, reason = "a check may refuse; this one takes every path")]
fn optional_path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

/// Names travel in routes, where clients split text at `:`, `;` and `,`, and name topics.
fn name(text: &str) -> Result<String, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match (1..=120).contains(&text.len()) && text.bytes().all(legal) {
        true => Ok(text.to_owned()),
        false => Err("accepts 1 to 120 letters, digits, '.', '_' and '-'".to_owned()),
    }
}

fn host(text: &str) -> Result<String, String> {
    match text {
        "" => Ok(String::new()),
        _ => name(text).map_err(|_| "accepts an IPv4 address or a host name".to_owned()),
    }
}

fn name_servers(text: &str) -> Result<Vec<String>, String> {
    let mut servers = Vec::new();
    for server in text.split(';').map(str::trim).filter(|server| !server.is_empty()) {
        let (host, port) = server.rsplit_once(':').unwrap_or((server, ""));
        if host.is_empty() || !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(format!("`{server}` is not host:port; accepts host:9876;other:9876"));
        }
        if !servers.iter().any(|known| known == server) {
            servers.push(server.to_owned());
        }
    }
    Ok(servers)
}

/// A value as the text that its check reads back.
trait Text {
    fn text(&self) -> String;

    /// Whether the value may change while the server runs.
    fn is_hot(&self) -> bool {
        false
    }

    /// Becomes `new`, if it may.
    fn take(&self, _new: &Self) -> bool {
        false
    }
}

impl<T: Word + Display> Text for Hot<T> {
    fn text(&self) -> String {
        self.to_string()
    }

    fn is_hot(&self) -> bool {
        true
    }

    fn take(&self, new: &Self) -> bool {
        self.set(new.now());
        true
    }
}

impl Text for PathBuf {
    fn text(&self) -> String {
        self.display().to_string()
    }
}

impl Text for Vec<String> {
    fn text(&self) -> String {
        self.join(";")
    }
}

macro_rules! text_as_displayed {
    ($($type:ty),*) => {
        $(impl Text for $type {
            fn text(&self) -> String {
                self.to_string()
            }
        })*
    };
}

text_as_displayed!(
    String,
    u16,
    u32,
    u64,
    i32,
    bool,
    IpAddr,
    FlushDiskType,
    BrokerRole,
    DelayLevels
);

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(file: &str, pairs: &[(&str, &str)]) -> Result<Loaded<BrokerConfig>, ConfigError> {
        BrokerConfig::load(&Sources { file: Some(("broker.conf", file)), pairs: pairs.to_vec() })
    }

    #[test]
    fn defaults_are_valid_and_safe() {
        let loaded = broker("", &[]).unwrap();
        assert_eq!(loaded.config, BrokerConfig::default());
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert!(loaded.config.listen().ip().is_loopback());
        assert_eq!(loaded.config.flush_disk_type, FlushDiskType::Sync);
        assert_eq!(loaded.config.message_delay_level.levels_ms.len(), 18);
        assert_eq!(loaded.config.advertised_host(), "127.0.0.1");
        assert_eq!(NameServerConfig::default().validate(), Ok(Vec::new()));
    }

    #[test]
    fn pairs_win_over_the_file() {
        let file = "brokerName = broker-b\nlistenPort: 1\nnamesrvAddr=a:1;b:2; a:1 ;\n";
        let config = broker(file, &[("listenPort", " 0 ")]).unwrap().config;
        assert_eq!(config.broker_name, "broker-b");
        assert_eq!(config.listen_port, 0);
        assert_eq!(config.namesrv_addr, ["a:1", "b:2"]);
    }

    #[test]
    fn all_findings_are_told_together() {
        let file = "brokerNmae=x\nlistenPort=70000\nflushDiskType=sync\nx=\\u1\n";
        let pairs = [
            ("autocreatetopicenable", "true"),
            ("sendMessageThreadPoolNums", "16"),
            ("brokerRole", "SLAVE"),
            ("aclEnable", "true"),
            ("mappedFileSizeCommitLog", "65536"),
            ("bindAddress", "0.0.0.0"),
            ("messageDelayLevel", "1s 0s"),
        ];
        let ConfigError(findings) = broker(file, &pairs).unwrap_err();
        let expected = [
            "broker.conf:1: unknown key brokerNmae: did you mean brokerName?",
            "broker.conf:2: listenPort=70000: accepts a whole number from 0 to 65535",
            "broker.conf:3: flushDiskType=sync: accepts SYNC_FLUSH or ASYNC_FLUSH",
            "broker.conf:4: malformed \\uXXXX escape",
            "unknown key autocreatetopicenable: did you mean autoCreateTopicEnable?",
            "sendMessageThreadPoolNums is a key of RocketMQ without effect here: leave it out",
            "brokerRole=SLAVE: replication is not there yet: use ASYNC_MASTER",
            "aclEnable=true: access control is not there yet: set it to false",
            "messageDelayLevel=1s 0s: accepts 1 to 64 delays",
            "bindAddress=0.0.0.0 opens the port to the network",
            "bindAddress=0.0.0.0 is no address that clients can connect to: set brokerIP1",
            "mappedFileSizeCommitLog=65536 has no room for a message",
        ];
        assert_eq!(findings.len(), expected.len(), "{findings:#?}");
        for (finding, expected) in findings.iter().zip(expected) {
            assert!(finding.starts_with(expected), "{finding:?} is not {expected:?}");
        }
    }

    #[test]
    fn a_file_carried_over_from_rocketmq_is_borne() {
        let file = "# 2m-2s-sync\nbrokerClusterName=DefaultCluster\nbrokerName=broker-a\n\
            brokerId=0\ndeleteWhen=04\nfileReservedTime=48\nbrokerRole=ASYNC_MASTER\n\
            flushDiskType=ASYNC_FLUSH\nstorePathIndex=/data/index\naclEnable=false\n\
            brokerId=0\nbrokerIP1=10.0.0.5\n";
        let warnings = broker(file, &[]).unwrap().warnings;
        let expected = [
            "broker.conf:11: brokerId again, after line 4: the last counts",
            "broker.conf: keys of RocketMQ without effect here: deleteWhen, fileReservedTime, \
             storePathIndex, aclEnable",
            "clients are told brokerIP1=10.0.0.5, but the broker listens on 127.0.0.1 only",
            "flushDiskType=ASYNC_FLUSH acknowledges messages that a power cut can take back",
        ];
        assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
        for (warning, expected) in warnings.iter().zip(expected) {
            assert!(warning.starts_with(expected), "{warning:?} is not {expected:?}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        let pairs = [
            ("storePathRootDir", "/var/a b"),
            ("messageDelayLevel", "1s  15s 1d"),
            ("namesrvAddr", "a:1;[::1]:2"),
            ("bindAddress", "0.0.0.0"),
            ("brokerIP1", "mq.example"),
            ("insecureAllowPlaintext", "true"),
        ];
        let config = broker("", &pairs).unwrap().config;
        assert_eq!(config.message_delay_level.levels_ms, [1_000, 15_000, 86_400_000]);
        assert_eq!(broker(&config.to_properties(), &[]).unwrap().config, config);
        assert_eq!(config.validate().unwrap().len(), 1);
    }

    #[test]
    fn values_set_by_hand_are_checked_by_the_same_rules() {
        let config = BrokerConfig { max_message_size: 1.into(), ..BrokerConfig::default() };
        let ConfigError(findings) = config.validate().unwrap_err();
        assert_eq!(findings.len(), 1, "{findings:?}");
    }

    #[test]
    fn a_far_away_key_gets_the_list() {
        let ConfigError(findings) = broker("", &[("zzz", "1")]).unwrap_err();
        assert!(findings[0].starts_with("unknown key zzz: the keys are brokerClusterName, "));
    }

    #[test]
    fn name_server_addresses_have_a_port() {
        for bad in ["a", "a:", ":1", "a:0", "a:x", "a:1;b"] {
            assert!(name_servers(bad).is_err(), "{bad}");
        }
        assert_eq!(name_servers(""), Ok(Vec::new()));
    }

    #[test]
    fn the_list_of_foreign_keys_is_in_order() {
        assert!(ROCKETMQ_KEYS.lines().is_sorted());
    }
}
