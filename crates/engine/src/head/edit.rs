//! Looking at and changing the fields of a head that a proxy passes on.

use super::{Field, Head, Span};

impl Head {
    /// Whether there is a field of this name.
    #[must_use]
    pub fn contains(&self, name: &[u8]) -> bool {
        self.get(name).is_some()
    }

    /// The value of the first field of this name, if it is UTF-8.
    #[must_use]
    pub fn get_str(&self, name: &[u8]) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// Puts one field in the place of the first of its name, and removes the others; adds it after all, if there is none.
    pub fn insert(&mut self, field: Field<'_>) {
        let bytes = &self.bytes;
        let is_it = |span: &Span| &bytes[span.name()] == field.name;
        let Some(first) = self.fields.iter().position(is_it) else {
            self.push(field);
            return;
        };
        let mut index = 0;
        self.fields.retain(|span| {
            index += 1;
            index <= first + 1 || !is_it(span)
        });
        let at = self.bytes.len();
        self.bytes.extend_from_slice(field.name);
        self.bytes.extend_from_slice(field.value);
        self.fields[first] = Span {
            at: at as u32,
            name_len: field.name.len() as u32,
            value_len: field.value.len() as u32,
            sensitive: field.sensitive,
        };
    }

    /// Adds a field after the others, if there is none of its name.
    pub fn insert_if_absent(&mut self, field: Field<'_>) {
        if !self.contains(field.name) {
            self.push(field);
        }
    }

    /// Becomes a copy of another head, in the memory that it has.
    pub fn copy_from(&mut self, other: &Self) {
        self.clear();
        self.bytes.extend_from_slice(&other.bytes);
        self.fields.extend_from_slice(&other.fields);
        self.pseudo = other.pseudo;
        self.content_length = other.content_length;
        self.host = other.host;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(head: &Head) -> String {
        let lines = head
            .fields()
            .map(|f| format!("{}{} ", f.name.escape_ascii(), f.value.escape_ascii()));
        lines.collect()
    }

    #[test]
    fn what_is_inserted_takes_the_place_of_the_first() {
        let mut head = Head::response(200);
        for (name, value) in [("a", "1"), ("b", "2"), ("c", "3"), ("b", "4")] {
            head.push(Field::new(name.as_bytes(), value.as_bytes()));
        }
        head.insert(Field::new(b"b", b"5"));
        head.insert(Field::new(b"d", b"6"));
        head.insert_if_absent(Field::new(b"a", b"7"));
        head.insert_if_absent(Field::new(b"e", b"8"));
        assert_eq!(text(&head), "a1 b5 c3 d6 e8 ");
        assert!(head.contains(b"e") && !head.contains(b"f"));
        assert_eq!(head.get_str(b"d"), Some("6"));
    }

    #[test]
    fn a_copy_is_the_same() {
        let mut head = Head::request(b"GET");
        head.set_path(b"/x");
        head.set_authority(b"h");
        head.push(Field::new(b"a", b"1"));
        let mut copy = Head::response(500);
        copy.push(Field::new(b"z", b"z"));
        copy.copy_from(&head);
        assert_eq!(format!("{copy:?}"), format!("{head:?}"));
    }
}
