//! What fuzzing starts from: the recorded traffic of Apache's clients, and the mutations of it.

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::Value;

const GOLDEN: &str = include_str!("../mq-protocol/tests/golden/frames.jsonl");
const EXPRESSIONS: [&str; 8] = [
    "a > 5 AND b <= 'x' OR NOT c IS NULL",
    "price BETWEEN 10 AND 20.5 AND region IN ('hz', 'sh') AND name IS NOT NULL",
    "(a = 1 OR (b <> TRUE AND c NOT IN ('1', '2'))) AND d NOT BETWEEN -1 AND 1E3",
    "name CONTAINS 'abc' OR name STARTSWITH 'it''s' OR name NOT ENDSWITH 'z'\0name\u{1}abcz\u{2}",
    "a = b AND c >= 9223372036854775807\0a\u{1}7\u{2}b\u{1}7\u{2}c\u{1}9e99\u{2}",
    "((((((((a))))))))",
    "TRUE",
    "_x$ <> 'ü' AND -(-5) < +a",
];

/// What a target starts from: whole frames, headers, bodies and texts of the recorded traffic.
#[derive(Default)]
pub(crate) struct Seeds {
    pub(crate) frames: Vec<Vec<u8>>,
    json_headers: Vec<Vec<u8>>,
    binary_headers: Vec<Vec<u8>>,
    ext_fields: Vec<Vec<u8>>,
    bodies: Vec<Vec<u8>>,
}

impl Seeds {
    pub(crate) fn read() -> Self {
        let mut seeds = Self::default();
        for line in GOLDEN.lines() {
            let json: Value = serde_json::from_str(line).unwrap();
            let hex = |key: &str| json[key].as_str().map(|text| hex::decode(text).unwrap());
            let text = |key: &str| json[key].as_str().map(|text| text.as_bytes().to_vec());
            let body = hex("body_hex").or_else(|| text("body")).unwrap_or_default();
            let (kind, header) = match hex("header_hex") {
                Some(header) => (1, header),
                None => (0, text("header").unwrap()),
            };
            let mut frame = ((4 + header.len() + body.len()) as u32).to_be_bytes().to_vec();
            frame.extend((header.len() as u32 | kind << 24).to_be_bytes());
            frame.extend_from_slice(&header);
            frame.extend_from_slice(&body);
            seeds.frames.push(frame);
            let fields = match &json["fields"] {
                Value::Null => serde_json::from_slice(&header).unwrap(),
                fields => fields.clone(),
            };
            if let Some(fields) = fields["extFields"].as_object() {
                let pairs =
                    fields.iter().map(|(key, value)| format!("{key}\u{1}{}\u{2}", value.as_str().unwrap_or("0")));
                seeds.ext_fields.push(pairs.collect::<String>().into_bytes());
            }
            if kind == 1 {
                seeds.binary_headers.push(header)
            } else {
                seeds.json_headers.push(header)
            }
            if !body.is_empty() {
                seeds.bodies.push(body);
            }
        }
        seeds
    }

    pub(crate) fn of(&self, target: &str) -> Vec<Vec<u8>> {
        match target {
            "frame" => self.frames.clone(),
            "json_header" => self.json_headers.clone(),
            "binary_header" => self.binary_headers.clone(),
            "typed_headers" | "properties" => self.ext_fields.clone(),
            "sql92" => EXPRESSIONS.iter().map(|text| text.as_bytes().to_vec()).collect(),
            "texts" => self.json_headers.iter().chain(&self.ext_fields).cloned().collect(),
            _ => self.bodies.clone(),
        }
    }
}

/// Bits, bytes, lengths, cuts, repetitions, and parts of another seed.
pub(crate) fn mutate(dice: &mut StdRng, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..dice.random_range(1..5) {
        let at = dice.random_range(0..=bytes.len());
        let end = (at + dice.random_range(0..40)).min(bytes.len());
        match dice.random_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.random_range(0..8),
            1 if at < bytes.len() => {
                bytes[at] = [0, 1, 2, 0x7f, 0x80, 0xff, b'"', b'{', b'\''][dice.random_range(0..9)]
            }
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            5 if at + 4 <= bytes.len() => {
                let word = [0, 1, 0x7fff_ffff, 0xffff_ffff, 0x8000_0000, bytes.len() as u32][dice.random_range(0..6)];
                bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
            }
            6 => {
                let from = dice.random_range(0..=other.len());
                let part = &other[from..(from + 40).min(other.len())];
                bytes.splice(at..end, part.iter().copied());
            }
            _ => drop(bytes.splice(at..at, [dice.random_range(0..=255)])),
        }
    }
    bytes
}
