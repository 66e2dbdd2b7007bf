//! Protection of records. Spec: RFC 8446, section 5.

use std::ops::Range;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::ConnectionTrafficSecrets;

use super::error::{RecordError, TlsError};

/// The longest plain text of a record.
pub(super) const MAX_PLAIN: usize = 1 << 14;
/// The length of a record's header.
pub(super) const HEADER: usize = 5;
/// The length of an authentication tag, the same for all three algorithms.
const TAG: usize = 16;
/// What encryption may add to the plain text: the type, the tag, and padding.
const MAX_EXPANSION: usize = 256;

/// The types of records.
pub(super) mod kind {
    pub(crate) const ALERT: u8 = 21;
    pub(crate) const HANDSHAKE: u8 = 22;
    pub(crate) const DATA: u8 = 23;
}

/// One direction's key, and how many records it has protected.
pub(super) struct Protection {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Protection {
    /// Goes on after `sequence` records.
    pub(super) fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, TlsError> {
        use ConnectionTrafficSecrets as Secrets;
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match secrets {
            Secrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            Secrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            Secrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(TlsError::Unsupported),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| TlsError::Unsupported)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            iv: iv.as_ref().try_into().map_err(|_| TlsError::Unsupported)?,
            sequence,
        })
    }

    /// How many records were protected.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Appends one record to `out`; `plain` is not longer than [`MAX_PLAIN`].
    pub(super) fn seal(
        &mut self,
        kind: u8,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), TlsError> {
        debug_assert!(
            plain.len() <= MAX_PLAIN,
            "a record is cut before it is sealed"
        );
        let [high, low] = ((plain.len() + 1 + TAG) as u16).to_be_bytes();
        let header = [kind::DATA, 3, 3, high, low];
        out.extend_from_slice(&header);
        let begins = out.len();
        out.extend_from_slice(plain);
        out.push(kind);
        let tag = self
            .key
            .seal_in_place_separate_tag(self.nonce(), Aad::from(header), &mut out[begins..])
            .map_err(|_| TlsError::Unsupported)?;
        out.extend_from_slice(tag.as_ref());
        self.sequence += 1;
        Ok(())
    }

    /// How long the record is that `bytes` begin with. `None` when they are too few to tell.
    pub(super) fn length(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
        let &[outer, major, _, high, low, ..] = bytes else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_PLAIN + MAX_EXPANSION {
            return Err(RecordError::TooLong);
        }
        if outer != kind::DATA || major != 3 {
            return Err(RecordError::Unexpected);
        }
        if length < 1 + TAG {
            return Err(RecordError::BadMac);
        }
        Ok(Some(HEADER + length))
    }

    /// Decrypts a whole record where it is. Returns its type and where its plain text is.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<(u8, Range<usize>), RecordError> {
        let (header, payload) = record
            .split_first_chunk_mut::<HEADER>()
            .ok_or(RecordError::Malformed)?;
        let plain = self
            .key
            .open_in_place(self.nonce(), Aad::from(*header), payload)
            .map_err(|_| RecordError::BadMac)?;
        self.sequence += 1;
        // The type is the last byte that is not padding.
        let kind_at = plain
            .iter()
            .rposition(|&byte| byte != 0)
            .ok_or(RecordError::Unexpected)?;
        if kind_at > MAX_PLAIN {
            return Err(RecordError::TooLong);
        }
        Ok((plain[kind_at], HEADER..HEADER + kind_at))
    }

    fn nonce(&self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, sequence) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}
