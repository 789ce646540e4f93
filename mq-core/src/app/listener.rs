//! Listeners: what `#[mq_listener]` writes down, the same with the configuration applied, the
//! checks that need all listeners at once, and the table shown at start-up. Not here: how a
//! listener is called (`app/handler.rs`), the consumers (`client`).
//!
//! Invariant: one consumer group has one listener. Every member of a RocketMQ group must hold the
//! same subscription, or messages are lost without a word.

use std::collections::BTreeMap;
use std::fmt;

use crate::app::component::{BeanDef, BeanNeed, Scope};
use crate::app::config::{Config, Settings};
use crate::app::graph::Wanted;
use crate::app::handler::{Handling, Part, payload_topic};
use crate::app::registry::Place;
use crate::client::{ConsumerOptions, ExpressionType, Subscription};
use crate::message::Delivery;
use crate::names;

/// What `#[mq_listener]` writes down. Its strings may hold `${...}`.
#[derive(Debug)]
pub struct ListenerDef {
    /// The function's name, or `Type::method`.
    pub name: &'static str,
    /// The topic; `None` means the payload type's.
    pub topic: Option<&'static str>,
    /// The consumer group.
    pub group: &'static str,
    /// The tag expression; `None` means the payload type's tag, or all.
    pub tags: Option<&'static str>,
    /// An SQL92 condition on the messages' properties, in place of tags.
    pub sql: Option<&'static str>,
    /// The name in the configuration; `None` means the group.
    pub id: Option<&'static str>,
    /// Messages handled at once; `None` means the client's default.
    pub concurrency: Option<&'static str>,
    /// Whether it starts with the application; `None` means `true`.
    pub autostart: Option<&'static str>,
    /// The component whose method it is.
    pub owner: Option<fn() -> &'static BeanDef>,
    /// Lower phases start first and drain last.
    pub phase: i32,
    /// Its parameters.
    pub parts: &'static [Part],
    /// Takes the parameters out of a delivery and calls the function.
    pub call: for<'a> fn(&'a Scope, &'a Delivery) -> Handling<'a>,
    /// Where it is written.
    pub place: Place,
}

/// A listener with the configuration applied.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    pub(crate) definition: &'static ListenerDef,
    pub(crate) id: String,
    pub(crate) subscription: Subscription,
    pub(crate) group: String,
    pub(crate) concurrency: Option<usize>,
    pub(crate) autostart: bool,
}

impl ListenerDef {
    /// The beans it cannot do without.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = Wanted> {
        let owner = self.owner.map(|of| BeanNeed { key: (of().key)(), component: Some(of) });
        let parts = self.parts.iter().filter_map(|part| match part {
            Part::Bean(need) => Some(*need),
            Part::Body { .. } | Part::Other => None,
        });
        let by = format!("{}  {}", self.place, self.name);
        owner.into_iter().chain(parts).map(move |need| Wanted { by: by.clone(), need })
    }

    /// Resolves the strings; what is wrong is added to `findings`.
    pub(crate) fn resolve(
        &'static self,
        config: &Config,
        findings: &mut Vec<String>,
    ) -> Option<Listener> {
        let mut wrong = |what: &str, error: String| {
            findings.push(format!("{what}: {error}\n  {}  {}", self.place, self.name));
            None
        };
        let mut text = |what: &str, text: &str, check: fn(&str) -> Result<(), String>| {
            let resolved = config.resolve(text).and_then(|text| check(&text).map(|()| text));
            resolved.map_or_else(|error| wrong(what, error), Some)
        };
        let topic = self.topic.or(payload_topic(self.parts)).unwrap_or_default();
        let topic = text("topic", topic, names::check_topic);
        let group = text("group", self.group, names::check_group);
        let expression = match self.sql {
            Some(sql) => text("sql", sql, check_sql),
            None => text("tags", self.tags.or(self.payload_tag()).unwrap_or("*"), check_tags),
        };
        let id = self.id.map_or_else(|| group.clone(), |id| text("id", id, |_| Ok(())));
        let autostart = text("autostart", self.autostart.unwrap_or("true"), check_autostart);
        let concurrency = self.concurrency.map(|count| text("concurrency", count, check_count));
        Some(Listener {
            definition: self,
            id: id?,
            subscription: match self.sql {
                Some(_) => Subscription::sql(topic?, expression?),
                None => Subscription::new(topic?, expression?),
            },
            group: group?,
            concurrency: concurrency.map_or(Some(None), |count| Some(count?.parse().ok()))?,
            autostart: autostart? == "true",
        })
    }

    /// The name in the configuration; `None` if a placeholder in it is not configured.
    pub(crate) fn id(&self, config: &Config) -> Option<String> {
        config.resolve(self.id.unwrap_or(self.group)).ok()
    }

    fn payload_tag(&self) -> Option<&'static str> {
        self.parts.iter().find_map(|part| match part {
            Part::Body { tag, .. } => *tag,
            Part::Bean(_) | Part::Other => None,
        })
    }
}

/// `*`, or tags joined by `||`.
fn check_tags(expression: &str) -> Result<(), String> {
    mq_filter::check_tags(expression).map_err(|error| error.to_string())
}

fn check_sql(condition: &str) -> Result<(), String> {
    mq_filter::Sql::check(condition).map(drop).map_err(|error| error.to_string())
}

fn check_autostart(text: &str) -> Result<(), String> {
    match text {
        "true" | "false" => Ok(()),
        _ => Err(format!("`{text}` is neither `true` nor `false`")),
    }
}

fn check_count(text: &str) -> Result<(), String> {
    match text.parse::<usize>() {
        Ok(1..) => Ok(()),
        _ => Err(format!("`{text}` is no whole number of at least 1")),
    }
}

impl Listener {
    /// Applies `[mq.listener.<id>]`.
    pub(crate) fn configure(&mut self, settings: &Settings) {
        if let Some(own) = settings.listeners.get(&self.id) {
            self.concurrency = own.concurrency.or(self.concurrency);
            self.autostart = own.autostart.unwrap_or(self.autostart);
        }
    }

    /// The consumer that calls it.
    pub(crate) fn consumer(&self) -> ConsumerOptions {
        let mut options = ConsumerOptions::new(&self.group);
        options.subscriptions.push(self.subscription.clone());
        options.concurrency = self.concurrency.unwrap_or(options.concurrency);
        options
    }
}

/// Complaints about groups and ids that two listeners share.
pub(crate) fn check(listeners: &[Listener], findings: &mut Vec<String>) {
    for (group, sharing) in shared(listeners, |listener| &listener.group) {
        findings.push(shared_group(group, &sharing));
    }
    for (id, sharing) in shared(listeners, |listener| &listener.id) {
        // Two listeners of one group have one id by default; the group is what is wrong then.
        if sharing.iter().all(|listener| listener.group == sharing[0].group) {
            continue;
        }
        findings.push(format!(
            "the id `{id}` belongs to two listeners\n{}\n  give one of them another: `id = \"...\"`",
            lines(&sharing)
        ));
    }
}

fn shared(
    listeners: &[Listener],
    by: fn(&Listener) -> &String,
) -> impl Iterator<Item = (&str, Vec<&Listener>)> {
    let mut groups: BTreeMap<&str, Vec<&Listener>> = BTreeMap::new();
    for listener in listeners {
        groups.entry(by(listener)).or_default().push(listener);
    }
    groups.into_iter().filter(|(_, sharing)| sharing.len() > 1)
}

fn shared_group(group: &str, sharing: &[&Listener]) -> String {
    let same = sharing.iter().all(|listener| listener.subscription == sharing[0].subscription);
    let lines = lines(sharing);
    match same {
        true => format!(
            "consumer group `{group}` has several listeners of one subscription\n{lines}\n  each \
             message would reach only one of them: keep one and raise its `concurrency`, or give \
             each a group of its own"
        ),
        false => format!(
            "consumer group `{group}` has different subscriptions\n{lines}\n  every member of a \
             RocketMQ group must hold the same subscription, or messages are lost: give each \
             listener a group of its own"
        ),
    }
}

fn lines(listeners: &[&Listener]) -> String {
    let line = |listener: &&Listener| {
        let ListenerDef { place, name, .. } = listener.definition;
        let Subscription { topic, expression, expression_type } = &listener.subscription;
        let kind = match expression_type {
            ExpressionType::Tag => "tags",
            ExpressionType::Sql92 => "sql",
        };
        format!("  {place}  {name}  -> topic `{topic}` {kind} `{expression}`")
    };
    listeners.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The listeners of an application, as a table.
#[derive(Clone, Debug)]
pub struct Table(Vec<[String; 6]>);

impl Table {
    pub(crate) fn new(listeners: &[Listener]) -> Self {
        let head = ["listener", "topic", "expression", "group", "concurrency", "source"];
        let row = |listener: &Listener| {
            let concurrency = match listener.autostart {
                true => listener.consumer().concurrency.to_string(),
                false => "not started".to_owned(),
            };
            let Listener { definition, subscription, group, .. } = listener;
            let (name, place) = (definition.name.to_owned(), definition.place.to_string());
            let Subscription { topic, expression, .. } = subscription.clone();
            [name, topic, expression, group.clone(), concurrency, place]
        };
        Self([head.map(str::to_owned)].into_iter().chain(listeners.iter().map(row)).collect())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = [0; 6];
        for row in &self.0 {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in &self.0 {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::config::Layers;
    use crate::client::Outcome;

    const fn definition(name: &'static str, line: u32) -> ListenerDef {
        ListenerDef {
            name,
            topic: None,
            group: "${shop.group:billing}",
            tags: None,
            sql: None,
            id: None,
            concurrency: Some("${shop.lanes:4}"),
            autostart: Some("${shop.billing:true}"),
            owner: None,
            phase: 0,
            parts: &[Part::Body { topic: Some("orders"), tag: Some("paid") }],
            call: |_, _| Box::pin(async { Ok(Outcome::Ack) }),
            place: Place { module: "shop", file: "src/lib.rs", line },
        }
    }

    static FIRST: ListenerDef = definition("on_paid", 3);
    static SECOND: ListenerDef = definition("on_any", 30);
    static ILLEGAL: ListenerDef = ListenerDef {
        topic: Some("${x}"),
        group: "a b",
        autostart: Some("yes"),
        concurrency: Some("${y:none}"),
        tags: Some("a|b"),
        ..definition("bad", 60)
    };

    fn resolved(definition: &'static ListenerDef) -> Listener {
        let config = Config::load(&Layers::none()).expect("nothing to read");
        definition.resolve(&config, &mut Vec::new()).expect("it is legal")
    }

    fn findings(listeners: &[Listener]) -> Vec<String> {
        let mut findings = Vec::new();
        check(listeners, &mut findings);
        findings
    }

    #[test]
    fn topic_and_tag_come_from_the_payload_and_the_id_from_the_group() {
        let Listener { subscription, group, id, .. } = resolved(&FIRST);
        assert_eq!(subscription, Subscription::new("orders", "paid"));
        assert_eq!([&*group, &*id], ["billing", "billing"]);
    }

    #[test]
    fn a_condition_takes_the_place_of_the_payloads_tag() {
        static BY_SQL: ListenerDef =
            ListenerDef { sql: Some("region = '${shop.region:eu}'"), ..definition("by_sql", 9) };
        let listener = resolved(&BY_SQL);
        assert_eq!(listener.subscription, Subscription::sql("orders", "region = 'eu'"));
        assert_eq!(listener.consumer().subscriptions, std::slice::from_ref(&listener.subscription));
        static NO_SQL: ListenerDef =
            ListenerDef { sql: Some("region == 'eu'"), ..definition("no_sql", 12) };
        let config = Config::load(&Layers::none()).expect("nothing to read");
        let mut findings = Vec::new();
        assert!(NO_SQL.resolve(&config, &mut findings).is_none());
        assert!(findings[0].starts_with("sql: character 9: `=`, expected"), "{findings:?}");
    }

    #[test]
    fn every_wrong_string_is_a_finding() {
        let config = Config::load(&Layers::none()).expect("nothing to read");
        let mut findings = Vec::new();
        assert!(ILLEGAL.resolve(&config, &mut findings).is_none());
        assert_eq!(findings.len(), 5, "{findings:?}");
        assert!(findings.iter().all(|finding| finding.ends_with("src/lib.rs:60  bad")));
    }

    #[test]
    fn whether_it_starts_is_configured_by_the_program_and_for_the_listener() {
        let sets = vec![("shop.billing".to_owned(), "false".to_owned())];
        let config = Config::load(&Layers { sets, ..Layers::none() }).expect("legal");
        let off = FIRST.resolve(&config, &mut Vec::new()).expect("it is legal");
        assert!(resolved(&FIRST).autostart && !off.autostart);
    }

    #[test]
    fn one_group_has_one_listener() {
        let first = resolved(&FIRST);
        let same = resolved(&SECOND);
        let other = Listener { subscription: Subscription::new("orders", "*"), ..same.clone() };
        let apart =
            Listener { group: "search".to_owned(), id: "search".to_owned(), ..same.clone() };
        assert_eq!(findings(&[first.clone(), apart]), Vec::<String>::new());
        let found = findings(&[first.clone(), same]);
        assert!(found.len() == 1 && found[0].contains("raise its `concurrency`"), "{found:?}");
        let found = findings(&[first, other]);
        assert!(found.len() == 1 && found[0].contains("different subscriptions"), "{found:?}");
        assert!(found[0].contains("src/lib.rs:3 ") && found[0].contains("src/lib.rs:30 "));
    }

    #[test]
    fn an_id_belongs_to_one_listener() {
        let first = resolved(&FIRST);
        let second = Listener { group: "search".to_owned(), ..resolved(&SECOND) };
        let found = findings(&[first, second]);
        assert!(found.len() == 1 && found[0].contains("the id `billing`"), "{found:?}");
    }

    #[test]
    fn the_table_shows_each_listener_in_columns() {
        let off = Listener { autostart: false, ..resolved(&SECOND) };
        let table = Table::new(&[resolved(&FIRST), off]).to_string();
        let expected = "\
listener  topic   expression  group    concurrency  source
on_paid   orders  paid        billing  4            src/lib.rs:3
on_any    orders  paid        billing  not started  src/lib.rs:30
";
        assert_eq!(table, expected);
    }
}
