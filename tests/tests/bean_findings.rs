//! Beans that nobody makes, that two make, or that need each other in a circle refuse the start,
//! with every place and the mend.

use common_mq::Error;
use common_mq::prelude::*;
use support::application;

struct Pool;
struct Pools;
struct Readonly;

#[bean(qualifier = Readonly)]
fn replica() -> Pool {
    Pool
}

#[mq_listener(topic = "orders", group = "billing")]
async fn on_order(_pool: Ext<Pool>, _pools: Ext<Pools, Readonly>) {}

struct Clerk;

#[bean]
fn first_clerk() -> Clerk {
    Clerk
}

#[bean]
fn second_clerk() -> Clerk {
    Clerk
}

#[component]
trait Till: Send + Sync {}

#[component(provides = dyn Till)]
struct Drawer {}
impl Till for Drawer {}

#[component(provides = dyn Till)]
struct Reader {}
impl Till for Reader {}

#[component]
trait Door: Send + Sync {}

#[component]
struct Counter {
    _clerk: Ext<Clerk>,
    _till: Bean<dyn Till>,
    _door: Bean<dyn Door>,
}

struct Egg;

#[component(provides = dyn Layer)]
struct Hen {
    _egg: Ext<Egg>,
}
impl Layer for Hen {}

#[component]
trait Layer: Send + Sync {}

#[bean]
async fn egg(_layer: Bean<dyn Layer>) -> Egg {
    Egg
}

/// Where this file has a definition.
fn place(of: &str) -> String {
    let at = include_str!("bean_findings.rs").lines().position(|line| line.starts_with(of));
    let name = of.rsplit(' ').next().unwrap_or(of);
    format!("tests/tests/bean_findings.rs:{}  {name}", at.expect("it is here") + 1)
}

async fn refused(app: common_mq::App) -> String {
    let error = app.start().await.expect_err("it is refused");
    assert!(matches!(error, Error::Config(_)), "{error:?}");
    error.to_string()
}

#[track_caller]
fn assert_says(text: &str, lines: &[&str]) {
    let lines = lines.join("\n");
    assert!(text.contains(&lines), "{lines}\nis not in\n{text}");
}

#[tokio::test]
async fn a_value_that_nobody_makes_is_told_with_the_nearest() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let text = refused(application(store.path()).listener(def!(on_order))).await;
    let (on_order, replica) = (place("async fn on_order"), place("fn replica"));
    let by = format!("  {on_order}");
    let near = format!("  {replica}");
    let mean = "  did you mean `Ext<Pool, Readonly>`?";
    assert_says(&text, &["no bean makes `Ext<Pool>`", &by, mean, &near]);
    assert_says(&text, &["no bean makes `Ext<Pools, Readonly>`", &by, mean, &near]);
}

#[tokio::test]
async fn two_that_make_one_value_are_both_named() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let text = refused(application(store.path()).component::<Counter>()).await;
    let clerks = [place("fn first_clerk"), place("fn second_clerk")].map(|of| format!("  {of}"));
    assert_says(&text, &["`Ext<Clerk>` has several makers", &clerks[0], &clerks[1], "  keep one"]);
    let tills = [place("struct Drawer"), place("struct Reader")].map(|of| format!("  {of}"));
    assert_says(&text, &["`Ext<dyn Till>` has several makers", &tills[0], &tills[1]]);
    let way = [format!("  {}", place("struct Counter")), format!("  -> {}", place("trait Door"))];
    let way = way.map(|line| line.replace("  Door", "  dyn Door"));
    assert_says(&text, &["no bean provides `dyn Door`", &way[0], &way[1], "  write `#[component("]);
}

#[tokio::test]
async fn a_circle_goes_through_components_traits_and_factories() {
    let store = tempfile::tempdir().expect("a temporary directory");
    let text = refused(application(store.path()).component::<Hen>()).await;
    let hen = place("struct Hen");
    let (egg, layer) = (place("async fn egg"), place("trait Layer").replace("Layer", "dyn Layer"));
    let circle = [format!("  {hen}"), format!("  -> {egg}"), format!("  -> {layer}")];
    let [first, second, third] = &circle;
    let last = format!("  -> {hen}");
    assert_says(&text, &["beans need each other in a circle", first, second, third, &last]);
}
