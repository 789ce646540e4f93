//! What can be injected: components, values of `#[bean]` factories, the sender, sections of the
//! configuration; and what the macros write down about each. Not here: the order in which beans are
//! built (`app/graph.rs`), when hooks run (`app/mod.rs`), and no global instance of anything.
//!
//! Invariant: a bean is known by the type `Ext<T, Q>` alone; `Bean<T>` is a view of `Ext<T>` of
//! which the compiler knows that somebody declared it.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;

use crate::app::config::Config;
use crate::app::listener::ListenerDef;
use crate::app::mq::Mq;
use crate::app::registry::Place;
use crate::error::Error;

/// A type of which the application holds one instance: a struct with `#[component]`, or `dyn Trait`
/// of a trait with `#[component]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a component",
    label = "not a component",
    note = "put `#[component]` on the struct or trait, or `#[component(provided)]` on a struct whose \
            instance comes from `App::provide` or from a `#[bean]`",
    note = "a value of a foreign type is made by a `#[bean]` factory and taken as `Ext<T>`"
)]
pub trait Component: Send + Sync + 'static {
    /// What the application knows about the type.
    fn definition() -> &'static BeanDef;
}

/// A shared reference to a component.
pub struct Bean<T: ?Sized>(Arc<T>);

impl<T> Bean<T> {
    /// A component made by hand, to call a listener in a unit test.
    pub fn new(component: T) -> Self {
        Self(Arc::new(component))
    }
}

impl<T: ?Sized> From<Arc<T>> for Bean<T> {
    fn from(component: Arc<T>) -> Self {
        Self(component)
    }
}

impl<T: ?Sized> Clone for Bean<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: ?Sized> Deref for Bean<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Bean<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A shared reference to what a `#[bean]` factory made: a value of a foreign type, or one of
/// several of a type, told apart by the marker type `Q`.
///
/// ```
/// # use std::sync::Arc;
/// # use mq_core::app::Ext;
/// struct Readonly;
/// let pool = Ext::new("a pool".to_owned());
/// let replica = Ext::new("another".to_owned()).qualified::<Readonly>();
/// let shared: Ext<dyn std::fmt::Debug + Send + Sync> = Ext::from(Arc::new(7) as Arc<_>);
/// assert_eq!((pool.len(), replica.len()), (6, 7));
/// ```
pub struct Ext<T: ?Sized, Q = ()> {
    value: Arc<T>,
    qualifier: PhantomData<fn() -> Q>,
}

impl<T> Ext<T> {
    /// A value made by hand, for `App::provide_ext` and for unit tests.
    pub fn new(value: T) -> Self {
        Self::from(Arc::new(value))
    }
}

impl<T: ?Sized> Ext<T> {
    /// The same value under a qualifier.
    pub fn qualified<Q>(self) -> Ext<T, Q> {
        Ext { value: self.value, qualifier: PhantomData }
    }
}

impl<T: ?Sized, Q> Ext<T, Q> {
    /// The value without its qualifier, shared.
    #[must_use]
    pub fn into_shared(self) -> Arc<T> {
        self.value
    }
}

impl<T: ?Sized> From<Arc<T>> for Ext<T> {
    fn from(value: Arc<T>) -> Self {
        Self { value, qualifier: PhantomData }
    }
}

impl<T: ?Sized, Q> Clone for Ext<T, Q> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), qualifier: PhantomData }
    }
}

impl<T: ?Sized, Q> Deref for Ext<T, Q> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: ?Sized + fmt::Debug, Q> fmt::Debug for Ext<T, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// A section of the configuration as a type.
///
/// ```
/// # use mq_core::app::ConfigSection;
/// #[derive(serde::Deserialize)]
/// struct SeckillConfig {
///     lanes: u16,
/// }
///
/// impl ConfigSection for SeckillConfig {
///     const PREFIX: &str = "seckill"; // [seckill] in application.toml, SECKILL__LANES outside
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say which section of the configuration it is",
    note = "implement `ConfigSection` with `const PREFIX: &str = \"...\"` for it"
)]
pub trait ConfigSection: DeserializeOwned + Send + Sync + 'static {
    /// The section's dotted path.
    const PREFIX: &'static str;
}

/// A field of a component that holds a section of the configuration.
pub struct Cfg<T>(Arc<T>);

impl<T> Cfg<T> {
    /// A section made by hand, for unit tests.
    pub fn new(section: T) -> Self {
        Self(Arc::new(section))
    }
}

impl<T> Clone for Cfg<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Cfg<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Cfg<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A type that a component's field or a factory's parameter may have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be injected",
    label = "not injectable",
    note = "a field of a component or a parameter of a `#[bean]` is `Bean<T>`, `Ext<T>`, `Mq` or \
            `Cfg<T>`",
    note = "any other field of a component says how it begins: `#[init]` for its default, or \
            `#[init(expression)]`"
)]
pub trait Inject: Sized {
    /// What must be there before the value can be taken.
    const NEED: Need;

    /// The value.
    ///
    /// # Errors
    /// What start-up found to be there is not.
    fn inject(scope: &Scope) -> Result<Self, Error>;
}

/// What a field or parameter asks of the application.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Nothing that could be missing.
    Nothing,
    /// A bean.
    Bean(BeanNeed),
    /// A section of the configuration; the function says what is wrong with it.
    Section(fn(&Config) -> Result<(), String>),
}

/// A bean that something asks for.
#[derive(Clone, Copy, Debug)]
pub struct BeanNeed {
    /// Under which it is known.
    pub key: Key,
    /// The component; `None` for a value that only a factory can make.
    pub component: Option<fn() -> &'static BeanDef>,
}

/// What a bean is known by: the type `Ext<T, Q>`.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    id: fn() -> TypeId,
    /// `T` and `Q`, for people.
    names: fn() -> [&'static str; 2],
}

impl Key {
    /// That of `Ext<T, Q>`.
    #[must_use]
    pub const fn of<T: ?Sized + 'static, Q: 'static>() -> Self {
        Self { id: TypeId::of::<Ext<T, Q>>, names: || [type_name::<T>(), type_name::<Q>()] }
    }

    pub(crate) fn id(&self) -> TypeId {
        (self.id)()
    }

    /// The type, without its qualifier and without the paths of modules.
    pub(crate) fn type_name(&self) -> String {
        let [of, _] = (self.names)();
        without_paths(of)
    }
}

/// As it is injected: `Ext<Pool>`, `Ext<Pool, Readonly>`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [of, qualifier] = (self.names)().map(without_paths);
        match qualifier.as_str() {
            "()" => write!(f, "Ext<{of}>"),
            _ => write!(f, "Ext<{of}, {qualifier}>"),
        }
    }
}

/// `sqlx::pool::Pool<sqlx::Postgres>` as `Pool<Postgres>`.
fn without_paths(name: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let shorten = |part: &str| match part.strip_suffix("::") {
        Some(path) => path.trim_end_matches(is_word).to_owned(),
        None => part.to_owned(),
    };
    name.split_inclusive("::").map(shorten).collect()
}

impl<T: Component + ?Sized> Inject for Bean<T> {
    const NEED: Need =
        Need::Bean(BeanNeed { key: Key::of::<T, ()>(), component: Some(T::definition) });

    fn inject(scope: &Scope) -> Result<Self, Error> {
        scope.bean().ok_or_else(|| not_built(T::definition().name))
    }
}

impl<T: Send + Sync + ?Sized + 'static, Q: 'static> Inject for Ext<T, Q> {
    const NEED: Need = Need::Bean(BeanNeed { key: Key::of::<T, Q>(), component: None });

    fn inject(scope: &Scope) -> Result<Self, Error> {
        scope.ext().ok_or_else(|| not_built(&Key::of::<T, Q>().to_string()))
    }
}

fn not_built(name: &str) -> Error {
    Error::Config(format!("`{name}` was not built"))
}

impl Inject for Mq {
    const NEED: Need = Need::Nothing;

    fn inject(scope: &Scope) -> Result<Self, Error> {
        Ok(scope.mq.clone())
    }
}

impl<T: ConfigSection> Inject for Cfg<T> {
    const NEED: Need = Need::Section(|config| config.section::<T>(T::PREFIX).map(drop));

    fn inject(scope: &Scope) -> Result<Self, Error> {
        scope.config.section(T::PREFIX).map(Cfg::new).map_err(Error::Config)
    }
}

/// Any bean's instance: an `Arc<T>` whose type is not known.
#[derive(Clone, Debug)]
pub struct Instance(Arc<dyn Any + Send + Sync>);

impl Instance {
    /// Forgets the type.
    pub fn new<T: Send + Sync + ?Sized + 'static>(value: Arc<T>) -> Self {
        Self(Arc::new(value))
    }

    fn get<T: ?Sized + 'static>(&self) -> Option<Arc<T>> {
        self.0.downcast_ref::<Arc<T>>().cloned()
    }
}

/// Makes a bean out of what is in the scope.
pub type Build = for<'a> fn(&'a Scope) -> BoxFuture<'a, Result<Instance, Error>>;

/// What `#[component]` on a struct or trait, or `#[bean]` on a function, writes down.
#[derive(Debug)]
pub struct BeanDef {
    /// What it is.
    pub kind: Kind,
    /// The type's name, or the factory's, for people.
    pub name: &'static str,
    /// What it makes.
    pub key: fn() -> Key,
    /// What else its instance is injected as.
    pub provides: Option<Provided>,
    /// What its fields or parameters need.
    pub needs: &'static [Injected],
    /// Makes it; `None` if the instance comes from elsewhere.
    pub build: Option<Build>,
    /// Its listeners and hooks.
    pub methods: fn() -> &'static Methods,
    /// Lower phases come first.
    pub phase: i32,
    /// Where it is written.
    pub place: Place,
}

/// What a [`BeanDef`] was written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A struct with `#[component]`.
    Component,
    /// A trait with `#[component]`: some bean has to provide it.
    Trait,
    /// A function with `#[bean]`.
    Factory,
}

/// Another type as which an instance is injected: `provides = dyn Trait`.
#[derive(Debug)]
pub struct Provided {
    /// The type.
    pub key: Key,
    /// Takes the instance out of the scope as that type.
    pub instance: fn(&Scope) -> Option<Instance>,
}

/// One injected field or parameter.
#[derive(Debug)]
pub struct Injected {
    /// Its name.
    pub name: &'static str,
    /// What it needs.
    pub need: Need,
}

/// What `#[component]` on an impl block writes down.
#[derive(Debug)]
pub struct Methods {
    /// Its listeners.
    pub listeners: &'static [&'static ListenerDef],
    /// Its hooks before listeners start.
    pub post_construct: &'static [Hook],
    /// Its hooks after listeners have drained.
    pub pre_destroy: &'static [Hook],
}

/// Neither listeners nor hooks.
pub const NO_METHODS: &Methods = &Methods { listeners: &[], post_construct: &[], pre_destroy: &[] };

/// One hook of a component.
#[derive(Debug)]
pub struct Hook {
    /// The method's name.
    pub name: &'static str,
    /// Calls it on the component in the scope.
    pub call: for<'a> fn(&'a Scope) -> BoxFuture<'a, Result<(), String>>,
}

/// A type with a `#[component]` impl block. At most one block each: the compiler refuses a second.
pub trait ComponentMethods {
    /// The block's listeners and hooks.
    const METHODS: &'static Methods;
}

/// Finds a type's [`ComponentMethods`], if it has any: an inherent constant wins over a trait's.
#[derive(Debug)]
pub struct Probe<T>(PhantomData<T>);

/// The answer of [`Probe`] for a type without a `#[component]` impl block.
pub trait Plain {
    /// No methods.
    const METHODS: &'static Methods = NO_METHODS;
}

impl<T> Plain for Probe<T> {}

impl<T: ComponentMethods> Probe<T> {
    /// The block's methods.
    pub const METHODS: &'static Methods = T::METHODS;
}

/// What a hook may return.
#[diagnostic::on_unimplemented(
    message = "a hook cannot return `{Self}`",
    label = "not a hook's result",
    note = "a hook returns nothing, or `Result<(), E>` whose error can be displayed"
)]
pub trait IntoHookResult {
    /// The error as text.
    ///
    /// # Errors
    /// The hook's own.
    fn into_hook_result(self) -> Result<(), String>;
}

impl IntoHookResult for () {
    fn into_hook_result(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: fmt::Display> IntoHookResult for Result<(), E> {
    fn into_hook_result(self) -> Result<(), String> {
        self.map_err(|error| format!("{error:#}"))
    }
}

/// What extractors, fields and factories take from: the beans made so far, the sender, the
/// configuration.
#[derive(Debug)]
pub struct Scope {
    instances: HashMap<TypeId, Instance>,
    /// In the order they came.
    order: Vec<TypeId>,
    /// Sends messages.
    pub mq: Mq,
    /// The application's configuration.
    pub config: Config,
}

impl Scope {
    pub(crate) fn new(given: HashMap<TypeId, Instance>, mq: Mq, config: Config) -> Self {
        let order = given.keys().copied().collect();
        Self { instances: given, order, mq, config }
    }

    /// The component of a type, if the application has it.
    #[must_use]
    pub fn bean<T: Component + ?Sized>(&self) -> Option<Bean<T>> {
        self.ext::<T, ()>().map(|Ext { value, .. }| Bean(value))
    }

    /// The bean of a type under a qualifier, if the application has it.
    #[must_use]
    pub fn ext<T: ?Sized + 'static, Q: 'static>(&self) -> Option<Ext<T, Q>> {
        let value = self.instances.get(&TypeId::of::<Ext<T, Q>>())?.get()?;
        Some(Ext { value, qualifier: PhantomData })
    }

    /// Makes a bean whose needs are met, unless it is there.
    pub(crate) async fn build(&mut self, bean: &BeanDef) -> Result<(), Error> {
        let id = (bean.key)().id();
        if let (Some(build), false) = (bean.build, self.instances.contains_key(&id)) {
            let instance = build(self).await?;
            self.insert(id, instance);
        }
        let Some(Provided { key, instance }) = &bean.provides else { return Ok(()) };
        if let (Some(instance), false) = (instance(self), self.instances.contains_key(&key.id())) {
            self.insert(key.id(), instance);
        }
        Ok(())
    }

    fn insert(&mut self, id: TypeId, instance: Instance) {
        self.instances.insert(id, instance);
        self.order.push(id);
    }
}

/// What came last goes first.
impl Drop for Scope {
    fn drop(&mut self) {
        while let Some(id) = self.order.pop() {
            self.instances.remove(&id);
        }
    }
}

/// The component whose method is called. For generated code.
///
/// # Panics
/// Never on an application that started: the plan refuses one without the component.
#[must_use]
pub fn owner<T: Component>(scope: &Scope) -> Bean<T> {
    scope.bean().expect("a component's methods are called after it is built")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_types_are_shown_without_paths() {
        let names = [
            ("alloc::string::String", "String"),
            ("a::Pool<b::c::Pg, [u8; 4]>", "Pool<Pg, [u8; 4]>"),
            ("dyn shop::OrderRepo", "dyn OrderRepo"),
            ("()", "()"),
        ];
        for (name, short) in names {
            assert_eq!(without_paths(name), short);
        }
    }
}
