//! The process around an application: runtime, arguments, tracing, signals and exit code. Not here:
//! the application.

use std::error::Error as StdError;
use std::io::IsTerminal;
use std::process::ExitCode;

use crate::app::App;
use crate::app::registry::CrateDef;
use crate::error::Error;

/// `EX_CONFIG` of sysexits.h: supervisors need not try again.
const WRONG_CONFIGURATION: u8 = 78;

/// The body of `main` under `#[common_mq::main]`.
pub fn enter<F, Running, E>(scanned: &'static [&'static CrateDef], main: F) -> ExitCode
where
    F: FnOnce(App) -> Running,
    Running: Future<Output = Result<(), E>>,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    let app = App { scanned, ..App::new() }.with_arguments(std::env::args().skip(1));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(main(app)).map_err(Into::into),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            exit_code(error.as_ref())
        }
    }
}

fn exit_code(error: &(dyn StdError + 'static)) -> ExitCode {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    let wrong =
        |error: &(dyn StdError + 'static)| matches!(error.downcast_ref(), Some(Error::Config(_)));
    match causes.into_iter().any(wrong) {
        true => ExitCode::from(WRONG_CONFIGURATION),
        false => ExitCode::FAILURE,
    }
}

impl App {
    /// Takes `--set key=value` and `--set=key=value`; other arguments are the program's own.
    fn with_arguments(mut self, mut arguments: impl Iterator<Item = String>) -> Self {
        while let Some(argument) = arguments.next() {
            let pair = match argument.strip_prefix("--set") {
                Some("") => arguments.next().unwrap_or_default(),
                Some(rest) if rest.starts_with('=') => rest.replacen('=', "", 1),
                _ => continue,
            };
            match pair.split_once('=') {
                Some((key, value)) => self = self.set(key, value),
                None => self.mistakes.push(format!("`--set {pair}`: write `--set key=value`")),
            }
        }
        self
    }
}

/// Logs to stdout by `RUST_LOG`, unless the program has installed a subscriber of its own.
pub(crate) fn install_tracing() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    // An error says that there is a subscriber already, which is then the one that is wanted.
    _ = log.with_ansi(std::io::stdout().is_terminal()).try_init();
}

/// The producer group of this program: what operators see beside its connection.
pub(crate) fn producer_group() -> String {
    let program = std::env::current_exe().ok();
    let name = program.as_ref().and_then(|path| path.file_stem()?.to_str()).unwrap_or("common-mq");
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    name.chars().map(|c| if legal(c) { c } else { '_' }).take(100).collect()
}

/// SIGTERM and ctrl-c, from the moment this exists.
#[cfg(unix)]
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub(crate) fn new() -> Result<Self, Error> {
        use tokio::signal::unix::{SignalKind, signal};
        let wrong = |error| Error::Start(format!("cannot watch signals: {error}"));
        let terminate = signal(SignalKind::terminate()).map_err(wrong)?;
        let interrupt = signal(SignalKind::interrupt()).map_err(wrong)?;
        Ok(Self { terminate, interrupt })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Ctrl-c.
#[cfg(not(unix))]
pub(crate) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Self)
    }

    pub(crate) async fn next(&mut self) {
        // A failure to watch it leaves the program running, as without a signal.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_taken_from_the_arguments() {
        let arguments = ["--set", "a.b=1", "--port", "80", "--set=c=d=e", "--set", "f"];
        let app = App::bare().with_arguments(arguments.into_iter().map(str::to_owned));
        let pairs = [("a.b", "1"), ("c", "d=e")];
        assert_eq!(app.sets, pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(app.mistakes.len(), 1);
    }

    #[test]
    fn a_wrong_configuration_has_an_exit_code_of_its_own() {
        let config = Error::Config("mq.mode".to_owned());
        assert_eq!(exit_code(&config), ExitCode::from(78));
        assert_eq!(exit_code(&Error::Closed("done".to_owned())), ExitCode::FAILURE);
    }
}
