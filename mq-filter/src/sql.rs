//! `Sql`: a parsed condition and what it gives for a message. Not here: the grammar (`parser.rs`).
//!
//! Truth has three values, and a fourth end: an evaluation fails where Apache's throws, so that the
//! message is not wanted whatever stands around that place, unless it is never come to. Properties
//! are texts, or `NULL` where a message lacks them.
//!
//! Invariant: how deep a [`Node`] is nested is limited by the parser, so that walking it and
//! dropping it cannot overflow the stack.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;
use crate::number::{Number, compare_doubles, double};
use crate::parser;

/// An SQL92 condition.
#[derive(Clone, Debug)]
pub struct Sql {
    pub(crate) condition: Node,
    /// The properties it names, and where a message's values of them are put.
    pub(crate) slots: BTreeMap<Box<str>, usize>,
}

/// The evaluation did not come to a value: a text was to be a number and is none, or values were
/// compared that cannot be. The message does not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

/// A part of a condition. Those from `Not` on give a truth value.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Property(usize),
    Text(Box<str>),
    Number(Number),
    /// A minus before something.
    Negated(Box<Node>),
    Bool(bool),
    Null,
    Not(Box<Node>),
    /// A property where a condition is expected.
    Truth(usize),
    Equal(Box<Node>, Box<Node>),
    Ordered(Order, Box<Node>, Box<Node>),
    Between {
        value: Box<Node>,
        low: Box<Node>,
        high: Box<Node>,
        not: bool,
    },
    IsNull(Box<Node>),
    In {
        property: usize,
        values: BTreeSet<Box<str>>,
        not: bool,
    },
    Search {
        operand: Box<Node>,
        place: Place,
        text: Box<str>,
        not: bool,
    },
    And(Vec<Node>),
    Or(Vec<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
}

/// Where in a text another one is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Anywhere,
    Start,
    End,
}

#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(&'a str),
}

type Evaluated<T> = Result<T, Failed>;

impl Sql {
    /// Parses a condition as Apache's brokers do. They do not look at what follows a whole
    /// condition: `a = 1 b = 2` is `a = 1`.
    ///
    /// # Errors
    /// Why Apache's brokers would refuse it too, or a limit that only we have.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parser::parse(text, parser::Rules::Apache)
    }

    /// Parses a condition that has just been written: also refused is what a broker takes and what
    /// cannot be meant, such as text behind the condition.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(text: &str) -> Result<Self, Error> {
        parser::parse(text, parser::Rules::Strict)
    }

    /// Does a message with these properties match? Of several values of one name the last counts.
    pub fn matches<'m>(&self, properties: impl IntoIterator<Item = (&'m str, &'m str)>) -> bool {
        self.evaluate(properties) == Ok(Some(true))
    }

    /// What [`Self::matches`] decides by: true, false or neither (`NULL`).
    ///
    /// # Errors
    /// [`Failed`], where Apache's evaluation throws.
    pub fn evaluate<'m>(
        &self,
        properties: impl IntoIterator<Item = (&'m str, &'m str)>,
    ) -> Result<Option<bool>, Failed> {
        let mut message = Message(vec![None; self.slots.len()]);
        for (name, value) in properties {
            let slot = self.slots.get(name).and_then(|slot| message.0.get_mut(*slot));
            if let Some(slot) = slot {
                *slot = Some(value);
            }
        }
        message.truth(&self.condition)
    }
}

/// The values that a message has of the properties a condition names.
struct Message<'m>(Vec<Option<&'m str>>);

impl<'m> Message<'m> {
    fn text(&self, slot: usize) -> Option<&'m str> {
        self.0.get(slot).copied().flatten()
    }

    fn value<'a>(&self, node: &'a Node) -> Evaluated<Value<'a>>
    where
        'm: 'a,
    {
        Ok(match node {
            Node::Property(slot) => self.text(*slot).map_or(Value::Null, Value::Text),
            Node::Text(text) => Value::Text(text),
            Node::Number(number) => Value::Number(*number),
            Node::Negated(operand) => match self.value(operand)? {
                Value::Number(number) => Value::Number(number.negated()),
                Value::Null | Value::Bool(_) | Value::Text(_) => Value::Null,
            },
            condition => self.truth(condition)?.map_or(Value::Null, Value::Bool),
        })
    }

    fn truth(&self, node: &Node) -> Evaluated<Option<bool>> {
        match node {
            Node::Bool(value) => Ok(Some(*value)),
            // The last three are never where a condition is.
            Node::Null | Node::Text(_) | Node::Number(_) | Node::Negated(_) => Ok(None),
            Node::Not(operand) => Ok(self.truth(operand)?.map(|value| !value)),
            // Texts are not true, whatever they say.
            Node::Truth(slot) | Node::Property(slot) => Ok(self.text(*slot).map(|_| false)),
            Node::Equal(left, right) => equal(self.value(left)?, self.value(right)?),
            Node::Ordered(order, left, right) => self.ordered(*order, self.value(left)?, right),
            Node::Between { value, low, high, not } => self.between(value, [low, high], *not),
            Node::IsNull(operand) => Ok(Some(matches!(self.value(operand)?, Value::Null))),
            Node::In { property, values, not } => {
                Ok(self.text(*property).map(|text| values.contains(text) != *not))
            }
            Node::Search { operand, place, text, not } => {
                // Nothing is in a text that is missing, and nothing is missing in it either.
                if text.is_empty() {
                    return Ok(Some(false));
                }
                let Value::Text(value) = self.value(operand)? else { return Ok(Some(false)) };
                Ok(Some(place.has(value, text) != *not))
            }
            Node::And(operands) => self.all(operands, true),
            Node::Or(operands) => self.all(operands, false),
        }
    }

    /// Whether all operands are `wanted`; the first that is the contrary decides.
    fn all(&self, operands: &[Node], wanted: bool) -> Evaluated<Option<bool>> {
        let mut known = true;
        for operand in operands {
            match self.truth(operand)? {
                Some(value) if value != wanted => return Ok(Some(value)),
                Some(_) => {}
                None => known = false,
            }
        }
        Ok(known.then_some(wanted))
    }

    /// The right side is not looked at when the left one is missing.
    fn ordered(&self, order: Order, left: Value<'_>, right: &Node) -> Evaluated<Option<bool>> {
        if matches!(left, Value::Null) {
            return Ok(None);
        }
        let ordering = match (left, self.value(right)?) {
            (_, Value::Null) => return Ok(None),
            (Value::Text(left), Value::Text(right)) => {
                compare_doubles(double(left).ok_or(Failed)?, double(right).ok_or(Failed)?)
            }
            (left, right) => compare(left, right)?,
        };
        Ok(Some(order.holds(ordering)))
    }

    /// `value >= low AND value <= high`, or with `not` its contrary.
    fn between(&self, value: &Node, bounds: [&Node; 2], not: bool) -> Evaluated<Option<bool>> {
        let [low, high] = bounds;
        let [low_order, high_order] = match not {
            false => [Order::GreaterEqual, Order::LessEqual],
            true => [Order::Less, Order::Greater],
        };
        let value = self.value(value)?;
        let above = self.ordered(low_order, value, low)?;
        if above == Some(not) {
            return Ok(above);
        }
        let below = self.ordered(high_order, value, high)?;
        Ok(if below == Some(not) { below } else { above.and(below) })
    }
}

/// A left side that is missing leaves it open, unless both are; one on the right does not.
fn equal(left: Value<'_>, right: Value<'_>) -> Evaluated<Option<bool>> {
    match (left, right) {
        (Value::Null, Value::Null) => Ok(Some(true)),
        (Value::Null, _) => Ok(None),
        (_, Value::Null) => Ok(Some(false)),
        (left, right) => compare(left, right).map(|ordering| Some(ordering == Ordering::Equal)),
    }
}

/// Two values that are there; those of different kinds are made alike, or are unequal.
fn compare(left: Value<'_>, right: Value<'_>) -> Evaluated<Ordering> {
    Ok(match (left, right) {
        (Value::Text(left), Value::Text(right)) => left.cmp(right),
        (Value::Bool(left), Value::Bool(right)) => left.cmp(&right),
        (Value::Number(left), Value::Number(right)) => left.compare(right),
        (Value::Number(left), Value::Text(right)) => left.compare(left.like(right).ok_or(Failed)?),
        (Value::Text(left), Value::Number(right)) => right.like(left).ok_or(Failed)?.compare(right),
        (Value::Text(left), Value::Bool(right)) => left.eq_ignore_ascii_case("true").cmp(&right),
        // Apache takes the wrong side for the text here, and fails.
        (Value::Bool(_), Value::Text(_)) => return Err(Failed),
        _ => Ordering::Less,
    })
}

impl Order {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Greater => ordering.is_gt(),
            Self::GreaterEqual => ordering.is_ge(),
            Self::Less => ordering.is_lt(),
            Self::LessEqual => ordering.is_le(),
        }
    }
}

impl Place {
    fn has(self, value: &str, text: &str) -> bool {
        match self {
            Self::Anywhere => value.contains(text),
            Self::Start => value.starts_with(text),
            Self::End => value.ends_with(text),
        }
    }
}
