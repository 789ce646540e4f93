//! The Java programs of `tests/interop/java`, compiled once for each version of RocketMQ's client,
//! and those of `tests/interop/java5`, which Java compiles when it runs them.
//!
//! Building them, and what happens where it is impossible: `foreign.rs`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::foreign::build;
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
        let folder = build("java", &["java -version", "mvn -version"], &[version])?;
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
