//! The Java programs of `tests/interop/java`, compiled once for each version of RocketMQ's client,
//! and those of `tests/interop/java5`, which Java compiles when it runs them.
//!
//! Building them, and what happens where it is impossible: `foreign.rs`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::foreign::{Foreign, build};
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

    /// As [`Self::with_client`], with the driver of the admin tool, `rocketmq-tools` of `version`.
    pub fn with_admin_tool(version: &str) -> Option<Self> {
        let folder = build("mqadmin", &["java -version", "mvn -version"], &[version])?;
        Some(Self { folder })
    }

    /// Runs command lines of the admin tool, one after the other, and gives what each has printed.
    /// A word may not contain a blank.
    ///
    /// # Panics
    /// When the tool does not come to its end.
    #[expect(clippy::disallowed_methods, reason = "the files are the tool's, not the broker's")]
    pub fn administer(&self, name_server: &str, scratch: &Path, lines: &[String]) -> Vec<String> {
        let conf = scratch.join("conf");
        std::fs::create_dir_all(&conf).expect("a scratch folder can be filled");
        let silence = "<configuration><root level=\"OFF\"/></configuration>";
        std::fs::write(conf.join("logback_tools.xml"), silence).expect("a scratch file");
        let list = scratch.join("commands");
        let tabs: String = lines.iter().map(|line| line.replace(' ', "\t") + "\n").collect();
        std::fs::write(&list, tabs).expect("a scratch file");
        let mut java = self.command(scratch);
        java.env("ROCKETMQ_HOME", scratch).env("NAMESRV_ADDR", name_server);
        // Some commands leave files where they are run.
        java.current_dir(scratch).arg("MqAdmin").arg(&list);
        let printed = Program::start(&mut java, scratch.join("MqAdmin.log"));
        let printed = printed.finish(Duration::from_secs(180));
        let parts = printed.split(|line| line.starts_with("#### "));
        let parts: Vec<String> = parts.skip(1).map(|part| part.join("\n")).collect();
        assert_eq!(parts.len(), lines.len() + 1, "{printed:#?}");
        parts
    }

    /// Starts a program against a name server; `scratch` is its home folder and takes its log.
    pub fn start(&self, class: &str, name_server: &str, scratch: &Path) -> Program {
        let mut java = self.command(scratch);
        Program::start(java.args([class, name_server]), scratch.join(format!("{class}.log")))
    }

    fn command(&self, scratch: &Path) -> Command {
        let folder = self.folder.display();
        let mut java = Command::new("java");
        java.arg("--add-opens=java.base/java.nio=ALL-UNNAMED")
            .args(["-Xmx128m", "-XX:TieredStopAtLevel=1"])
            .arg(format!("-Duser.home={}", scratch.display()))
            .args(["-cp", &format!("{folder}/classes:{folder}/dependency/*")]);
        java
    }

    /// The program of `tests/interop/java49`, for clients from 4.9 on.
    #[must_use]
    pub fn interop(&self) -> Foreign {
        let folder = self.folder.display();
        let path = format!("{folder}/classes:{folder}/dependency/*");
        let options = ["-Xmx128m", "-XX:TieredStopAtLevel=1", "-Duser.home=.", "-cp", &path];
        let arguments = options.into_iter().chain(["Interop"]).map(str::to_owned).collect();
        Foreign { program: "java".into(), arguments }
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
