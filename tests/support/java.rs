//! The Java programs of `tests/interop/java`, compiled once for each version of RocketMQ's client,
//! and those of `tests/interop/java5`, which Java compiles when it runs them.
//!
//! Where Java or Maven is missing they cannot run: that is told on standard error, and a failure
//! when `MQ_REQUIRE_INTEROP=1` asks for them.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::program::Program;

/// Compiled programs and the client they use.
#[derive(Debug)]
pub struct Java {
    folder: PathBuf,
}

impl Java {
    /// Compiles the programs with `version` of `org.apache.rocketmq:rocketmq-client`, unless they
    /// are. `None` where that is impossible and nobody insists on it.
    ///
    /// # Panics
    /// When they do not compile, or cannot be and `MQ_REQUIRE_INTEROP=1`.
    pub fn with_client(version: &str) -> Option<Self> {
        for tool in [["java", "-version"], ["mvn", "-version"]] {
            let [name, argument] = tool;
            let found = Command::new(name).arg(argument).output();
            if found.is_ok_and(|output| output.status.success()) {
                continue;
            }
            assert!(!is_required(), "MQ_REQUIRE_INTEROP=1, and there is no `{name}`");
            // Past the capture of the test harness: a skipped test is to be seen.
            let line = format!("SKIPPED: a test needs `{name}`, which is not installed\n");
            let _unseen = std::io::stderr().write_all(line.as_bytes());
            return None;
        }
        let test = env::current_exe().expect("a test knows its own file");
        let target = test.ancestors().nth(3).expect("a test lies in the target folder");
        let folder = target.join("interop").join(format!("java-{version}"));
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/java/build");
        let status = Command::new(build).arg(&folder).arg(version).status();
        assert!(status.is_ok_and(|status| status.success()), "the Java programs do not compile");
        Some(Self { folder })
    }

    /// Starts a program against a name server; `scratch` is its home folder and takes its log.
    pub fn start(&self, class: &str, name_server: &str, scratch: &Path) -> Program {
        let folder = self.folder.display();
        let mut java = Command::new("java");
        java.arg("--add-opens=java.base/java.nio=ALL-UNNAMED")
            .args(["-Xmx128m", "-XX:TieredStopAtLevel=1"])
            .arg(format!("-Duser.home={}", scratch.display()))
            .args(["-cp", &format!("{folder}/classes:{folder}/dependency/*")])
            .args([class, name_server]);
        Program::start(&mut java, scratch.join(format!("{class}.log")))
    }

    /// Starts a program of `tests/interop/java5`, which uses what clients before 5.x do not have.
    pub fn start_5(&self, class: &str, name_server: &str, scratch: &Path) -> Program {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/java5").join(class);
        let mut java = Command::new("java");
        java.args(["-Xmx128m", "-XX:TieredStopAtLevel=1"])
            .arg(format!("-Duser.home={}", scratch.display()))
            .args(["-cp", &format!("{}/dependency/*", self.folder.display())])
            .arg(source.with_extension("java"))
            .arg(name_server);
        Program::start(&mut java, scratch.join(format!("{class}.log")))
    }

    /// Runs a program to its end and returns what it has printed.
    pub fn run(&self, class: &str, name_server: &str, scratch: &Path) -> Vec<String> {
        self.start(class, name_server, scratch).finish(Duration::from_secs(60))
    }
}

fn is_required() -> bool {
    env::var("MQ_REQUIRE_INTEROP").is_ok_and(|value| value == "1")
}
