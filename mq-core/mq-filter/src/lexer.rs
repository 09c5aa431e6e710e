//! From text to tokens: words, numbers, text in single quotes, signs. Comments are blanks.

use crate::ParseError;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token<'t> {
    Word(&'t str),
    Keyword(Keyword),
    /// Without quotes; a doubled quote inside is one.
    Text(String),
    Whole(&'t str),
    Decimal(&'t str),
    Sign(&'static str),
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keyword {
    Not,
    And,
    Or,
    Between,
    In,
    True,
    False,
    Null,
    Is,
    Contains,
    StartsWith,
    EndsWith,
}

const KEYWORDS: [(&str, Keyword); 12] = [
    ("NOT", Keyword::Not),
    ("AND", Keyword::And),
    ("OR", Keyword::Or),
    ("BETWEEN", Keyword::Between),
    ("IN", Keyword::In),
    ("TRUE", Keyword::True),
    ("FALSE", Keyword::False),
    ("NULL", Keyword::Null),
    ("IS", Keyword::Is),
    ("CONTAINS", Keyword::Contains),
    ("STARTSWITH", Keyword::StartsWith),
    ("ENDSWITH", Keyword::EndsWith),
];

/// Longer ones first.
const SIGNS: [&str; 11] = ["<>", "<=", ">=", "=", "<", ">", "(", ")", ",", "+", "-"];

/// All tokens with the byte at which each begins; the last is [`Token::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<(usize, Token<'_>)>, ParseError> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blanks()?;
        let at = lexer.at;
        let token = lexer.token()?;
        let ended = token == Token::End;
        tokens.push((at, token));
        if ended {
            return Ok(tokens);
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn error<T>(&self, reason: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::Syntax { at: self.at, reason: reason.into() })
    }

    fn skip_blanks(&mut self) -> Result<(), ParseError> {
        loop {
            let blank = [' ', '\t', '\n', '\r', '\u{c}'];
            self.at = self.text.len() - self.rest().trim_start_matches(blank).len();
            if self.rest().starts_with("--") {
                self.at += self.rest().find(['\n', '\r']).unwrap_or(self.rest().len());
            } else if self.rest().starts_with("/*") {
                match self.rest()[2..].find("*/") {
                    Some(end) => self.at += end + 4,
                    None => return self.error("a comment that begins here does not end"),
                }
            } else {
                return Ok(());
            }
        }
    }

    fn token(&mut self) -> Result<Token<'t>, ParseError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        if is_word(first) && !first.is_ascii_digit() {
            let word = self.take(span(rest, is_word));
            let keyword = KEYWORDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
            return Ok(keyword.map_or(Token::Word(word), |(_, keyword)| Token::Keyword(*keyword)));
        }
        if let Some(number) = self.number() {
            return Ok(number);
        }
        if first == '\'' {
            return self.quoted();
        }
        let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) else {
            return self.error(format!("{first:?} has no meaning here"));
        };
        self.at += sign.len();
        Ok(Token::Sign(sign))
    }

    fn take(&mut self, bytes: usize) -> &'t str {
        let taken = &self.rest()[..bytes];
        self.at += bytes;
        taken
    }

    /// `5`, `5L`, `5.5`, `5.`, `.5`, `5E10`, `5.5e-10`. A whole number does not begin with 0, unless it is 0.
    fn number(&mut self) -> Option<Token<'t>> {
        let rest = self.rest();
        let digits = |from: usize| span(&rest[from..], |c| c.is_ascii_digit());
        let whole = digits(0);
        let fraction = match rest[whole..].starts_with('.') {
            true if whole + digits(whole + 1) > 0 => 1 + digits(whole + 1),
            _ => 0,
        };
        if whole + fraction == 0 {
            return None;
        }
        let mut end = whole + fraction;
        if rest[end..].starts_with(['e', 'E']) {
            let signed = end + 1 + usize::from(rest[end + 1..].starts_with(['+', '-']));
            if digits(signed) > 0 {
                end = signed + digits(signed);
            }
        }
        if end > whole {
            return Some(Token::Decimal(self.take(end)));
        }
        if rest.starts_with('0') {
            return Some(Token::Whole(self.take(1)));
        }
        let number = self.take(whole);
        self.at += usize::from(self.rest().starts_with(['l', 'L']));
        Some(Token::Whole(number))
    }

    fn quoted(&mut self) -> Result<Token<'t>, ParseError> {
        let mut text = String::new();
        let mut pieces = self.rest()[1..].split('\'');
        let mut at = self.at + 1;
        loop {
            let piece = pieces.next().expect("the loop ends at the last piece");
            text.push_str(piece);
            at += piece.len() + 1;
            if at > self.text.len() {
                return self.error("a text that begins here does not end");
            }
            if !self.text[at..].starts_with('\'') {
                self.at = at;
                return Ok(Token::Text(text));
            }
            // A doubled quote: the next piece is the nothing between the two.
            text.push('\'');
            pieces.next();
            at += 1;
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$'
}

fn span(text: &str, holds: impl Fn(char) -> bool) -> usize {
    text.find(|c| !holds(c)).unwrap_or(text.len())
}
