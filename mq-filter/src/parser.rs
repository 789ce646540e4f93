//! The grammar of conditions: tokens into a [`Node`]. Not here: what a condition gives (`sql.rs`).
//!
//! ```text
//! or         = and { OR and }
//! and        = equality { AND equality }
//! equality   = comparison { = comparison | <> comparison | IS [NOT] NULL }
//! comparison = unary { > unary | >= unary | < unary | <= unary | [NOT] BETWEEN unary AND unary
//!                    | [NOT] IN ( text {, text} ) | [NOT] CONTAINS|STARTSWITH|ENDSWITH text }
//! unary      = + unary | - unary | NOT unary | primary
//! primary    = text | number | TRUE | FALSE | NULL | property | ( or )
//! ```
//!
//! Invariants: recursion goes through `nested` only, which limits it, and what is built from the
//! left in a row is limited too, so that no node is nested deeper than [`NESTING_MAX`] times
//! [`CHAIN_MAX`] times two.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, quote};
use crate::lexer::{Lexer, Token, unquote};
use crate::number::Number;
use crate::sql::{Node, Order, Place, Sql};

/// Bytes of a condition.
const TEXT_MAX: usize = 16 * 1024;
/// Parentheses, signs and NOTs within each other.
const NESTING_MAX: usize = 64;
/// Operators of one kind in a row, as in `a = b = c`; AND and OR do not count.
const CHAIN_MAX: usize = 8;
/// Texts of one IN.
const VALUES_MAX: usize = 1_024;

const NOT_BINDS: &str = "NOT binds more than `=`: write `NOT (a = 1)`, or `a <> 1`";

/// How strict the parser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// As Apache's.
    Apache,
    /// What a writer cannot mean is refused.
    Strict,
}

type Parsed = Result<Node, Error>;

pub(crate) fn parse(text: &str, rules: Rules) -> Result<Sql, Error> {
    if text.len() > TEXT_MAX {
        return Err(Error::at(text, TEXT_MAX, format!("a condition of {} bytes", text.len()))
            .expected(format!("at most {TEXT_MAX}"))
            .mend("mark the messages with a property of its own when they are sent"));
    }
    let mut lexer = Lexer::new(text);
    let next = lexer.next()?;
    let slots = BTreeMap::new();
    let mut parser = Parser { text, rules, lexer, next, slots, nesting: 0 };
    let condition = parser.condition()?;
    Ok(Sql { condition, slots: parser.slots })
}

struct Parser<'a> {
    text: &'a str,
    rules: Rules,
    lexer: Lexer<'a>,
    /// The token to come, and where it begins.
    next: (Token<'a>, usize),
    slots: BTreeMap<Box<str>, usize>,
    nesting: usize,
}

impl<'a> Parser<'a> {
    fn take(&mut self) -> Result<Token<'a>, Error> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.next, next).0)
    }

    /// Takes the next token when it is this one.
    fn takes(&mut self, token: Token<'_>) -> Result<bool, Error> {
        let is = self.next.0 == token;
        if is {
            self.take()?;
        }
        Ok(is)
    }

    fn expect(&mut self, token: Token<'_>, expected: &str) -> Result<(), Error> {
        if self.takes(token)? { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    fn unexpected(&self, expected: &str) -> Error {
        let (token, at) = self.next;
        let found = match token {
            Token::End => "the end".to_owned(),
            _ => quote(self.token_text()),
        };
        let error = Error::at(self.text, at, found).expected(expected);
        match token {
            Token::Equal => error.mend("equality is written with one `=`"),
            Token::Name(name) if name.eq_ignore_ascii_case("like") => {
                error.mend("use CONTAINS, STARTSWITH or ENDSWITH")
            }
            _ => error,
        }
    }

    /// The next token as it is written.
    fn token_text(&self) -> &'a str {
        let rest = self.text.get(self.next.1..).unwrap_or_default();
        // The lexer stands behind the token, and blanks are passed over before one.
        let behind = self.lexer.rest().len();
        rest.get(..rest.len().saturating_sub(behind)).unwrap_or_default()
    }

    fn complain(&self, at: usize, what: impl Into<String>) -> Error {
        Error::at(self.text, at, what)
    }

    fn condition(&mut self) -> Parsed {
        let start = self.next.1;
        let condition = self.or()?;
        if self.rules == Rules::Strict && self.next.0 != Token::End {
            let error = self.unexpected("AND, OR or the end");
            return Err(error.mend("a broker would ignore everything from here on"));
        }
        self.truth(condition, start)
    }

    fn or(&mut self) -> Parsed {
        self.joined(Token::Or, Self::and, Node::Or)
    }

    fn and(&mut self) -> Parsed {
        self.joined(Token::And, Self::equality, Node::And)
    }

    /// Operands with `by` between them; one alone stays as it is.
    fn joined(
        &mut self,
        by: Token<'_>,
        operand: fn(&mut Self) -> Parsed,
        join: fn(Vec<Node>) -> Node,
    ) -> Parsed {
        let mut start = self.next.1;
        let first = operand(self)?;
        if self.next.0 != by {
            return Ok(first);
        }
        let mut operands = vec![self.truth(first, start)?];
        while self.takes(by)? {
            start = self.next.1;
            let next = operand(self)?;
            operands.push(self.truth(next, start)?);
        }
        Ok(join(operands))
    }

    /// A node where a condition has to be.
    fn truth(&self, node: Node, at: usize) -> Parsed {
        match node {
            Node::Property(_) if self.rules == Rules::Strict => {
                let error = self.complain(at, "a property alone is never true");
                Err(error.mend("write `a = TRUE`, or `a IS NOT NULL`"))
            }
            Node::Property(slot) => Ok(Node::Truth(slot)),
            node if node.is_condition() => Ok(node),
            _ => Err(self
                .complain(at, "a value that is no condition")
                .expected("a comparison such as `a = 1` or `a IS NOT NULL`")),
        }
    }

    fn equality(&mut self) -> Parsed {
        let start = self.next.1;
        let mut left = self.comparison()?;
        for _ in 0..CHAIN_MAX {
            let operator = self.next;
            left = match operator.0 {
                Token::Equal => self.equal(left, start)?,
                Token::NotEqual => Node::Not(Box::new(self.equal(left, start)?)),
                Token::Is => self.is_null(left)?,
                _ => return Ok(left),
            };
        }
        Err(self.too_long_a_row())
    }

    fn equal(&mut self, left: Node, start: usize) -> Parsed {
        self.take()?;
        let right_start = self.next.1;
        let right = self.comparison()?;
        for (side, at) in [(&left, start), (&right, right_start)] {
            if matches!(side, Node::Null) {
                let error = self.complain(at, "nothing equals NULL");
                return Err(error.mend("write `IS NULL` or `IS NOT NULL`"));
            }
        }
        let never = match (&left, &right) {
            (Node::Bool(_), Node::Text(_) | Node::Number(_)) => true,
            (left, right) if self.rules == Rules::Strict => {
                let literal = |node: &Node| matches!(node, Node::Text(_) | Node::Number(_));
                left.is_condition() && literal(right) || literal(left) && right.is_condition()
            }
            _ => false,
        };
        if never {
            let error = self.complain(start, "a condition is never equal to a text or a number");
            return Err(error.mend(NOT_BINDS));
        }
        Ok(Node::Equal(Box::new(left), Box::new(right)))
    }

    fn is_null(&mut self, left: Node) -> Parsed {
        self.take()?;
        let not = self.takes(Token::Not)?;
        self.expect(Token::Null, if not { "NULL" } else { "NULL or NOT NULL" })?;
        let is_null = Node::IsNull(Box::new(left));
        Ok(if not { Node::Not(Box::new(is_null)) } else { is_null })
    }

    fn comparison(&mut self) -> Parsed {
        let start = self.next.1;
        let mut left = self.unary()?;
        for _ in 0..CHAIN_MAX {
            left = match self.next.0 {
                Token::Greater => self.ordered(Order::Greater, left, start)?,
                Token::GreaterEqual => self.ordered(Order::GreaterEqual, left, start)?,
                Token::Less => self.ordered(Order::Less, left, start)?,
                Token::LessEqual => self.ordered(Order::LessEqual, left, start)?,
                Token::Not => {
                    self.take()?;
                    self.one_of_many(left, start, true)?
                }
                Token::Between
                | Token::In
                | Token::Contains
                | Token::StartsWith
                | Token::EndsWith => self.one_of_many(left, start, false)?,
                _ => return Ok(left),
            };
        }
        Err(self.too_long_a_row())
    }

    /// The operators that may have a NOT before them.
    fn one_of_many(&mut self, left: Node, start: usize, not: bool) -> Parsed {
        let place = match self.next.0 {
            Token::Between => return self.between(left, start, not),
            Token::In => return self.within(&left, start, not),
            Token::Contains => Place::Anywhere,
            Token::StartsWith => Place::Start,
            Token::EndsWith => Place::End,
            _ => return Err(self.unexpected("BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH")),
        };
        self.take()?;
        let text = self.text("a text in single quotes")?;
        Ok(Node::Search { operand: Box::new(left), place, text, not })
    }

    fn ordered(&mut self, order: Order, left: Node, start: usize) -> Parsed {
        self.take()?;
        let right = self.bound()?;
        self.check_ordered(&left, start)?;
        Ok(Node::Ordered(order, Box::new(left), Box::new(right)))
    }

    /// A value that another one is above or below.
    fn bound(&mut self) -> Parsed {
        let start = self.next.1;
        let bound = self.unary()?;
        self.check_ordered(&bound, start)?;
        Ok(bound)
    }

    fn check_ordered(&self, node: &Node, at: usize) -> Result<(), Error> {
        let what = match node {
            Node::Property(_) | Node::Number(_) | Node::Negated(_) => return Ok(()),
            Node::Text(_) => "a text is neither above nor below anything",
            Node::Null => "nothing is above or below NULL",
            _ => "a condition is neither above nor below anything",
        };
        Err(self.complain(at, what).mend("order numbers, and compare texts by `=` and `<>`"))
    }

    fn between(&mut self, value: Node, start: usize, not: bool) -> Parsed {
        self.take()?;
        let bounds_start = self.next.1;
        let low = self.bound()?;
        self.expect(Token::And, "AND and the upper bound")?;
        let high = self.bound()?;
        self.check_ordered(&value, start)?;
        if let (false, Node::Number(low), Node::Number(high)) = (not, &low, &high)
            && high.compare(*low).is_lt()
        {
            let error = self.complain(bounds_start, "the lower bound is above the upper one");
            return Err(error.mend("exchange the two"));
        }
        let [value, low, high] = [value, low, high].map(Box::new);
        Ok(Node::Between { value, low, high, not })
    }

    fn within(&mut self, left: &Node, start: usize, not: bool) -> Parsed {
        let Node::Property(property) = *left else {
            let error = self.complain(start, "IN without a property before it");
            return Err(error.mend("write `a IN ('x')`, or `a NOT IN ('x')` for the contrary"));
        };
        self.take()?;
        self.expect(Token::Open, "`(` and texts")?;
        let mut values = BTreeSet::new();
        loop {
            let at = self.next.1;
            values.insert(self.text("a text in single quotes, as IN has texts only")?);
            if values.len() > VALUES_MAX {
                return Err(self
                    .complain(at, "one text too many")
                    .expected(format!("at most {VALUES_MAX} in one IN")));
            }
            if !self.takes(Token::Comma)? {
                break;
            }
        }
        self.expect(Token::Close, "`,` or `)`")?;
        Ok(Node::In { property, values, not })
    }

    fn text(&mut self, expected: &str) -> Result<Box<str>, Error> {
        let Token::Text(raw) = self.next.0 else { return Err(self.unexpected(expected)) };
        self.take()?;
        Ok(unquote(raw).into())
    }

    /// One level deeper; the only way down.
    fn nested(&mut self, inside: fn(&mut Self) -> Parsed) -> Parsed {
        if self.nesting == NESTING_MAX {
            return Err(self
                .complain(self.next.1, "too much within each other")
                .expected(format!("at most {NESTING_MAX} levels"))
                .mend("AND and OR in a row need no parentheses"));
        }
        self.nesting += 1;
        let node = inside(self)?;
        self.nesting -= 1;
        Ok(node)
    }

    fn unary(&mut self) -> Parsed {
        match self.next.0 {
            Token::Plus => {
                self.take()?;
                self.nested(Self::unary)
            }
            Token::Minus => {
                self.take()?;
                Ok(Node::Negated(Box::new(self.nested(Self::unary)?)))
            }
            Token::Not => {
                self.take()?;
                let start = self.next.1;
                let operand = self.nested(Self::unary)?;
                if self.rules == Rules::Strict && matches!(operand, Node::Property(_)) {
                    let error = self.complain(start, "NOT before a property alone");
                    return Err(error.mend(NOT_BINDS));
                }
                Ok(Node::Not(Box::new(self.truth(operand, start)?)))
            }
            _ => self.primary(),
        }
    }

    fn primary(&mut self) -> Parsed {
        let (token, at) = self.next;
        let node = match token {
            Token::Text(raw) => Node::Text(unquote(raw).into()),
            Token::Integer(digits) => self.integer(digits, at)?,
            Token::Float(digits) => self.float(digits, at)?,
            Token::True => Node::Bool(true),
            Token::False => Node::Bool(false),
            Token::Null => Node::Null,
            Token::Name(name) => self.property(name),
            Token::Open => {
                self.take()?;
                let inside = self.nested(Self::or)?;
                self.expect(Token::Close, "an operator or `)`")?;
                return Ok(inside);
            }
            _ => return Err(self.unexpected("a property, a text, a number or `(`")),
        };
        self.take()?;
        Ok(node)
    }

    fn property(&mut self, name: &str) -> Node {
        let free = self.slots.len();
        Node::Property(*self.slots.entry(name.into()).or_insert(free))
    }

    fn integer(&self, digits: &str, at: usize) -> Parsed {
        Number::integer(digits).map(Node::Number).ok_or_else(|| {
            let found = format!("the number {} does not fit 64 bits", quote(digits));
            self.complain(at, found).mend("write it with a fraction: `1e30`")
        })
    }

    fn float(&self, digits: &str, at: usize) -> Parsed {
        // As Apache: zero is not among the numbers that can be written with a point.
        match digits.parse::<f64>() {
            Ok(number) if number.is_finite() && number > 0.0 => {
                Ok(Node::Number(Number::Double(number)))
            }
            Ok(0.0) => {
                let found = format!("{} is too near to zero", quote(digits));
                Err(self.complain(at, found).mend("write zero as `0`"))
            }
            _ => Err(self.complain(at, format!("the number {} is too large", quote(digits)))),
        }
    }

    fn too_long_a_row(&self) -> Error {
        self.complain(self.next.1, "too many operators in a row")
            .expected(format!("at most {}", CHAIN_MAX - 1))
            .mend("join comparisons by AND or OR")
    }
}

impl Node {
    /// Whether it gives a truth value, of itself.
    fn is_condition(&self) -> bool {
        !matches!(self, Self::Property(_) | Self::Text(_) | Self::Number(_) | Self::Negated(_))
    }
}
