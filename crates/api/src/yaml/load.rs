//! YAML text to [`Node`] trees, one document at a time, within bounds.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use crate::tree::{Entry, Node, Position, Value, quoted};

/// A stretch of a file that holds one document, and the line before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk<'a> {
    pub(crate) text: &'a str,
    pub(crate) lines_before: usize,
}

/// Why a document could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoadError {
    pub(crate) at: Position,
    pub(crate) message: String,
}

/// Splits a file at its `---` and `...` lines.
///
/// At the beginning of a line these always end a document, even inside of a block scalar, so that a syntax error loses
/// nothing but its own document.
pub(crate) fn split(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let (mut start, mut offset) = (0, 0);
    let (mut start_line, mut line_number) = (0, 0);
    let mut push = |from: usize, to: usize, lines_before: usize| {
        if let Some(chunk) = text.get(from..to).filter(|c| !is_empty_document(c)) {
            chunks.push(Chunk {
                text: chunk,
                lines_before,
            });
        }
    };
    for line in text.split_inclusive('\n') {
        let next = offset + line.len();
        if is_marker(line, "---") {
            push(start, offset, start_line);
            (start, start_line) = (offset, line_number);
        } else if is_marker(line, "...") {
            push(start, offset, start_line);
            (start, start_line) = (next, line_number + 1);
        }
        offset = next;
        line_number += 1;
    }
    push(start, text.len(), start_line);
    chunks
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn is_empty_document(chunk: &str) -> bool {
    chunk.lines().all(|line| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        line.is_empty() || line.starts_with(['#', '%'])
    })
}

/// Loads the one document of a chunk. `None` when there is nothing in it.
pub(crate) fn load(chunk: Chunk<'_>) -> Result<Option<Node>, LoadError> {
    let mut builder = Builder {
        lines_before: chunk.lines_before,
        lines: chunk.text.lines().count(),
        ..Builder::default()
    };
    let mut parser = Parser::new_from_str(chunk.text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|e| builder.syntax(&e))?;
        builder.event(event, span.start)?;
    }
    Ok(builder.root.filter(|node| node.value != Value::Null))
}

#[derive(Default)]
struct Builder {
    lines_before: usize,
    lines: usize,
    frames: Vec<Frame>,
    anchors: HashMap<usize, Built>,
    root: Option<Node>,
    /// Nodes that came out of aliases.
    expanded: usize,
}

struct Frame {
    at: Position,
    anchor: usize,
    size: usize,
    height: usize,
    kind: FrameKind,
}

enum FrameKind {
    Seq(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        keys: HashSet<String>,
        merged: Vec<Entry>,
        key: Option<Key>,
    },
}

struct Key {
    text: String,
    at: Position,
    merge: bool,
}

/// A finished node with the number of nodes in it and the depth of its tree.
#[derive(Clone)]
struct Built {
    node: Node,
    size: usize,
    height: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, mark: Marker) -> Result<(), LoadError> {
        let at = self.position(mark);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(error(at, "a second document without `---`"))
            }
            Event::DocumentStart(_) => Ok(()),
            Event::Alias(id) => self.alias(id, at),
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(text, style, anchor, tag.as_deref(), at)
            }
            Event::SequenceStart(anchor, tag) => {
                collection_tag(tag.as_deref(), "seq", at)?;
                self.open(FrameKind::Seq(Vec::new()), anchor, at)
            }
            Event::MappingStart(anchor, tag) => {
                collection_tag(tag.as_deref(), "map", at)?;
                self.open(
                    FrameKind::Map {
                        entries: Vec::new(),
                        keys: HashSet::new(),
                        merged: Vec::new(),
                        key: None,
                    },
                    anchor,
                    at,
                )
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
        }
    }

    fn open(&mut self, kind: FrameKind, anchor: usize, at: Position) -> Result<(), LoadError> {
        self.expects_value(at)?;
        if self.frames.len() >= MAX_DEPTH {
            return Err(error(
                at,
                format!("nested more than {MAX_DEPTH} levels deep"),
            ));
        }
        self.frames.push(Frame {
            at,
            anchor,
            size: 1,
            height: 1,
            kind,
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), LoadError> {
        let Some(frame) = self.frames.pop() else {
            return Ok(());
        };
        let value = match frame.kind {
            FrameKind::Seq(items) => Value::Seq(items),
            FrameKind::Map {
                mut entries,
                mut keys,
                merged,
                ..
            } => {
                for entry in merged {
                    if keys.insert(entry.key.clone()) {
                        entries.push(entry);
                    }
                }
                Value::Map(entries)
            }
        };
        let node = Node {
            value,
            at: frame.at,
        };
        self.finish(
            Built {
                node,
                size: frame.size,
                height: frame.height,
            },
            frame.anchor,
        )
    }

    fn alias(&mut self, id: usize, at: Position) -> Result<(), LoadError> {
        let Some(built) = self.anchors.get(&id).cloned() else {
            return Err(error(at, "an alias to an anchor that is not complete"));
        };
        self.expanded += built.size;
        if self.expanded > MAX_EXPANDED || self.frames.len() + built.height > MAX_DEPTH {
            return Err(error(at, "aliases make the document too large"));
        }
        self.finish(built, 0)
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        at: Position,
    ) -> Result<(), LoadError> {
        if let Some(Frame {
            kind:
                FrameKind::Map {
                    keys,
                    key: key @ None,
                    ..
                },
            ..
        }) = self.frames.last_mut()
        {
            let merge = text == "<<" && style == ScalarStyle::Plain;
            if !merge && !keys.insert(text.clone().into_owned()) {
                return Err(error(
                    at,
                    format!("the key {} is given twice", quoted(&text)),
                ));
            }
            *key = Some(Key {
                text: text.clone().into_owned(),
                at,
                merge,
            });
            if anchor > 0 {
                let node = Node {
                    value: Value::String(text.into_owned()),
                    at,
                };
                self.anchors.insert(
                    anchor,
                    Built {
                        node,
                        size: 1,
                        height: 1,
                    },
                );
            }
            return Ok(());
        }
        let value = resolve(text, style, tag, at)?;
        self.finish(
            Built {
                node: Node { value, at },
                size: 1,
                height: 1,
            },
            anchor,
        )
    }

    /// Puts a finished node where it belongs.
    fn finish(&mut self, built: Built, anchor: usize) -> Result<(), LoadError> {
        if anchor > 0 {
            self.anchors.insert(anchor, built.clone());
        }
        let Built { node, size, height } = built;
        let Some(frame) = self.frames.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        frame.size += size;
        frame.height = frame.height.max(height + 1);
        match &mut frame.kind {
            FrameKind::Seq(items) => items.push(node),
            FrameKind::Map {
                entries,
                merged,
                key,
                ..
            } => match key.take() {
                None => return Err(error(node.at, "a key has to be a plain value")),
                Some(Key {
                    merge: false,
                    text,
                    at,
                }) => entries.push(Entry {
                    key: text,
                    at,
                    node,
                }),
                Some(Key {
                    merge: true, at, ..
                }) => merged.extend(merge_entries(node, at)?),
            },
        }
        Ok(())
    }

    fn expects_value(&self, at: Position) -> Result<(), LoadError> {
        match self.frames.last() {
            Some(Frame {
                kind: FrameKind::Map { key: None, .. },
                ..
            }) => Err(error(at, "a key has to be a plain value")),
            _ => Ok(()),
        }
    }

    fn position(&self, mark: Marker) -> Position {
        Position {
            line: mark.line().max(1) + self.lines_before,
            column: mark.col() + 1,
        }
    }

    fn syntax(&self, e: &ScanError) -> LoadError {
        let mut at = self.position(*e.marker());
        // What is missing at the end is found missing on the line after it, which is another document's.
        at.line = at.line.min(self.lines_before + self.lines.max(1));
        error(at, format!("not valid YAML: {}", e.info()))
    }
}

fn merge_entries(node: Node, at: Position) -> Result<Vec<Entry>, LoadError> {
    match node.value {
        Value::Map(entries) => Ok(entries),
        Value::Seq(items) => {
            let mut all: Vec<Entry> = Vec::new();
            for item in items {
                for entry in merge_entries(item, at)? {
                    if !all.iter().any(|e| e.key == entry.key) {
                        all.push(entry);
                    }
                }
            }
            Ok(all)
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_) => {
            Err(error(at, "only mappings can be merged with `<<`"))
        }
    }
}

/// What a scalar means, by the core schema of YAML 1.2.
fn resolve(
    text: Cow<'_, str>,
    style: ScalarStyle,
    tag: Option<&Tag>,
    at: Position,
) -> Result<Value, LoadError> {
    match tag {
        None if style == ScalarStyle::Plain => Ok(plain(text)),
        None => Ok(Value::String(text.into_owned())),
        Some(tag) if tag.handle == "!" && tag.suffix.is_empty() => {
            Ok(Value::String(text.into_owned()))
        }
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => {
            Ok(Value::String(text.into_owned()))
        }
        Some(tag) if tag.is_yaml_core_schema() => {
            let value = plain(text);
            let fits = match &value {
                Value::Null => tag.suffix == "null",
                Value::Bool(_) => tag.suffix == "bool",
                Value::Int(_) => tag.suffix == "int" || tag.suffix == "float",
                Value::Float(_) => tag.suffix == "float",
                Value::String(_) | Value::Seq(_) | Value::Map(_) => false,
            };
            if fits {
                Ok(value)
            } else {
                Err(error(at, format!("the tag {tag} is not understood here")))
            }
        }
        Some(tag) => Err(error(at, format!("the tag {tag} is not understood"))),
    }
}

fn collection_tag(tag: Option<&Tag>, wanted: &str, at: Position) -> Result<(), LoadError> {
    match tag {
        None => Ok(()),
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == wanted => Ok(()),
        Some(tag) => Err(error(at, format!("the tag {tag} is not understood"))),
    }
}

fn plain(text: Cow<'_, str>) -> Value {
    match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    number(&text).unwrap_or_else(|| Value::String(text.into_owned()))
}

/// A number as the core schema has them (no infinities: JSON has none).
pub(super) fn number(text: &str) -> Option<Value> {
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if let Some(hex) = text.strip_prefix("0x") {
        return i64::from_str_radix(hex, 16)
            .ok()
            .filter(|n| *n >= 0)
            .map(Value::Int);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return i64::from_str_radix(octal, 8)
            .ok()
            .filter(|n| *n >= 0)
            .map(Value::Int);
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits(unsigned) {
        return Some(match text.parse() {
            Ok(int) => Value::Int(int),
            Err(_) => Value::Float(text.parse().ok()?),
        });
    }
    let (mantissa, exponent) = unsigned
        .split_once(['e', 'E'])
        .map_or((unsigned, None), |(m, e)| (m, Some(e)));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mantissa_fits = (digits(whole) && (fraction.is_empty() || digits(fraction)))
        || (whole.is_empty() && digits(fraction));
    let exponent_fits = exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)));
    let value: f64 = (mantissa_fits && exponent_fits).then(|| text.parse().ok())??;
    value.is_finite().then_some(Value::Float(value))
}

fn error(at: Position, message: impl Into<String>) -> LoadError {
    LoadError {
        at,
        message: message.into(),
    }
}

/// Manifests are about ten levels deep.
const MAX_DEPTH: usize = 64;
/// Enough for any manifest that uses aliases to save typing, and nothing for one that uses them to exhaust memory.
const MAX_EXPANDED: usize = 50_000;
