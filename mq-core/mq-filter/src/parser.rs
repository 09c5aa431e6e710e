//! From tokens to a tree, with the rules on what may stand where.
//!
//! ```text
//! or         := and (OR and)*
//! and        := equality (AND equality)*
//! equality   := comparison ( (= | <>) comparison | IS [NOT] NULL )*
//! comparison := unary ( (> | >= | < | <=) unary | [NOT] BETWEEN unary AND unary | [NOT] IN (text, ...)
//!                     | [NOT] (CONTAINS | STARTSWITH | ENDSWITH) text )*
//! unary      := (+ | - | NOT) unary | primary          NOT binds tighter than any comparison
//! primary    := literal | property | ( or )
//! ```

use crate::evaluate::{Constant, Node, Relation, TextTest};
use crate::lexer::{Keyword, Token, tokens};
use crate::value::compare;
use crate::{MAX_DEPTH, MAX_EXPRESSION_BYTES, ParseError};

type Parsed<T = Node> = Result<T, ParseError>;

pub(crate) fn parse(text: &str) -> Parsed {
    if text.len() > MAX_EXPRESSION_BYTES {
        return Err(ParseError::TooLong { bytes: text.len() });
    }
    let mut parser = Parser { tokens: tokens(text)?, next: 0, depth: 0 };
    let node = parser.or()?;
    match parser.peek() {
        Token::End => parser.truth(node),
        other => parser.error(format!("{} is not expected behind the expression", named(other))),
    }
}

struct Parser<'t> {
    tokens: Vec<(usize, Token<'t>)>,
    next: usize,
    /// Open parentheses and signs, and the links of chains like `a = b = c`, which make the tree deeper too.
    depth: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> &Token<'t> {
        &self.tokens[self.next].1
    }

    fn behind(&self) -> Option<&Token<'t>> {
        self.tokens.get(self.next + 1).map(|(_, token)| token)
    }

    fn step(&mut self) -> Token<'t> {
        let token = self.peek().clone();
        // The end stays where it is.
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn eat(&mut self, wanted: &Token<'_>) -> bool {
        let found = self.peek() == wanted;
        if found {
            self.step();
        }
        found
    }

    fn eat_keyword(&mut self, keyword: Keyword) -> bool {
        self.eat(&Token::Keyword(keyword))
    }

    fn error<T>(&self, reason: impl Into<String>) -> Parsed<T> {
        Err(ParseError::Syntax { at: self.tokens[self.next].0, reason: reason.into() })
    }

    fn expect(&mut self, wanted: &Token<'_>) -> Parsed<()> {
        if self.eat(wanted) {
            return Ok(());
        }
        self.error(format!("{} is expected, not {}", named(wanted), named(self.peek())))
    }

    fn deeper(&mut self) -> Parsed<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(ParseError::TooDeep { at: self.tokens[self.next].0 }) } else { Ok(()) }
    }

    fn or(&mut self) -> Parsed {
        self.joined(Keyword::Or, Self::and, Node::Any)
    }

    fn and(&mut self) -> Parsed {
        self.joined(Keyword::And, Self::equality, Node::All)
    }

    /// One list for a whole chain, so that it makes the tree no deeper.
    fn joined(&mut self, by: Keyword, part: fn(&mut Self) -> Parsed, join: fn(Vec<Node>) -> Node) -> Parsed {
        let first = part(self)?;
        if *self.peek() != Token::Keyword(by) {
            return Ok(first);
        }
        let mut parts = vec![self.truth(first)?];
        while self.eat_keyword(by) {
            let part = part(self)?;
            parts.push(self.truth(part)?);
        }
        Ok(join(parts))
    }

    fn equality(&mut self) -> Parsed {
        let mut left = self.comparison()?;
        let mut links = 0;
        loop {
            let link = match self.peek() {
                Token::Sign("=") => false,
                Token::Sign("<>") => true,
                Token::Keyword(Keyword::Is) => {
                    self.chained(&mut links)?;
                    self.step();
                    let negated = self.eat_keyword(Keyword::Not);
                    self.expect(&Token::Keyword(Keyword::Null))?;
                    left = negated_if(negated, Node::IsNull(left.into()));
                    continue;
                }
                _ => return Ok(left),
            };
            self.chained(&mut links)?;
            self.step();
            let right = self.comparison()?;
            self.check_equality(&left, &right)?;
            left = negated_if(link, Node::Equal(left.into(), right.into()));
        }
    }

    /// The second link and each one after it puts the tree one level down, for good.
    fn chained(&mut self, links: &mut usize) -> Parsed<()> {
        *links += 1;
        if *links > 1 { self.deeper() } else { Ok(()) }
    }

    fn comparison(&mut self) -> Parsed {
        let mut left = self.unary()?;
        let mut links = 0;
        loop {
            let negated = *self.peek() == Token::Keyword(Keyword::Not);
            let operator = if negated { self.behind() } else { Some(self.peek()) };
            let (relation, keyword) = match operator {
                Some(Token::Sign(sign)) if !negated => (relation(sign), None),
                Some(Token::Keyword(keyword)) => (None, Some(*keyword)),
                _ => (None, None),
            };
            let is_operator = relation.is_some() || keyword.is_some_and(is_operator);
            if !is_operator {
                return if negated {
                    self.error("NOT is followed by BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH here")
                } else {
                    Ok(left)
                };
            }
            self.chained(&mut links)?;
            if negated {
                self.step();
            }
            self.step();
            left = match (relation, keyword) {
                (Some(relation), _) => self.order(relation, left)?,
                (_, Some(Keyword::Between)) => self.between(left, negated)?,
                (_, Some(Keyword::In)) => self.list(left, negated)?,
                (_, keyword) => self.text_test(left, keyword, negated)?,
            };
        }
    }

    fn order(&mut self, relation: Relation, left: Node) -> Parsed {
        let right = self.unary()?;
        self.check_order(&left)?;
        self.check_order(&right)?;
        Ok(Node::Order(relation, left.into(), right.into()))
    }

    fn between(&mut self, value: Node, negated: bool) -> Parsed {
        let low = self.unary()?;
        self.expect(&Token::Keyword(Keyword::And))?;
        let high = self.unary()?;
        for node in [&value, &low, &high] {
            self.check_order(node)?;
        }
        if let (false, Node::Constant(low), Node::Constant(high)) = (negated, &low, &high)
            && compare(high.value(), low.value()).is_ok_and(|order| order.is_some_and(|order| order.is_lt()))
        {
            return self.error("the lower bound of BETWEEN is above the upper one");
        }
        Ok(Node::Between { value: value.into(), low: low.into(), high: high.into(), negated })
    }

    fn list(&mut self, left: Node, negated: bool) -> Parsed {
        let Node::Property(property) = left else { return self.error("only a property can be IN a list") };
        self.expect(&Token::Sign("("))?;
        let mut texts = vec![self.text()?];
        while self.eat(&Token::Sign(",")) {
            texts.push(self.text()?);
        }
        self.expect(&Token::Sign(")"))?;
        Ok(Node::In { property, texts, negated })
    }

    fn text_test(&mut self, value: Node, keyword: Option<Keyword>, negated: bool) -> Parsed {
        let test = match keyword {
            Some(Keyword::StartsWith) => TextTest::StartsWith,
            Some(Keyword::EndsWith) => TextTest::EndsWith,
            _ => TextTest::Contains,
        };
        Ok(Node::Text { value: value.into(), test, part: self.text()?, negated })
    }

    fn text(&mut self) -> Parsed<String> {
        match self.peek() {
            Token::Text(text) => {
                let text = text.clone();
                self.step();
                Ok(text)
            }
            other => self.error(format!("a text in single quotes is expected, not {}", named(other))),
        }
    }

    fn unary(&mut self) -> Parsed {
        let wrap: fn(&Self, Node) -> Parsed = match self.peek() {
            Token::Sign("+") => |_, node| Ok(node),
            Token::Sign("-") => |_, node| Ok(Node::Negative(node.into())),
            Token::Keyword(Keyword::Not) => |parser, node| Ok(Node::Not(parser.truth(node)?.into())),
            _ => return self.primary(),
        };
        self.deeper()?;
        self.step();
        let node = self.unary()?;
        self.depth -= 1;
        wrap(self, node)
    }

    fn primary(&mut self) -> Parsed {
        if *self.peek() == Token::Sign("(") {
            self.deeper()?;
            self.step();
            let inner = self.or()?;
            self.expect(&Token::Sign(")"))?;
            self.depth -= 1;
            return Ok(inner);
        }
        let node = match self.peek() {
            Token::Word(name) => Node::Property((*name).to_owned()),
            Token::Text(text) => Node::Constant(Constant::Text(text.clone())),
            Token::Whole(number) => Node::Constant(self.whole(number)?),
            Token::Decimal(number) => Node::Constant(self.decimal(number)?),
            Token::Keyword(Keyword::True) => Node::Constant(Constant::Boolean(true)),
            Token::Keyword(Keyword::False) => Node::Constant(Constant::Boolean(false)),
            Token::Keyword(Keyword::Null) => Node::Constant(Constant::Null),
            other => return self.error(format!("a value is expected, not {}", named(other))),
        };
        self.step();
        Ok(node)
    }

    /// As narrow as it may be: a property beside it is read in the same width.
    fn whole(&self, number: &str) -> Parsed<Constant> {
        match (number.parse(), number.parse()) {
            (Ok(number), _) => Ok(Constant::Integer(number)),
            (_, Ok(number)) => Ok(Constant::Long(number)),
            _ => self.error(format!("{number} does not fit into 64 bits")),
        }
    }

    fn decimal(&self, number: &str) -> Parsed<Constant> {
        match number.parse::<f64>() {
            Ok(parsed) if parsed.is_finite() => Ok(Constant::Double(parsed)),
            _ => self.error("the number is too large for 64 bits"),
        }
    }

    /// The node where a truth is wanted.
    fn truth(&self, node: Node) -> Parsed {
        match node {
            Node::Property(_) => Ok(Node::Truth(node.into())),
            node if is_truth(&node) => Ok(node),
            _ => self.error("a comparison or a truth is expected before this, not a number or a text"),
        }
    }

    /// Only numbers and what may become one have an order.
    fn check_order(&self, node: &Node) -> Parsed<()> {
        match node {
            Node::Constant(Constant::Integer(_) | Constant::Long(_) | Constant::Double(_)) => Ok(()),
            Node::Constant(_) => self.error("only numbers are compared by <, <=, >, >= and BETWEEN"),
            node if is_truth(node) => self.error("a truth cannot be compared by <, <=, >, >= and BETWEEN"),
            _ => Ok(()),
        }
    }

    fn check_equality(&self, left: &Node, right: &Node) -> Parsed<()> {
        match (left, right) {
            (Node::Constant(Constant::Null), _) | (_, Node::Constant(Constant::Null)) => {
                self.error("NULL is compared by IS NULL and IS NOT NULL")
            }
            (Node::Constant(Constant::Boolean(_)), Node::Constant(right)) if !matches!(right, Constant::Boolean(_)) => {
                self.error("a truth cannot be equal to a number or a text")
            }
            _ => Ok(()),
        }
    }
}

fn is_truth(node: &Node) -> bool {
    match node {
        Node::Constant(constant) => matches!(constant, Constant::Null | Constant::Boolean(_)),
        Node::Property(_) | Node::Negative(_) => false,
        _ => true,
    }
}

fn negated_if(negated: bool, node: Node) -> Node {
    if negated { Node::Not(node.into()) } else { node }
}

fn relation(sign: &str) -> Option<Relation> {
    Some(match sign {
        "<" => Relation::Less,
        "<=" => Relation::LessOrEqual,
        ">" => Relation::Greater,
        ">=" => Relation::GreaterOrEqual,
        _ => return None,
    })
}

fn is_operator(keyword: Keyword) -> bool {
    use Keyword::{Between, Contains, EndsWith, In, StartsWith};
    matches!(keyword, Between | In | Contains | StartsWith | EndsWith)
}

fn named(token: &Token<'_>) -> String {
    match token {
        Token::Word(word) => format!("the name {word}"),
        Token::Keyword(keyword) => format!("{keyword:?}").to_uppercase(),
        Token::Text(text) => format!("the text '{text}'"),
        Token::Whole(number) | Token::Decimal(number) => format!("the number {number}"),
        Token::Sign(sign) => format!("{sign:?}"),
        Token::End => "the end".to_owned(),
    }
}
