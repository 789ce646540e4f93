//! What a `#[bean]` function returns, taken apart by its type and not by its spelling: `T`,
//! `Arc<T>`, or a `Result` of one of them. Not here: the definition of a factory
//! (`app/component.rs`).
//!
//! Generated code cannot name `T`. It asks `returned::<R>().made().bean()` instead, where a method
//! of the type itself wins over a trait's: `Result` and `Arc` have such methods, all else has the
//! trait's.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::app::component::{Ext, Key, Scope};
use crate::error::Error;

/// What a factory's return type says, found without naming it: `T` or `Result<T, E>`.
#[derive(Debug)]
pub struct Returned<R>(PhantomData<R>);

/// A return type.
#[must_use]
pub fn returned<R>() -> Returned<R> {
    Returned(PhantomData)
}

impl<T, E> Returned<Result<T, E>> {
    /// What a fallible factory makes.
    #[must_use]
    pub fn made(self) -> Made<T> {
        Made(PhantomData)
    }

    /// The value, or why there is none.
    ///
    /// # Errors
    /// The factory's own.
    pub fn value(self, returned: Result<T, E>) -> Result<T, Error>
    where
        E: fmt::Display,
    {
        returned.map_err(|error| Error::Start(format!("{error:#}")))
    }
}

/// The answer of [`Returned`] for everything that is no `Result`.
pub trait Infallible<T> {
    /// What the factory makes.
    fn made(self) -> Made<T>;

    /// The value.
    ///
    /// # Errors
    /// None.
    fn value(self, returned: T) -> Result<T, Error>;
}

impl<T> Infallible<T> for Returned<T> {
    fn made(self) -> Made<T> {
        Made(PhantomData)
    }

    fn value(self, returned: T) -> Result<T, Error> {
        Ok(returned)
    }
}

/// What a factory makes: a value, or an `Arc` of one, which is taken for the value.
#[derive(Debug)]
pub struct Made<T>(PhantomData<T>);

impl<T: ?Sized> Made<Arc<T>> {
    /// The bean.
    #[must_use]
    pub fn bean(self) -> Target<T> {
        Target(PhantomData)
    }

    /// The value, shared.
    #[must_use]
    pub fn share(self, made: Arc<T>) -> Arc<T> {
        made
    }
}

/// The answer of [`Made`] for everything that is no `Arc`.
pub trait Owned<T> {
    /// The bean.
    fn bean(self) -> Target<T>;

    /// The value, shared.
    fn share(self, made: T) -> Arc<T>;
}

impl<T> Owned<T> for Made<T> {
    fn bean(self) -> Target<T> {
        Target(PhantomData)
    }

    fn share(self, made: T) -> Arc<T> {
        Arc::new(made)
    }
}

/// The type as which a factory's value is injected.
#[derive(Debug)]
pub struct Target<T: ?Sized>(PhantomData<T>);

impl<T: Send + Sync + ?Sized + 'static> Target<T> {
    /// Its key under a qualifier.
    #[must_use]
    pub fn key<Q: 'static>(self) -> Key {
        Key::of::<T, Q>()
    }

    /// The value in the scope. For generated code.
    ///
    /// # Panics
    /// Never: a factory's `destroy` is called after the factory.
    #[must_use]
    pub fn get<Q: 'static>(self, scope: &Scope) -> Ext<T, Q> {
        scope.ext().expect("a value is destroyed after it is made")
    }
}

#[cfg(test)]
mod tests {
    use std::any::TypeId;

    use super::*;

    #[test]
    fn a_factory_may_fail_and_may_share() {
        fn id(key: Key) -> TypeId {
            key.id()
        }
        let plain = returned::<String>().made().bean().key::<()>();
        let fallible = returned::<Result<String, u8>>().made().bean().key::<()>();
        let shared = returned::<Arc<str>>().made().bean().key::<()>();
        let both = returned::<Result<Arc<str>, u8>>().made().bean().key::<u8>();
        let expected = [Key::of::<String, ()>(), Key::of::<String, ()>(), Key::of::<str, ()>()];
        assert_eq!([plain, fallible, shared].map(id), expected.map(id));
        assert_eq!(both.to_string(), "Ext<str, u8>");
        assert_ne!(both.id(), shared.id());
    }
}
