//! What tests of applications share: an application with a broker of its own, and notes that
//! handlers and hooks take for the test to read. Not here: a listener.

use std::path::Path;
use std::time::Duration;

use common_mq::App;
use common_mq::prelude::component;
use tokio::sync::mpsc;

/// Nothing that a test waits for takes this long.
const DEADLINE: Duration = Duration::from_secs(60);

/// Takes notes. Listeners and hooks have it injected.
#[component(provided)]
#[derive(Clone, Debug)]
pub struct Notes(mpsc::UnboundedSender<String>);

/// Reads notes in the order they were taken.
#[derive(Debug)]
pub struct Reader(mpsc::UnboundedReceiver<String>);

impl Notes {
    /// An empty notebook.
    #[must_use]
    pub fn new() -> (Self, Reader) {
        let (notes, reader) = mpsc::unbounded_channel();
        (Self(notes), Reader(reader))
    }

    /// Takes a note; after the reader has gone, nobody cares.
    pub fn take(&self, note: impl Into<String>) {
        _ = self.0.send(note.into());
    }
}

impl Reader {
    /// The next note, once it is taken.
    ///
    /// # Panics
    /// When none is taken in time.
    pub async fn next(&mut self) -> String {
        let note = tokio::time::timeout(DEADLINE, self.0.recv()).await;
        note.expect("a note is taken in time").expect("somebody can still take notes")
    }

    /// The notes taken by now.
    pub fn rest(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.0.try_recv().ok()).collect()
    }
}

/// An application of what it will be given, with a broker inside whose every retry comes after a
/// second.
pub fn application(store: &Path) -> App {
    App::bare()
        .set("mq.embedded.store", store.display().to_string())
        .set("mq.embedded.settings.messageDelayLevel", ["1s"; 18].join(" "))
}
