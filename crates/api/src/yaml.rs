//! YAML: documents in, documents out.

use crate::error::DocumentError;
use crate::resource::Resource;

/// A good document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The object.
    pub resource: Resource,
    /// The line that it begins on, from 1.
    pub line: usize,
    /// The document as it was written, defaults not filled in.
    pub value: serde_json::Value,
}

/// Reads the documents of a file. `file` only names it in errors.
///
/// A good document gives one `Ok` (a `List` one for each item), a broken one an `Err` for each thing that is wrong with it,
/// and does not stop the others. Empty documents give nothing.
pub fn parse_documents(file: &str, text: &str) -> Vec<Result<Document, DocumentError>> {
    let _ = (file, text);
    Vec::new()
}
