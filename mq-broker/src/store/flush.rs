//! Group commit, one step: one sync covers all that was appended, then `flushed` moves. Not here:
//! when it is done and who waits.
//!
//! Invariants: a sync goes through the descriptor that wrote; a sync that failed is never tried
//! again, because the kernel has dropped the pages and would say yes; no append waits for a sync.

use std::sync::PoisonError;

use super::StoreError;
use super::commit_log::CommitLog;

/// Syncs what was appended since; says whether there was any.
pub(super) fn step(log: &CommitLog) -> Result<bool, StoreError> {
    let _one = log.flushing.lock().unwrap_or_else(PoisonError::into_inner);
    let from = log.flushed.get();
    let to = log.appended.get();
    if to <= from {
        return Ok(false);
    }
    log.check_poison()?;
    for segment in log.segments.within(from..to) {
        if let Err(error) = segment.file.sync_data() {
            let error = segment.failed("sync", error);
            log.poison(&error);
            return Err(error);
        }
    }
    log.flushed.advance(to);
    Ok(true)
}

/// Sees to it that the log is durable up to `position`, which was appended.
pub(super) fn reach(log: &CommitLog, position: u64) -> Result<(), StoreError> {
    while log.flushed.get() < position && step(log)? {}
    Ok(())
}
