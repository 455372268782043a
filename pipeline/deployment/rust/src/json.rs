//! A strict reader of JSON (RFC 8259). Objects remember the order of their keys, which is that of models and weights.

use crate::{Result, fail};

const MAX_DEPTH: usize = 64;

/// One JSON value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, rounded to the nearest float64.
    Number(f64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Value>),
    /// An object, in the order of the text; no key occurs twice.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// Return the value of a text.
    ///
    /// # Errors
    /// The text is no JSON, has a key twice, or nests too deeply; names the byte.
    pub fn parse(text: &str) -> Result<Value> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.read_value(0)?;
        reader.skip_space();
        if reader.at < text.len() {
            return reader.refuse("the end of the text");
        }
        Ok(value)
    }

    /// Return the value of a key, which must be there.
    pub fn get(&self, key: &str) -> Result<&Value> {
        match self.as_map()?.iter().find(|(name, _)| name == key) {
            Some((_, value)) => Ok(value),
            None => fail!("there is no key {key:?}"),
        }
    }

    /// Return the entries of an object, in their order.
    pub fn as_map(&self) -> Result<&[(String, Value)]> {
        match self {
            Value::Map(entries) => Ok(entries),
            _ => self.refuse("an object"),
        }
    }

    /// Return the items of an array.
    pub fn as_list(&self) -> Result<&[Value]> {
        match self {
            Value::List(items) => Ok(items),
            _ => self.refuse("an array"),
        }
    }

    /// Return a string.
    pub fn as_text(&self) -> Result<&str> {
        match self {
            Value::Text(text) => Ok(text),
            _ => self.refuse("a string"),
        }
    }

    /// Return a number.
    pub fn as_number(&self) -> Result<f64> {
        match self {
            Value::Number(number) => Ok(*number),
            _ => self.refuse("a number"),
        }
    }

    /// Return a whole number, at least 0 and exact in float64.
    pub fn as_count(&self) -> Result<usize> {
        let number = self.as_number()?;
        if number.fract() != 0.0 || !(0.0..=9e15).contains(&number) {
            return self.refuse("a whole number, at least 0");
        }
        Ok(number as usize)
    }

    /// Return `true` or `false`.
    pub fn as_bool(&self) -> Result<bool> {
        match self {
            Value::Bool(value) => Ok(*value),
            _ => self.refuse("true or false"),
        }
    }

    /// Return nothing for `null`, and the value otherwise.
    pub fn as_optional(&self) -> Option<&Value> {
        (*self != Value::Null).then_some(self)
    }

    /// Return an array of strings.
    pub fn as_texts(&self) -> Result<Vec<String>> {
        self.as_list()?.iter().map(|item| item.as_text().map(str::to_owned)).collect()
    }

    fn refuse<T>(&self, allowed: &str) -> Result<T> {
        fail!("{self:?} must be {allowed}")
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize, // the next byte
}

impl Reader<'_> {
    fn refuse<T>(&self, expected: &str) -> Result<T> {
        let found: String = self.text.get(self.at..).unwrap_or("").chars().take(12).collect();
        fail!("JSON: {found:?} at byte {}; expected {expected}", self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Skip a token if it comes next.
    fn skip(&mut self, token: &str) -> bool {
        let is_next = self.text.as_bytes()[self.at..].starts_with(token.as_bytes());
        self.at += if is_next { token.len() } else { 0 };
        is_next
    }

    fn read_value(&mut self, depth: usize) -> Result<Value> {
        if depth > MAX_DEPTH {
            return self.refuse(&format!("at most {MAX_DEPTH} levels"));
        }
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.read_map(depth),
            Some(b'[') => self.read_list(depth),
            Some(b'"') => Ok(Value::Text(self.read_text()?)),
            Some(b'-' | b'0'..=b'9') => self.read_number(),
            _ if self.skip("null") => Ok(Value::Null),
            _ if self.skip("true") => Ok(Value::Bool(true)),
            _ if self.skip("false") => Ok(Value::Bool(false)),
            _ => self.refuse("a value"),
        }
    }

    fn read_map(&mut self, depth: usize) -> Result<Value> {
        let mut entries: Vec<(String, Value)> = Vec::new();
        self.read_items(b'}', |reader| {
            if reader.peek() != Some(b'"') {
                return reader.refuse("a key");
            }
            let key = reader.read_text()?;
            if entries.iter().any(|(known, _)| *known == key) {
                return fail!("JSON: the key {key:?} occurs twice, at byte {}", reader.at);
            }
            reader.skip_space();
            if !reader.skip(":") {
                return reader.refuse("\":\"");
            }
            entries.push((key, reader.read_value(depth + 1)?));
            Ok(())
        })?;
        Ok(Value::Map(entries))
    }

    fn read_list(&mut self, depth: usize) -> Result<Value> {
        let mut items = Vec::new();
        self.read_items(b']', |reader| {
            items.push(reader.read_value(depth + 1)?);
            Ok(())
        })?;
        Ok(Value::List(items))
    }

    /// Read what stands between brackets, separated by commas; `self.at` is at the opening one.
    fn read_items(&mut self, end: u8, mut read: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(end) {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.skip_space();
            read(self)?;
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == end => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.refuse("\",\" or the closing bracket"),
            }
        }
    }

    fn read_number(&mut self) -> Result<Value> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) {
            self.at += 1;
        }
        let digits = &self.text[start..self.at];
        if is_number(digits)
            && let Ok(number) = digits.parse::<f64>()
            && number.is_finite()
        {
            return Ok(Value::Number(number));
        }
        self.at = start;
        self.refuse("a number that float64 can hold")
    }

    fn read_text(&mut self) -> Result<String> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let start = self.at;
            while !matches!(self.peek(), None | Some(b'"' | b'\\' | 0..=0x1f)) {
                self.at += 1;
            }
            text.push_str(&self.text[start..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => text.push(self.read_escape()?),
                _ => return self.refuse("the end of a string"),
            }
        }
    }

    fn read_escape(&mut self) -> Result<char> {
        self.at += 2;
        Ok(match self.text.as_bytes().get(self.at - 1) {
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(*byte),
            Some(b'u') => return self.read_code_point(),
            _ => {
                self.at -= 2;
                return self.refuse("an escape");
            }
        })
    }

    /// Read the digits after `\u`, and the second half of a surrogate pair.
    fn read_code_point(&mut self) -> Result<char> {
        let high = self.read_hex()?;
        if !(0xd800..0xdc00).contains(&high) {
            return char::from_u32(high).map_or_else(|| self.refuse("a code point"), Ok);
        }
        let low = if self.skip("\\u") { self.read_hex()? } else { 0 };
        if !(0xdc00..0xe000).contains(&low) {
            return self.refuse("the second half of a surrogate pair");
        }
        let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
        char::from_u32(code).map_or_else(|| self.refuse("a code point"), Ok)
    }

    fn read_hex(&mut self) -> Result<u32> {
        let digits = self.text.get(self.at..self.at + 4).unwrap_or("");
        if digits.len() < 4 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return self.refuse("four hexadecimal digits");
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).or_else(|_| self.refuse("four hexadecimal digits"))
    }
}

/// Return whether these characters of a number are in JSON's grammar, which is narrower than Rust's.
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.strip_prefix(['+', '-']).unwrap_or(exponent)),
        None => (text, "0"),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let has_leading_zero = whole.len() > 1 && whole.starts_with('0');
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    [whole, fraction, exponent].into_iter().all(is_digits) && !has_leading_zero
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_every_kind_are_read_in_their_order() {
        let text = r#" {"b": [1, -2.5e-3, true, null], "a": {"x": ""}, "c": "é\n\u00e9\ud83d\ude00\/"} "#;
        let expected = Value::Map(vec![
            ("b".into(), Value::List(vec![Value::Number(1.0), Value::Number(-0.0025), Value::Bool(true), Value::Null])),
            ("a".into(), Value::Map(vec![("x".into(), Value::Text(String::new()))])),
            ("c".into(), Value::Text("é\né😀/".into())),
        ]);
        assert_eq!(Value::parse(text), Ok(expected));
    }

    #[test]
    fn numbers_are_rounded_to_the_nearest_float64() {
        for (text, number) in [("0.1", 0.1), ("1e-400", 0.0), ("-0", -0.0), ("0.30000000000000004", 0.1 + 0.2)] {
            let Ok(Value::Number(found)) = Value::parse(text) else { panic!("{text}") };
            assert_eq!(found.to_bits(), f64::to_bits(number), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        let first = r#"{ ~ [1,] ~ [1 2] ~ {"a":1,} ~ {a:1} ~ {"a":1,"a":2} ~ 01 ~ +1 ~ .5 ~ 1."#.split(" ~ ");
        let others = r#"1e ~ NaN ~ Infinity ~ nul ~ "a ~ "\x" ~ "\ud800" ~ "\u12g4" ~ 1 2 ~ --1 ~ 1e400"#.split(" ~ ");
        for text in first.chain(others).chain(["", "\"\n\""]) {
            assert!(Value::parse(text).is_err(), "{text}");
        }
        assert!(Value::parse(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn a_value_of_another_kind_is_named() {
        let value = Value::parse(r#"{"a": 1.5}"#).unwrap();
        assert_eq!(value.get("b").unwrap_err(), "there is no key \"b\"");
        assert_eq!(value.get("a").unwrap().as_count().unwrap_err(), "Number(1.5) must be a whole number, at least 0");
        assert!(value.get("a").unwrap().as_text().is_err());
    }
}
