//! Definitions that macros leave in the program, gathered by two independent registries.
//! `inventory` is the record and works on every platform; `linkme` is the audit, and a difference
//! between them refuses the start. Not here: what a definition means.
//!
//! Invariant: order is by (crate, file, line), never the linker's. A crate that nothing mentions is
//! not linked and is in neither registry; `#[common_mq::main(scan(..))]` mentions it.

use std::collections::BTreeMap;
use std::fmt;

use crate::app::component::BeanDef;
use crate::app::listener::ListenerDef;
use crate::embedded::StartEmbedded;

/// Where the user wrote something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// `module_path!()`; its first part is the crate.
    pub module: &'static str,
    /// `file!()`.
    pub file: &'static str,
    /// `line!()`.
    pub line: u32,
}

impl Place {
    pub(crate) fn crate_name(&self) -> &'static str {
        self.module.split("::").next().unwrap_or(self.module)
    }

    pub(crate) fn order(&self) -> (&'static str, &'static str, u32) {
        (self.crate_name(), self.file, self.line)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One registered definition, by reference to its only copy.
#[derive(Clone, Copy, Debug)]
pub enum Definition {
    /// `#[mq_listener]`.
    Listener(&'static ListenerDef),
    /// `#[component]` on a struct, `#[bean]` on a function.
    Bean(&'static BeanDef),
    /// The broker that the facade links in.
    Broker(&'static BrokerDef),
}

/// A broker that can run in this process.
#[derive(Debug)]
pub struct BrokerDef {
    /// Starts it.
    pub start: StartEmbedded,
    /// Where it is registered.
    pub place: Place,
}

/// A crate that wrote `component_crate!()`.
#[derive(Debug)]
pub struct CrateDef {
    /// The crate's name as code spells it.
    pub name: &'static str,
}

impl Definition {
    /// The address that both registries must agree on.
    fn address(&self) -> usize {
        match self {
            Definition::Listener(listener) => std::ptr::from_ref(*listener).addr(),
            Definition::Bean(bean) => std::ptr::from_ref(*bean).addr(),
            Definition::Broker(broker) => std::ptr::from_ref(*broker).addr(),
        }
    }

    pub(crate) fn place(&self) -> Place {
        match self {
            Definition::Listener(listener) => listener.place,
            Definition::Bean(bean) => bean.place,
            Definition::Broker(broker) => broker.place,
        }
    }
}

inventory::collect!(Definition);

/// The audit's copy of the registry. The name is global to a program, hence long.
#[cfg(not(any(target_family = "wasm", miri)))]
#[linkme::distributed_slice]
pub static COMMON_MQ_V1_DEFINITIONS: [Definition];

/// Submits a [`Definition`] to both registries.
#[doc(hidden)]
#[macro_export]
macro_rules! __register {
    ($definition:expr) => {
        const _: () = {
            $crate::__private::inventory::submit! { $definition }

            #[cfg(not(any(target_family = "wasm", miri)))]
            #[$crate::__private::linkme::distributed_slice(
                $crate::__private::COMMON_MQ_V1_DEFINITIONS
            )]
            #[linkme(crate = $crate::__private::linkme)]
            static AUDIT: $crate::__private::Definition = $definition;
        };
    };
}

/// Says that this crate holds listeners or components, for `#[common_mq::main(scan(..))]` of the
/// program. Stands once, at the root of the crate.
#[macro_export]
macro_rules! component_crate {
    () => {
        #[doc(hidden)]
        pub const __COMMON_MQ_CRATE: $crate::__private::CrateDef =
            $crate::__private::CrateDef { name: module_path!() };
    };
}

/// Everything registered in this program, in order.
pub(crate) fn registered(findings: &mut Vec<String>) -> Vec<Definition> {
    let mut found: Vec<Definition> = inventory::iter::<Definition>.into_iter().copied().collect();
    found.sort_by_key(|definition| definition.place().order());
    #[cfg(not(any(target_family = "wasm", miri)))]
    findings.extend(audit(&found, &COMMON_MQ_V1_DEFINITIONS));
    found
}

/// What only one of the registries holds.
fn audit(record: &[Definition], audit: &[Definition]) -> Option<String> {
    let by_address = |definitions: &[Definition]| -> BTreeMap<usize, Place> {
        definitions.iter().map(|of| (of.address(), of.place())).collect()
    };
    let (record, audit) = (by_address(record), by_address(audit));
    let lost = |from: &BTreeMap<usize, Place>, other: &BTreeMap<usize, Place>| -> Vec<String> {
        let lost = from.iter().filter(|(address, _)| !other.contains_key(address));
        lost.map(|(_, place)| place.to_string()).collect()
    };
    let lost = [lost(&record, &audit), lost(&audit, &record)].concat();
    (!lost.is_empty()).then(|| {
        format!(
            "the program was linked without some of its definitions\n  {}\n  the linker dropped them, \
             or the program that embeds this one does not run constructors; name them with \
             `App::bare().listener(..)` instead",
            lost.join("\n  ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn broker(line: u32) -> BrokerDef {
        BrokerDef {
            start: |_| Box::pin(async { Err(crate::Error::Closed("a test".to_owned())) }),
            place: Place { module: "a::b", file: "src/b.rs", line },
        }
    }

    static KEPT: BrokerDef = broker(1);
    static LOST: BrokerDef = broker(2);

    #[test]
    fn a_definition_in_one_registry_only_is_named() {
        let (kept, lost) = (Definition::Broker(&KEPT), Definition::Broker(&LOST));
        assert_eq!(audit(&[kept, lost], &[lost, kept]), None);
        let finding = audit(&[kept, lost], &[kept]).expect("one is lost");
        assert!(finding.contains("src/b.rs:2") && !finding.contains("src/b.rs:1"), "{finding}");
        assert!(audit(&[kept], &[kept, lost]).expect("one is lost").contains("src/b.rs:2"));
    }
}
