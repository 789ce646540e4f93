//! The program `mq`: arguments to configuration, run, exit code. No defaults of the broker live
//! here, and no request is looked at.
//!
//! Invariants: standard output carries what a person or script waits for (one line once it
//! serves), standard error the log; 0 is a clean stop, 1 a failure, 78 a wrong configuration.
#![forbid(unsafe_code)]

mod bench;
mod trace;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use mq_broker::broker::{self, Broker, RunningBroker};
use mq_broker::config::{BrokerConfig, ConfigError, Loaded, NameServerConfig, Settings, Sources};
use mq_broker::namesrv::NameServer;
use mq_broker::store::disk::{OsDisk, read_text};
use mq_core::Error;
use mq_core::clock::Clock;
use mq_core::server::{Server, ServerOptions};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A RocketMQ-compatible name server, broker and load generator.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Name server and broker on one port, for development and for one machine.
    Dev(Dev),
    /// A name server.
    Namesrv(Namesrv),
    /// A broker that registers with name servers.
    Broker(Standalone),
    /// Load for any RocketMQ-compatible cluster, and its figures.
    Bench(bench::Bench),
    /// What became of a message, as the clients' traces have it.
    Trace(trace::Trace),
}

#[derive(Debug, Args)]
struct Dev {
    /// Address to listen on; the port two below it is opened too, for Java clients up to 4.4.
    #[arg(long, default_value = "127.0.0.1:9876")]
    listen: SocketAddr,
    /// Folder of the store.
    #[arg(long, default_value = "mq-store")]
    store: PathBuf,
    /// A setting by its key in broker.conf, such as flushDiskType=ASYNC_FLUSH; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    sets: Vec<(String, String)>,
}

#[derive(Debug, Args)]
struct Namesrv {
    /// A namesrv.conf of Java properties.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A setting by its key in namesrv.conf; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    sets: Vec<(String, String)>,
}

#[derive(Debug, Args)]
struct Standalone {
    /// A broker.conf of Java properties.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name servers, `host:port` separated by `;`.
    #[arg(short, long, value_name = "ADDRESSES")]
    name_servers: Option<String>,
    /// A setting by its key in broker.conf; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    sets: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

const FAILED: u8 = 1;
/// EX_CONFIG of sysexits.h.
const WRONG_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(usage) => return explained(&usage),
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    log.with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return told(&Error::Closed(format!("no threads: {error}"))),
    };
    match runtime.block_on(run(arguments.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => told(&error),
    }
}

/// Help and version were asked for; everything else that the parser says is a mistake.
fn explained(usage: &clap::Error) -> ExitCode {
    // Without a stream nobody can be told.
    let _unheard = usage.print();
    match usage.use_stderr() {
        true => ExitCode::from(WRONG_CONFIGURATION),
        false => ExitCode::SUCCESS,
    }
}

fn told(error: &Error) -> ExitCode {
    eprintln!("mq: {error}");
    ExitCode::from(match error {
        Error::Config(_) => WRONG_CONFIGURATION,
        _ => FAILED,
    })
}

async fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Dev(dev) => run_dev(dev).await,
        Command::Namesrv(namesrv) => run_namesrv(namesrv).await,
        Command::Broker(broker) => run_broker(broker).await,
        Command::Bench(bench) => bench::run(bench).await,
        Command::Trace(trace) => trace::run(trace).await,
    }
}

async fn run_dev(dev: Dev) -> Result<(), Error> {
    let mut signals = Signals::new()?;
    let (address, port) = (dev.listen.ip().to_string(), dev.listen.port().to_string());
    let store = dev.store.display().to_string();
    let mut sets = vec![
        ("bindAddress".to_owned(), address),
        ("listenPort".to_owned(), port),
        ("storePathRootDir".to_owned(), store),
    ];
    sets.extend(dev.sets);
    let config: BrokerConfig = load(None, &sets)?;
    let listeners = broker::bind(config.listen()).await?;
    let kv_config_path = config.store_path_root_dir.join("config").join("kvConfig.json");
    let name_server = NameServerConfig { kv_config_path, ..NameServerConfig::default() };
    let name_server = NameServer::open(name_server, Clock::System, Arc::new(OsDisk));
    let name_server = Arc::new(name_server.map_err(|error| Error::Config(error.to_string()))?);
    let running =
        Broker::start(config, Clock::System, Arc::new(OsDisk), listeners, Some(name_server))?;
    println!("mq: serving on {}", shown(&running));
    signals.next().await;
    running.stop().await
}

async fn run_broker(standalone: Standalone) -> Result<(), Error> {
    let mut signals = Signals::new()?;
    let mut sets = standalone.sets;
    sets.extend(standalone.name_servers.map(|told| ("namesrvAddr".to_owned(), told)));
    let config: BrokerConfig = load(standalone.config.as_deref(), &sets)?;
    if config.namesrv_addr.is_empty() {
        return Err(Error::Config(
            "a broker without a name server is found by nobody: set namesrvAddr or -n, or run \
             `mq dev`, which is both"
                .to_owned(),
        ));
    }
    let listeners = broker::bind(config.listen()).await?;
    let running = Broker::start(config, Clock::System, Arc::new(OsDisk), listeners, None)?;
    tokio::select! {
        () = running.broker().registered_somewhere() => {
            println!("mq: serving on {}", shown(&running));
            signals.next().await;
        }
        () = signals.next() => {}
    }
    running.stop().await
}

async fn run_namesrv(namesrv: Namesrv) -> Result<(), Error> {
    let mut signals = Signals::new()?;
    let config: NameServerConfig = load(namesrv.config.as_deref(), &namesrv.sets)?;
    let address = config.listen();
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Error::Config(format!(
            "cannot listen on {address}: {error}; stop what holds it, or choose another listenPort"
        ))
    })?;
    let local = listener.local_addr().unwrap_or(address);
    let name_server = NameServer::open(config, Clock::System, Arc::new(OsDisk));
    let name_server = Arc::new(name_server.map_err(|error| Error::Config(error.to_string()))?);
    let mut server = Server::new(ServerOptions::default());
    server.accept(listener, &name_server);
    println!("mq: name server on {local}");
    tokio::select! {
        () = name_server.expire_forever() => {}
        () = signals.next() => {}
    }
    server.stop().await;
    Ok(())
}

fn shown(running: &RunningBroker) -> String {
    running.address().map_or_else(String::new, |address| address.to_string())
}

/// Reads a file and settings into a configuration, and logs what its author should know.
fn load<C: Settings>(file: Option<&Path>, sets: &[(String, String)]) -> Result<C, Error> {
    let text = file.map(read_text).transpose().map_err(|error| Error::Config(error.to_string()))?;
    let name = file.map(|file| file.display().to_string()).unwrap_or_default();
    let sources = Sources {
        file: text.as_deref().map(|text| (name.as_str(), text)),
        pairs: sets.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
    };
    let Loaded { config, warnings } =
        C::load(&sources).map_err(|error: ConfigError| Error::Config(error.to_string()))?;
    for warning in warnings {
        warn!("{warning}");
    }
    Ok(config)
}

/// The two signals that stop the program in order.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(|error| Error::Closed(error.to_string()));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        info!(signal = name, "stopping");
    }
}
