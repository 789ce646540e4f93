//! The program `mq` as a shell meets it: its one line, its exit codes, its words.

#![expect(clippy::unwrap_used, reason = "a test fails when its set-up does")]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

const WRONG_CONFIGURATION: Option<i32> = Some(78);

fn mq(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mq"));
    command.args(args).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    mq(args).output().unwrap()
}

fn error_text(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A server that has said its line.
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    address: String,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let mut child = mq(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.trim_end().rsplit(' ').next().unwrap_or_default().to_owned();
        assert!(line.starts_with("mq: ") && !address.ends_with(":0"), "{args:?} said {line:?}");
        Self { child, stdout, address }
    }

    /// Sends messages for a moment. Gives how many were acknowledged.
    fn send(&self) -> u64 {
        let args = ["bench", "send", "--name-server", &self.address, "--in-flight", "4", "--json"];
        let output = mq(&args).args(["--warmup", "0ms", "--duration", "200ms"]).output().unwrap();
        assert!(output.status.success(), "{}", error_text(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["errors"], serde_json::json!({}));
        report["messages"].as_u64().unwrap()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Stops it in order. Nothing more may have been said.
    fn stop(mut self, signal: &str) {
        self.signal(signal);
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has stopped already when the test went well.
        let _stopped = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn dev(listen: &str, store: &Path) -> Running {
    Running::start(&["dev", "--listen", listen, "--store", store.to_str().unwrap()])
}

#[test]
fn dev_serves_until_it_is_told_to_stop_and_keeps_its_messages() {
    let folder = tempfile::tempdir().unwrap();
    let running = dev("127.0.0.1:0", folder.path());
    assert!(running.send() > 0);
    running.stop("-TERM");
    let running = dev("127.0.0.1:0", folder.path());
    let args = ["bench", "consume", "--name-server", &running.address, "--json"];
    let output = mq(&args).args(["--warmup", "0ms", "--duration", "200ms"]).output().unwrap();
    assert!(output.status.success(), "{}", error_text(&output));
    running.stop("-INT");
}

#[test]
fn a_name_server_and_a_broker_find_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let name_server = Running::start(&["namesrv", "--set", "listenPort=0"]);
    let conf = folder.path().join("broker.conf");
    let store = folder.path().join("store");
    let text = format!(
        "brokerName = broker-b\nlistenPort = 0\nstorePathRootDir = {}\ndeleteWhen = 04\n",
        store.display()
    );
    #[expect(clippy::disallowed_methods, reason = "a test writes what an administrator would")]
    std::fs::write(&conf, text).unwrap();
    let broker =
        Running::start(&["broker", "-c", conf.to_str().unwrap(), "-n", &name_server.address]);
    assert!(name_server.send() > 0, "through the name server");
    broker.stop("-TERM");
    let args = ["bench", "send", "--name-server", &name_server.address];
    let output = run(&args);
    assert_eq!(output.status.code(), Some(1));
    assert!(error_text(&output).contains("no route for topic"), "{}", error_text(&output));
    name_server.stop("-TERM");
}

#[test]
fn a_wrong_configuration_is_told_as_a_whole() {
    let sets = ["dev", "--set", "brokerNmae=b", "--set", "flushDiskType=NONE"];
    let output = run(&sets);
    assert_eq!(output.status.code(), WRONG_CONFIGURATION);
    let text = error_text(&output);
    assert!(text.contains("unknown key brokerNmae: did you mean brokerName?"), "{text}");
    assert!(text.contains("flushDiskType=NONE: accepts SYNC_FLUSH or ASYNC_FLUSH"), "{text}");
    let output = run(&["dev", "--listen", "0.0.0.0:0"]);
    assert_eq!(output.status.code(), WRONG_CONFIGURATION);
    assert!(error_text(&output).contains("insecureAllowPlaintext=true"));
    let output = run(&["namesrv", "-c", "/does/not/exist.conf"]);
    assert_eq!(output.status.code(), WRONG_CONFIGURATION);
    assert!(error_text(&output).contains("/does/not/exist.conf"), "{}", error_text(&output));
}

#[test]
fn a_mistaken_command_line_is_a_wrong_configuration() {
    for args in [&["nothing"][..], &["dev", "--set", "x"], &["bench", "send", "--size", "0"]] {
        assert_eq!(run(args).status.code(), WRONG_CONFIGURATION, "{args:?}");
    }
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(run(&["--version"]).status.code(), Some(0));
}

#[test]
fn what_is_taken_is_named_with_the_mend() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    let running = dev("127.0.0.1:0", &one);
    let (one, other) = (one.to_str().unwrap(), other.to_str().unwrap());
    let output = run(&["dev", "--listen", &running.address, "--store", other]);
    assert_eq!(output.status.code(), WRONG_CONFIGURATION);
    let text = error_text(&output);
    assert!(text.contains(&running.address) && text.contains("listenPort"), "{text}");
    let output = run(&["dev", "--listen", "127.0.0.1:0", "--store", one]);
    assert_eq!(output.status.code(), WRONG_CONFIGURATION);
    let text = error_text(&output);
    assert!(text.contains(one), "{text}");
    running.stop("-TERM");
}
