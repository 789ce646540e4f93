//! `Hot`: a number or switch that an administrator may change while the server runs. Not here:
//! which settings are hot (`config.rs`, by their type), who may change them (`live_settings.rs`).
//!
//! Invariants: reading is one relaxed load; a clone is the same value, so that whoever needs a
//! setting keeps a clone of it.

use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A value that may change. It takes what its setting's check lets through, nothing else.
#[derive(Clone, Debug)]
pub struct Hot<T> {
    word: Arc<AtomicU64>,
    kind: PhantomData<T>,
}

/// What fits into a word and comes out as it went in.
pub trait Word: Copy + PartialEq {
    /// The word that holds the value.
    fn to_word(self) -> u64;
    /// The value that a word holds.
    fn of_word(word: u64) -> Self;
}

impl Word for bool {
    fn to_word(self) -> u64 {
        u64::from(self)
    }

    fn of_word(word: u64) -> Self {
        word != 0
    }
}

impl Word for u64 {
    fn to_word(self) -> u64 {
        self
    }

    fn of_word(word: u64) -> Self {
        word
    }
}

impl<T: Word> Hot<T> {
    /// A value to begin with.
    pub fn new(value: T) -> Self {
        Self { word: Arc::new(AtomicU64::new(value.to_word())), kind: PhantomData }
    }

    /// The value as it is now.
    pub fn now(&self) -> T {
        T::of_word(self.word.load(Ordering::Relaxed))
    }

    pub(crate) fn set(&self, value: T) {
        self.word.store(value.to_word(), Ordering::Relaxed);
    }
}

impl<T: Word> From<T> for Hot<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T: Word> PartialEq for Hot<T> {
    fn eq(&self, other: &Self) -> bool {
        self.now() == other.now()
    }
}

impl<T: Word> Eq for Hot<T> {}

impl<T: Word + Display> Display for Hot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.now().fmt(f)
    }
}
