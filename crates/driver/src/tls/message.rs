//! The handshake messages that come in a session. Spec: RFC 8446, sections 4.6 and 5.1.

use super::error::RecordError;

/// What may come after the handshake.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// A ticket for a later session; its content.
    Ticket(Vec<u8>),
    /// The peer protects what follows with its next key.
    KeyUpdate {
        /// Whether it wants us to do so too.
        requested: bool,
    },
}

/// Puts messages together that come in several records, or several in one.
#[derive(Debug, Default)]
pub(super) struct Messages {
    partial: Vec<u8>,
}

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// The longest message that is put together: a ticket with all that a server may put into it.
const MAX_MESSAGE: usize = 64 * 1024;

impl Messages {
    /// Takes the content of a handshake record.
    pub(super) fn add(&mut self, content: &[u8]) -> Result<(), RecordError> {
        if content.is_empty() {
            return Err(RecordError::Unexpected);
        }
        self.partial.extend_from_slice(content);
        if self.partial.len() > MAX_MESSAGE {
            return Err(RecordError::TooLong);
        }
        Ok(())
    }

    /// The next message that is whole.
    pub(super) fn next(&mut self) -> Result<Option<Message>, RecordError> {
        let &[kind, a, b, c, ref rest @ ..] = &self.partial[..] else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if rest.len() < length {
            return Ok(None);
        }
        let message = match (kind, &rest[..length]) {
            (NEW_SESSION_TICKET, content) => Message::Ticket(content.to_vec()),
            (KEY_UPDATE, &[requested @ (0 | 1)]) => Message::KeyUpdate {
                requested: requested == 1,
            },
            (KEY_UPDATE, _) => return Err(RecordError::Malformed),
            _ => return Err(RecordError::Unexpected),
        };
        self.partial.drain(..4 + length);
        if self.partial.is_empty() {
            self.partial = Vec::new();
        } else if matches!(message, Message::KeyUpdate { .. }) {
            // What follows it is protected with another key, so it cannot be in the same record.
            return Err(RecordError::Unexpected);
        }
        Ok(Some(message))
    }

    /// Whether a message has begun that is not whole: only its rest may come.
    pub(super) fn is_waiting(&self) -> bool {
        !self.partial.is_empty()
    }
}

/// A KeyUpdate of ours, which asks for nothing.
pub(super) const OUR_KEY_UPDATE: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn messages_come_in_pieces_and_together() {
        let mut messages = Messages::default();
        messages.add(&[4, 0, 0, 2, b'a']).unwrap();
        assert_eq!(messages.next(), Ok(None));
        assert!(messages.is_waiting());
        messages.add(&[b'b', 24, 0, 0, 1, 1]).unwrap();
        assert_eq!(messages.next(), Ok(Some(Message::Ticket(b"ab".to_vec()))));
        let update = Message::KeyUpdate { requested: true };
        assert_eq!(messages.next(), Ok(Some(update)));
        assert_eq!(messages.next(), Ok(None));
        assert!(!messages.is_waiting());
    }

    #[test]
    fn refuses_what_has_no_place() {
        let cases: [(&[u8], RecordError); 5] = [
            (&[1, 0, 0, 0], RecordError::Unexpected),
            (&[24, 0, 0, 1, 2], RecordError::Malformed),
            (&[24, 0, 0, 2, 0, 0], RecordError::Malformed),
            (&[24, 0, 0, 1, 0, 4], RecordError::Unexpected),
            (&[13, 0, 0, 0], RecordError::Unexpected),
        ];
        for (content, expected) in cases {
            let mut messages = Messages::default();
            messages.add(content).unwrap();
            assert_eq!(messages.next(), Err(expected), "{content:?}");
        }
        assert_eq!(Messages::default().add(&[]), Err(RecordError::Unexpected));
        let mut endless = Messages::default();
        endless.add(&[4, 0xff, 0xff, 0xff]).unwrap();
        let added = (0..5).try_for_each(|_| endless.add(&[0; 16_384]));
        assert_eq!(added, Err(RecordError::TooLong));
    }
}
