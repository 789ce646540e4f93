//! A real process: wrong wiring is refused with every finding and exit code 78; right wiring shows
//! its listeners, and SIGTERM lets it finish what it has.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

fn shop(directory: &Path, arguments: &[&str]) -> Command {
    let mut shop = Command::new(env!("CARGO_BIN_EXE_shop"));
    shop.current_dir(directory).args(arguments).env("RUST_LOG", "off");
    shop.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shop
}

/// Where the program's source has a function.
fn place(function: &str) -> String {
    let mut lines = include_str!("../programs/shop.rs").lines();
    let at = lines.position(|line| line.contains(&format!("async fn {function}(")));
    format!("tests/programs/shop.rs:{}", at.expect("the program has it") + 1)
}

fn refused(shop: &mut Command) -> (String, String) {
    let Output { status, stdout, stderr } = shop.output().expect("the program can be started");
    let text = |bytes| String::from_utf8(bytes).expect("it writes text");
    let (stdout, stderr) = (text(stdout), text(stderr));
    assert_eq!(status.code(), Some(78), "{stdout}{stderr}");
    (stdout, stderr)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the program reads the file")]
fn every_finding_is_told_at_once() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = "[mq]\ndrian = \"1s\"\n[shop]\nbills = \"our bills\"\n[mq.listener.bill]\nautostart = false";
    std::fs::write(directory.path().join("application.toml"), file).expect("writable");
    let mut shop = shop(directory.path(), &["--set", "shop.group=billing", "--set", "what"]);
    let (stdout, stderr) = refused(shop.env("SHOP_NOTES", "none").env("MQ__EMBEDED__STORE", "x"));
    assert_eq!(stdout, "", "nothing is started");
    let on_bill = format!("{}  on_bill", place("on_bill"));
    let findings = [
        "START-UP REFUSED, 6 findings",
        "`--set what`: write `--set key=value`",
        "unknown key `mq.drian` (from application.toml): did you mean `mq.drain`?",
        "unknown key `mq.embeded.store` (from environment variable MQ__EMBEDED__STORE): did you mean \
         `mq.embedded.store`?",
        "no listener has the id `bill`; did you mean `bills`?",
        "topic: ",
        &on_bill,
        "component `Notes` is missing",
    ];
    for finding in findings {
        assert!(stderr.contains(finding), "{finding}\nis not in\n{stderr}");
    }
    assert!(!directory.path().join("data").exists(), "no broker was started");
}

#[test]
fn one_group_with_two_subscriptions_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (_, stderr) = refused(&mut shop(directory.path(), &["--set=shop.group=billing"]));
    let lines = [
        "START-UP REFUSED, 1 finding",
        "",
        "consumer group `billing` has different subscriptions",
        &format!("  {}  Till::on_order  -> topic `orders` tags `new`", place("on_order")),
        &format!("  {}  on_bill  -> topic `bills` tags `*`", place("on_bill")),
        "  every member of a RocketMQ group must hold the same subscription, or messages are lost: \
         give each listener a group of its own",
    ];
    assert_eq!(stderr.lines().collect::<Vec<_>>(), lines);
}

/// A child that does not outlive its test.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(directory: &Path) -> Self {
        let mut child = shop(directory, &[]).spawn().expect("the program can be started");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> Option<String> {
        self.lines.next().map(|line| line.expect("it is text"))
    }

    fn terminate(&self) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status();
        assert!(sent.expect("there is a kill").success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[cfg(unix)]
#[test]
fn the_table_is_shown_and_a_signal_drains() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut shop = Running::start(directory.path());
    let table = [
        "listener        topic   expression  group    concurrency  source",
        &format!("Till::on_order  orders  new         billing  4            {}", place("on_order")),
        &format!("on_bill         bills   *           ledger   20           {}", place("on_bill")),
        "",
    ];
    // The first message may be faster than the table.
    let shown: Vec<String> = (0..=table.len()).filter_map(|_| shop.line()).collect();
    let (begun, shown): (Vec<_>, Vec<_>) =
        shown.iter().map(String::as_str).partition(|line| line.starts_with("order"));
    assert_eq!((&*begun, &*shown), (&["order 7 begins"][..], &table[..]));
    shop.terminate();
    let rest: Vec<String> = std::iter::from_fn(|| shop.line()).collect();
    assert_eq!(rest, ["order 7 ends", "till is closed"]);
    assert_eq!(shop.child.wait().expect("it ends").code(), Some(0));
}
