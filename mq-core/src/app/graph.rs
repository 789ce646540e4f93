//! What needs what: which bean a need is met by, and the order in which beans are made. Not here:
//! how one is made (`app/component.rs`).
//!
//! Invariants: beans are made after those they need, and otherwise in order of (phase, crate, file,
//! line); a bean that is missing, that two could be, or that needs itself in a circle is found
//! before anything is made.
//!
//! What the application was given stands over what the program has registered: that is how a test
//! puts another in a bean's place.

use std::any::TypeId;
use std::collections::{HashMap, HashSet};

use crate::app::component::{BeanDef, BeanNeed, Injected, Key, Kind, Need};
use crate::app::config::{Config, nearest};

/// A bean that something needs, and what needs it, for the findings.
pub(crate) struct Wanted {
    pub(crate) by: String,
    pub(crate) need: BeanNeed,
}

/// Where beans come from.
#[derive(Default)]
pub(crate) struct Sources {
    instances: HashSet<TypeId>,
    given: HashMap<TypeId, Vec<&'static BeanDef>>,
    registered: HashMap<TypeId, Vec<&'static BeanDef>>,
}

impl Sources {
    /// Instances and definitions that the application was given, definitions of the whole program.
    pub(crate) fn new(
        instances: HashSet<TypeId>,
        given: &[&'static BeanDef],
        registered: &[&'static BeanDef],
    ) -> Self {
        Self { instances, given: by_key(given), registered: by_key(registered) }
    }

    /// The definitions that could make it.
    fn of(&self, id: TypeId) -> &[&'static BeanDef] {
        let found = self.given.get(&id).or_else(|| self.registered.get(&id));
        found.map_or(&[], Vec::as_slice)
    }

    /// The bean whose type is spelled most like that of `key`, and as what it is known.
    fn nearest(&self, key: Key) -> Option<(Key, &'static BeanDef)> {
        let of = |bean: &'static BeanDef| keys(bean).map(move |key| (key, bean));
        let mut all: Vec<(Key, &BeanDef)> = self
            .given
            .values()
            .chain(self.registered.values())
            .flatten()
            .copied()
            .flat_map(of)
            .collect();
        all.sort_by_key(|(key, bean)| (bean.place.order(), key.to_string()));
        let name = nearest(&key.type_name(), all.iter().map(|(key, _)| key.type_name()))?;
        all.into_iter().find(|(key, _)| key.type_name() == name)
    }
}

/// The definitions that make something, each once, by what they make.
fn by_key(beans: &[&'static BeanDef]) -> HashMap<TypeId, Vec<&'static BeanDef>> {
    let mut found: HashMap<TypeId, Vec<&'static BeanDef>> = HashMap::new();
    for bean in beans.iter().filter(|bean| bean.build.is_some()) {
        for key in keys(bean) {
            let makers = found.entry(key.id()).or_default();
            if !makers.iter().any(|known| std::ptr::eq(*known, *bean)) {
                makers.push(bean);
            }
        }
    }
    found
}

/// All that an instance is injected as.
fn keys(bean: &'static BeanDef) -> impl Iterator<Item = Key> {
    std::iter::once((bean.key)()).chain(bean.provides.iter().map(|provided| provided.key))
}

/// The beans in the order to make them in: the roots, the wanted ones, and all that they need.
pub(crate) fn plan(
    roots: &[&'static BeanDef],
    wanted: Vec<Wanted>,
    sources: &Sources,
    findings: &mut Vec<String>,
) -> Vec<&'static BeanDef> {
    let mut begin: Vec<(&BeanDef, Option<String>)> =
        roots.iter().map(|root| (*root, None)).collect();
    let mut walk =
        Walk { sources, findings, by: None, trail: vec![], seen: HashSet::new(), order: vec![] };
    for Wanted { by, need: BeanNeed { key, component } } in wanted {
        match (component, sources.of(key.id())) {
            (Some(component), _) => begin.push((component(), Some(by))),
            (None, [maker]) => begin.push((maker, Some(by))),
            (None, _) => {
                walk.by = Some(by);
                walk.meet(BeanNeed { key, component });
            }
        }
    }
    // Of a root that is also wanted, the findings tell by whom.
    begin.sort_by_key(|(bean, by)| (bean.phase, bean.place.order(), by.is_none()));
    for (bean, by) in begin {
        walk.by = by;
        walk.visit(bean);
    }
    walk.order
}

/// Complaints about sections of the configuration that the beans read.
pub(crate) fn check_sections(
    beans: &[&'static BeanDef],
    config: &Config,
    findings: &mut Vec<String>,
) {
    for bean in beans {
        for Injected { name: field, need } in bean.needs {
            let Need::Section(check) = need else { continue };
            if let Err(error) = check(config) {
                let BeanDef { name, place, .. } = bean;
                findings.push(format!("{error}\n  {place}  {name}.{field} reads it"));
            }
        }
    }
}

/// A depth-first walk; `trail` is the path from the root to where it stands.
struct Walk<'a> {
    sources: &'a Sources,
    findings: &'a mut Vec<String>,
    /// What is no bean and needs the root.
    by: Option<String>,
    trail: Vec<&'static BeanDef>,
    /// Definitions by their address, and keys that were complained about.
    seen: HashSet<Seen>,
    order: Vec<&'static BeanDef>,
}

#[derive(PartialEq, Eq, Hash)]
enum Seen {
    Bean(usize),
    Key(TypeId),
}

impl Walk<'_> {
    fn visit(&mut self, bean: &'static BeanDef) {
        if let Some(at) = self.trail.iter().position(|open| std::ptr::eq(*open, bean)) {
            return self.circle(at, bean);
        }
        if !self.seen.insert(Seen::Bean(std::ptr::from_ref(bean).addr())) {
            return;
        }
        self.trail.push(bean);
        let is_used = self.make(bean);
        self.trail.pop();
        if is_used {
            self.order.push(bean);
        }
    }

    /// Goes on to what the bean is made from; whether it has a part in the application. A factory
    /// in whose place another stands has none; a component has its hooks, whoever makes it.
    fn make(&mut self, bean: &'static BeanDef) -> bool {
        let key = (bean.key)();
        if self.sources.instances.contains(&key.id()) {
            return bean.kind != Kind::Factory;
        }
        match (self.sources.of(key.id()), bean.build) {
            ([], None) => self.missing(bean),
            ([], Some(_)) => self.needs(bean),
            ([maker], _) if std::ptr::eq(*maker, bean) => self.needs(bean),
            ([maker], _) => {
                self.visit(maker);
                return bean.kind != Kind::Factory;
            }
            (makers, _) => self.ambiguous(key, makers),
        }
        true
    }

    fn needs(&mut self, bean: &'static BeanDef) {
        for Injected { need, .. } in bean.needs {
            if let Need::Bean(need) = need {
                self.meet(*need);
            }
        }
    }

    fn meet(&mut self, BeanNeed { key, component }: BeanNeed) {
        if let Some(component) = component {
            return self.visit(component());
        }
        if self.sources.instances.contains(&key.id()) {
            return;
        }
        match self.sources.of(key.id()) {
            [] => self.unknown(key),
            [maker] => self.visit(maker),
            makers => self.ambiguous(key, makers),
        }
    }

    fn circle(&mut self, from: usize, again: &'static BeanDef) {
        let circle = self.trail.iter().skip(from).copied().chain([again]);
        let path = arrows(circle.map(describe));
        self.findings.push(format!(
            "beans need each other in a circle\n{path}\n  let one of them do without the other, or \
             move what both need into a third"
        ));
    }

    fn missing(&mut self, bean: &BeanDef) {
        let path = self.path();
        let name = bean.name;
        self.findings.push(match bean.kind {
            Kind::Trait => format!(
                "no bean provides `{name}`\n{path}\n  write `#[component(provides = {name})]` on a \
                 type that implements it, or a `#[bean]` that returns an `Arc<{name}>`"
            ),
            Kind::Component | Kind::Factory => format!(
                "component `{name}` is missing: it is `#[component(provided)]`, and nobody provided \
                 it\n{path}\n  call `app.provide(..)` with a `{name}` before the start, or write a \
                 `#[bean]` that returns one"
            ),
        });
    }

    fn unknown(&mut self, key: Key) {
        if !self.seen.insert(Seen::Key(key.id())) {
            return;
        }
        let path = self.path();
        let near = match self.sources.nearest(key) {
            Some((near, bean)) => format!("did you mean `{near}`?\n  {}", describe(bean)),
            None => format!(
                "write a `#[bean]` function that returns a `{}`, or call `app.provide_ext(..)`",
                key.type_name()
            ),
        };
        self.findings.push(format!("no bean makes `{key}`\n{path}\n  {near}"));
    }

    fn ambiguous(&mut self, key: Key, makers: &[&'static BeanDef]) {
        if !self.seen.insert(Seen::Key(key.id())) {
            return;
        }
        let makers: Vec<String> =
            makers.iter().map(|bean| format!("  {}", describe(bean))).collect();
        self.findings.push(format!(
            "`{key}` has several makers\n{}\n  keep one, or tell them apart by a marker type: \
             `qualifier = Marker`, and `Ext<{}, Marker>` where it is needed",
            makers.join("\n"),
            key.type_name()
        ));
    }

    /// How the walk came to where it stands.
    fn path(&self) -> String {
        arrows(self.by.iter().cloned().chain(self.trail.iter().copied().map(describe)))
    }
}

fn describe(bean: &BeanDef) -> String {
    format!("{}  {}", bean.place, bean.name)
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
    use crate::app::component::{Build, NO_METHODS, Provided};
    use crate::app::registry::Place;

    macro_rules! beans {
        ($($name:ident = $kind:ident $type:ty, $line:literal, $build:expr, $needs:expr;)*) => {$(
            static $name: BeanDef = BeanDef {
                kind: Kind::$kind,
                name: stringify!($type),
                key: || Key::of::<$type, ()>(),
                provides: None,
                needs: $needs,
                build: $build,
                methods: || NO_METHODS,
                phase: 0,
                place: Place { module: "shop", file: "src/lib.rs", line: $line },
            };
        )*};
    }

    macro_rules! types {
        ($($type:ident)*) => {$(struct $type;)*};
    }

    types! { Shop Stock Till Db Hen Egg Pool }
    trait Repo {}

    const BUILT: Option<Build> = Some(|_| Box::pin(async { panic!("a plan builds nothing") }));

    const fn component(definition: fn() -> &'static BeanDef) -> Injected {
        let need = BeanNeed { key: Key::of::<(), ()>(), component: Some(definition) };
        Injected { name: "field", need: Need::Bean(need) }
    }

    const fn value<T: ?Sized + 'static>() -> Injected {
        let need = BeanNeed { key: Key::of::<T, ()>(), component: None };
        Injected { name: "field", need: Need::Bean(need) }
    }

    beans! {
        SHOP = Component Shop, 1, BUILT, &[component(|| &STOCK), component(|| &TILL)];
        STOCK = Component Stock, 2, BUILT, &[component(|| &DB)];
        TILL = Component Till, 3, BUILT, &[component(|| &STOCK), value::<Pool>()];
        DB = Component Db, 4, None, &[];
        HEN = Component Hen, 5, BUILT, &[component(|| &EGG)];
        EGG = Component Egg, 6, BUILT, &[component(|| &REPO)];
        REPO = Trait dyn Repo, 7, None, &[];
        POOL = Factory Pool, 8, BUILT, &[];
        POOL_AGAIN = Factory Pool, 9, BUILT, &[];
        DB_FROM_POOL = Factory Db, 10, BUILT, &[value::<Pool>()];
    }

    static HEN_AS_REPO: BeanDef = BeanDef {
        kind: Kind::Component,
        name: "Hen",
        key: || Key::of::<Hen, ()>(),
        provides: Some(Provided { key: Key::of::<dyn Repo, ()>(), instance: |_| None }),
        needs: &[component(|| &EGG)],
        build: BUILT,
        methods: || NO_METHODS,
        phase: 0,
        place: Place { module: "shop", file: "src/lib.rs", line: 5 },
    };

    static EARLY: BeanDef = BeanDef {
        kind: Kind::Factory,
        name: "early",
        key: || Key::of::<u8, ()>(),
        provides: None,
        needs: &[],
        build: BUILT,
        methods: || NO_METHODS,
        phase: -1,
        place: Place { module: "shop", file: "src/lib.rs", line: 90 },
    };

    fn planned(
        root: &'static BeanDef,
        instances: &[TypeId],
        registered: &[&'static BeanDef],
    ) -> (Vec<u32>, Vec<String>) {
        let mut findings = Vec::new();
        let need = BeanNeed { key: (root.key)(), component: None };
        let wanted = vec![Wanted { by: "src/main.rs:9  on_sale".to_owned(), need }];
        let sources = Sources::new(instances.iter().copied().collect(), &[root], registered);
        let order = plan(&[], wanted, &sources, &mut findings);
        (order.iter().map(|bean| bean.place.line).collect(), findings)
    }

    fn id<T: 'static>() -> TypeId {
        Key::of::<T, ()>().id()
    }

    #[test]
    fn beans_come_after_what_they_need() {
        let (order, findings) = planned(&SHOP, &[id::<Db>()], &[&POOL]);
        assert_eq!((order, findings), (vec![4, 2, 8, 3, 1], vec![]));
    }

    #[test]
    fn a_factory_may_make_a_component() {
        let (order, findings) = planned(&SHOP, &[], &[&POOL, &DB_FROM_POOL]);
        assert_eq!((order, findings), (vec![8, 10, 4, 2, 3, 1], vec![]));
    }

    #[test]
    fn a_lower_phase_comes_first() {
        let sources = Sources::new(HashSet::new(), &[], &[&POOL, &EARLY]);
        let order = plan(&[&POOL, &EARLY], vec![], &sources, &mut vec![]);
        assert_eq!(order.iter().map(|bean| bean.name).collect::<Vec<_>>(), ["early", "Pool"]);
    }

    #[test]
    fn a_missing_component_is_told_with_the_way_to_it() {
        let (_, findings) = planned(&SHOP, &[], &[&POOL]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        let way = "\n  src/main.rs:9  on_sale\n  -> src/lib.rs:1  Shop\n  -> src/lib.rs:2  Stock\n  \
                   -> src/lib.rs:4  Db\n";
        assert!(findings[0].contains(way), "{}", findings[0]);
    }

    #[test]
    fn a_value_that_nobody_makes_is_told_with_the_nearest() {
        let (_, findings) = planned(&TILL, &[id::<Db>()], &[]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        let text = "no bean makes `Ext<Pool>`\n  src/main.rs:9  on_sale\n  -> src/lib.rs:3  Till\n  \
                    write a `#[bean]` function";
        assert!(findings[0].starts_with(text), "{}", findings[0]);
        struct Pools;
        let sources = Sources::new(HashSet::new(), &[], &[&POOL]);
        let near = sources.nearest(Key::of::<Pools, u8>()).expect("one is near");
        assert_eq!((near.0.to_string(), near.1.place.line), ("Ext<Pool>".to_owned(), 8));
    }

    #[test]
    fn two_makers_of_one_value_are_both_named() {
        let (_, findings) = planned(&TILL, &[id::<Db>()], &[&POOL, &POOL_AGAIN]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        let makers = "\n  src/lib.rs:8  Pool\n  src/lib.rs:9  Pool\n";
        assert!(findings[0].contains(makers), "{}", findings[0]);
    }

    #[test]
    fn what_is_given_stands_over_what_is_registered() {
        let sources = Sources::new(HashSet::new(), &[&POOL], &[&POOL, &POOL_AGAIN]);
        let mut findings = Vec::new();
        let order = plan(&[&POOL, &POOL_AGAIN], vec![], &sources, &mut findings);
        assert_eq!(order.iter().map(|bean| bean.place.line).collect::<Vec<_>>(), [8]);
        assert_eq!(findings, Vec::<String>::new());
        let (order, _) = planned(&TILL, &[id::<Db>(), id::<Pool>()], &[&POOL, &POOL_AGAIN]);
        assert_eq!(order, [4, 2, 3]);
    }

    #[test]
    fn a_circle_is_told_once_and_in_full() {
        let (_, findings) = planned(&EGG, &[], &[&HEN_AS_REPO]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        let circle = "\n  src/lib.rs:6  Egg\n  -> src/lib.rs:7  dyn Repo\n  -> src/lib.rs:5  Hen\n  \
                      -> src/lib.rs:6  Egg\n";
        assert!(findings[0].contains(circle), "{}", findings[0]);
    }

    #[test]
    fn a_trait_needs_one_who_provides_it() {
        let (_, findings) = planned(&HEN, &[], &[]);
        assert!(findings.len() == 1 && findings[0].starts_with("no bean provides `dyn Repo`\n"));
        let (_, findings) = planned(&HEN, &[id::<Egg>()], &[]);
        assert_eq!(findings, Vec::<String>::new());
    }
}
