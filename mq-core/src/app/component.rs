//! Components: one instance of each type, its fields injected by type, its hooks. Here are what the
//! macros write down about a component, and the order in which components are built. Not here: when
//! the hooks run (`app/mod.rs`), and no global instance of anything.
//!
//! Invariants: components are built after those they need; a component that is missing or needs
//! itself in a circle is found before anything is built.

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};
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

/// A type of which the application holds one instance. Implemented by `#[component]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a component",
    label = "not a component",
    note = "put `#[component]` on the struct, or `#[component(provided)]` if the program hands the \
            instance to `App::provide`"
)]
pub trait Component: Sized + Send + Sync + 'static {
    /// What the application knows about the type.
    fn definition() -> &'static ComponentDef;
}

/// A shared reference to a component.
pub struct Bean<T>(Arc<T>);

impl<T> Bean<T> {
    /// A component made by hand, to call a listener in a unit test.
    pub fn new(component: T) -> Self {
        Self(Arc::new(component))
    }
}

impl<T> Clone for Bean<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Bean<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Bean<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
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

/// A type that a component's field may have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be injected",
    label = "not injectable",
    note = "a field of a component is `Bean<T>`, `Mq` or `Cfg<T>`; any other field says how it \
            begins: `#[init]` for its default, or `#[init(expression)]`"
)]
pub trait Inject: Sized {
    /// What must be there before the field can be filled.
    const NEED: Need;

    /// The field's value.
    ///
    /// # Errors
    /// What start-up found to be there is not.
    fn inject(scope: &Scope) -> Result<Self, Error>;
}

/// What a field asks of the application.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Nothing that could be missing.
    Nothing,
    /// Another component.
    Component(fn() -> &'static ComponentDef),
    /// A section of the configuration; the function says what is wrong with it.
    Section(fn(&Config) -> Result<(), String>),
}

impl<T: Component> Inject for Bean<T> {
    const NEED: Need = Need::Component(T::definition);

    fn inject(scope: &Scope) -> Result<Self, Error> {
        scope.bean().ok_or_else(|| {
            Error::Config(format!("component `{}` was not built", T::definition().name))
        })
    }
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

/// Any component's instance.
pub type Instance = Arc<dyn Any + Send + Sync>;

/// Builds a component out of what is in the scope.
pub type Build = fn(&Scope) -> Result<Instance, Error>;

/// What `#[component]` on a struct writes down.
#[derive(Debug)]
pub struct ComponentDef {
    /// The type's name, for people.
    pub name: &'static str,
    /// The type.
    pub type_id: fn() -> TypeId,
    /// What its fields need.
    pub needs: &'static [FieldNeed],
    /// Builds it; `None` if the program provides the instance.
    pub build: Option<Build>,
    /// What its `#[component]` impl block adds.
    pub methods: fn() -> &'static Methods,
    /// Where it is written.
    pub place: Place,
}

/// One injected field.
#[derive(Debug)]
pub struct FieldNeed {
    /// The field's name.
    pub field: &'static str,
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
    const METHODS: &'static Methods =
        &Methods { listeners: &[], post_construct: &[], pre_destroy: &[] };
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

/// What extractors and fields are taken from: the built components, the sender, the configuration.
#[derive(Debug)]
pub struct Scope {
    instances: HashMap<TypeId, Instance>,
    /// Sends messages.
    pub mq: Mq,
    /// The application's configuration.
    pub config: Config,
}

impl Scope {
    pub(crate) fn new(instances: HashMap<TypeId, Instance>, mq: Mq, config: Config) -> Self {
        Self { instances, mq, config }
    }

    /// The component of a type, if the application has it.
    #[must_use]
    pub fn bean<T: Component>(&self) -> Option<Bean<T>> {
        let instance = self.instances.get(&TypeId::of::<T>())?;
        Arc::clone(instance).downcast().ok().map(Bean)
    }

    /// Builds a component whose needs are built.
    pub(crate) fn build(&mut self, component: &ComponentDef) -> Result<(), Error> {
        let type_id = (component.type_id)();
        if let (Some(build), false) = (component.build, self.instances.contains_key(&type_id)) {
            let instance = build(self)?;
            self.instances.insert(type_id, instance);
        }
        Ok(())
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

/// A component that something needs: who needs it, for the findings.
pub(crate) struct Wanted {
    pub(crate) by: Option<String>,
    pub(crate) component: &'static ComponentDef,
}

/// The components in the order to build them in: the wanted ones and all that they need.
pub(crate) fn plan(
    wanted: Vec<Wanted>,
    provided: &HashSet<TypeId>,
    findings: &mut Vec<String>,
) -> Vec<&'static ComponentDef> {
    let mut walk =
        Walk { provided, findings, trail: Vec::new(), seen: HashSet::new(), order: vec![] };
    for Wanted { by, component } in wanted {
        walk.visit(component, by.as_deref());
    }
    walk.order
}

/// Complaints about sections of the configuration that the components' fields read.
pub(crate) fn check_sections(
    components: &[&'static ComponentDef],
    config: &Config,
    findings: &mut Vec<String>,
) {
    for component in components {
        for FieldNeed { field, need } in component.needs {
            let Need::Section(check) = need else { continue };
            if let Err(error) = check(config) {
                let ComponentDef { name, place, .. } = component;
                findings.push(format!("{error}\n  {place}  {name}.{field} reads it"));
            }
        }
    }
}

/// A depth-first walk; `trail` is the path from the root to where it stands.
struct Walk<'a> {
    provided: &'a HashSet<TypeId>,
    findings: &'a mut Vec<String>,
    trail: Vec<&'static ComponentDef>,
    seen: HashSet<TypeId>,
    order: Vec<&'static ComponentDef>,
}

impl Walk<'_> {
    fn visit(&mut self, component: &'static ComponentDef, by: Option<&str>) {
        let type_id = (component.type_id)();
        if let Some(at) = self.trail.iter().position(|open| (open.type_id)() == type_id) {
            return self.circle(at, component);
        }
        if !self.seen.insert(type_id) {
            return;
        }
        self.trail.push(component);
        if self.provided.contains(&type_id) {
            // What it was made from is the program's business.
        } else if component.build.is_none() {
            self.missing(component, by);
        } else {
            for FieldNeed { need, .. } in component.needs {
                if let Need::Component(definition) = need {
                    self.visit(definition(), by);
                }
            }
        }
        self.trail.pop();
        self.order.push(component);
    }

    fn circle(&mut self, from: usize, again: &'static ComponentDef) {
        let circle = self.trail.iter().skip(from).copied().chain([again]);
        let path = arrows(circle.map(describe));
        self.findings.push(format!(
            "components need each other in a circle\n{path}\n  let one of them do without the other, \
             or move what both need into a third"
        ));
    }

    fn missing(&mut self, component: &ComponentDef, by: Option<&str>) {
        let path = self.trail.iter().copied().map(describe);
        let path = arrows(by.map(str::to_owned).into_iter().chain(path));
        let name = component.name;
        self.findings.push(format!(
            "component `{name}` is missing: it is `#[component(provided)]`, and nobody provided it\n\
             {path}\n  call `app.provide(..)` with a `{name}` before the start"
        ));
    }
}

fn describe(component: &ComponentDef) -> String {
    format!("{}  {}", component.place, component.name)
}

/// One step a line: `a` / `-> b` / `-> c`.
fn arrows(steps: impl Iterator<Item = String>) -> String {
    let line = |(at, step): (usize, String)| match at {
        0 => format!("  {step}"),
        _ => format!("  -> {step}"),
    };
    steps.enumerate().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! components {
        ($($name:ident, $type:ident, $line:literal, $build:expr, [$($field:literal: $needs:ident),*];)*) => {$(
            struct $type;

            static $name: ComponentDef = ComponentDef {
                name: stringify!($type),
                type_id: TypeId::of::<$type>,
                needs: &[$(FieldNeed { field: $field, need: Need::Component(|| &$needs) }),*],
                build: $build,
                methods: || Probe::<$type>::METHODS,
                place: Place { module: "shop", file: "src/lib.rs", line: $line },
            };
        )*};
    }

    const BUILT: Option<Build> = Some(|_| Ok(Arc::new(())));

    components! {
        SHOP, Shop, 1, BUILT, ["stock": STOCK, "till": TILL];
        STOCK, Stock, 2, BUILT, ["db": DB];
        TILL, Till, 3, BUILT, ["stock": STOCK];
        DB, Db, 4, None, [];
        HEN, Hen, 5, BUILT, ["egg": EGG];
        EGG, Egg, 6, BUILT, ["hen": HEN];
    }

    fn planned(
        root: &'static ComponentDef,
        provided: &[TypeId],
    ) -> (Vec<&'static str>, Vec<String>) {
        let mut findings = Vec::new();
        let wanted =
            vec![Wanted { by: Some("src/main.rs:9  on_sale".to_owned()), component: root }];
        let order = plan(wanted, &provided.iter().copied().collect(), &mut findings);
        (order.iter().map(|component| component.name).collect(), findings)
    }

    #[test]
    fn components_come_after_what_they_need() {
        let (order, findings) = planned(&SHOP, &[TypeId::of::<Db>()]);
        assert_eq!((order, findings), (vec!["Db", "Stock", "Till", "Shop"], vec![]));
    }

    #[test]
    fn a_missing_component_is_told_with_the_way_to_it() {
        let (_, findings) = planned(&SHOP, &[]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        let way = "\n  src/main.rs:9  on_sale\n  -> src/lib.rs:1  Shop\n  -> src/lib.rs:2  Stock\n  \
                   -> src/lib.rs:4  Db\n";
        assert!(findings[0].contains(way), "{}", findings[0]);
    }

    #[test]
    fn a_circle_is_told_once_and_in_full() {
        let (_, findings) = planned(&HEN, &[]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        let circle = "\n  src/lib.rs:5  Hen\n  -> src/lib.rs:6  Egg\n  -> src/lib.rs:5  Hen\n";
        assert!(findings[0].contains(circle), "{}", findings[0]);
    }

    #[test]
    fn what_a_provided_component_was_made_from_is_not_looked_for() {
        let (order, findings) = planned(&STOCK, &[TypeId::of::<Stock>()]);
        assert_eq!((order, findings), (vec!["Stock"], vec![]));
    }
}
