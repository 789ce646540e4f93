//! Child processes: their lines as they come, the program `mq`, and an end for every one of them.
//!
//! Invariant: no process outlives its [`Program`].

use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A running program and the lines it has written to its standard output.
#[derive(Debug)]
pub struct Program {
    child: Child,
    lines: Receiver<String>,
    /// What it has written so far.
    pub seen: Vec<String>,
    /// Where its standard error goes.
    pub log: PathBuf,
}

impl Program {
    /// Starts `command`; its standard error goes into the file `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[expect(clippy::disallowed_methods, reason = "the log is the test's file, not the broker's")]
    pub fn start(command: &mut Command, log: PathBuf) -> Self {
        let errors = File::options().create(true).append(true).open(&log).expect("a log opens");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = child.stdout.take().expect("the output is piped");
        let (told, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if told.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, seen: Vec::new(), log }
    }

    /// Reads until `done` holds for all lines so far.
    ///
    /// # Panics
    /// When the program ends, or says nothing new for `patience`, before that.
    pub fn wait_until(&mut self, what: &str, patience: Duration, done: impl Fn(&[String]) -> bool) {
        while !done(&self.seen) {
            match self.lines.recv_timeout(patience) {
                Ok(line) => self.seen.push(line),
                Err(why) => panic!("{what}: {why}; {}", self.told()),
            }
        }
    }

    /// Takes what it has written by now.
    pub fn read_more(&mut self) {
        self.seen.extend(self.lines.try_iter());
    }

    /// Waits for the program's end and returns its lines.
    ///
    /// # Panics
    /// When it fails, or has not ended within `patience`.
    pub fn finish(mut self, patience: Duration) -> Vec<String> {
        let begun = Instant::now();
        while let Ok(line) = self.lines.recv_timeout(patience.saturating_sub(begun.elapsed())) {
            self.seen.push(line);
        }
        assert!(begun.elapsed() < patience, "no end within {patience:?}; {}", self.told());
        let status = self.child.wait().expect("the program is our child");
        assert!(status.success(), "{status}; {}", self.told());
        std::mem::take(&mut self.seen)
    }

    /// Has the program ended?
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Ends the program without warning, as a `kill -9` does, and waits until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // A program that has ended by itself cannot be killed, and needs not.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }

    fn told(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail = log.lines().rev().take(40).collect::<Vec<_>>();
        let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
        format!("it wrote {} lines, its log ends with\n{tail}", self.seen.len())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

/// `mq dev`: broker and name server in a process of their own.
#[derive(Debug)]
pub struct MqDev {
    /// Where it serves.
    pub address: SocketAddr,
    /// The process.
    pub program: Program,
}

impl MqDev {
    /// Starts it on a free port of the loopback interface and waits until it serves.
    ///
    /// # Panics
    /// When it does not come up within half a minute.
    pub fn start(store: &Path) -> Self {
        Self::serving(Self::launch(store))
    }

    /// Starts it at an address, with settings of its own, and waits until it serves.
    ///
    /// # Panics
    /// When it does not come up within half a minute.
    pub fn start_at(store: &Path, address: &str, settings: &[&str]) -> Self {
        Self::serving(Self::launch_at(store, address, settings))
    }

    fn serving(mut program: Program) -> Self {
        let serving = |lines: &[String]| lines.iter().any(|line| line.contains("serving on "));
        program.wait_until("mq dev starts", Duration::from_secs(30), serving);
        let line = program.seen.iter().find_map(|line| line.split_once("serving on "));
        let address = line.and_then(|(_, address)| address.parse().ok());
        Self { address: address.expect("the line ends in an address"), program }
    }

    /// Starts it without waiting for anything.
    pub fn launch(store: &Path) -> Program {
        Self::launch_at(store, "127.0.0.1:0", &["flushDiskType=SYNC_FLUSH"])
    }

    fn launch_at(store: &Path, address: &str, settings: &[&str]) -> Program {
        let mut command = Command::new(mq_binary());
        command.args(["dev", "--listen", address]).arg("--store").arg(store);
        for setting in settings {
            command.args(["--set", setting]);
        }
        Program::start(&mut command, store.with_extension("log"))
    }
}

/// `mq` with other arguments: a program of its own, and the address that it says it serves on.
///
/// # Panics
/// When it does not come up within half a minute.
pub fn serving(arguments: &[&str], log: PathBuf) -> (Program, SocketAddr) {
    let mut program = Program::start(Command::new(mq_binary()).args(arguments), log);
    let address = |line: &String| line.rsplit_once(" on ")?.1.parse::<SocketAddr>().ok();
    let serves = |lines: &[String]| lines.iter().any(|line| address(line).is_some());
    program.wait_until("mq starts", Duration::from_secs(30), serves);
    let address = program.seen.iter().find_map(address).expect("a line ends in an address");
    (program, address)
}

/// The program `mq`, built from the sources as they are now.
fn mq_binary() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "mq-broker", "--bin", "mq"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let status = build.current_dir(root).status().expect("cargo runs");
        assert!(status.success(), "the program mq does not build");
        // This test is TARGET/PROFILE/deps/NAME, the program TARGET/PROFILE/mq.
        let test = env::current_exe().expect("a test knows its own file");
        let profile = test.ancestors().nth(2).expect("a test lies in a folder of its profile");
        profile.join("mq")
    })
}
