//! An answer of HTTP/2 or gRPC, and what a scenario says about it.

use serde_json::Value;

use super::Verdict;
use super::got::Got;

/// An answer, and what can be said about it.
#[derive(Debug)]
pub struct Reply {
    /// Everything but the trailers.
    pub got: Got,
    /// Trailer lines.
    pub trailers: Vec<(String, String)>,
}

impl Reply {
    /// A trailer, empty when it is not there.
    #[must_use]
    pub fn trailer(&self, name: &str) -> &str {
        let found = self.trailers.iter().find(|(n, _)| n == name);
        found.map_or("", |(_, value)| value)
    }

    /// The gRPC status, which may be in the headers, has to be this.
    ///
    /// # Errors
    /// When it is another.
    pub fn grpc(self, want: u32) -> Result<Self, String> {
        let in_head = self.got.header("grpc-status");
        let status = if in_head.is_empty() {
            self.trailer("grpc-status")
        } else {
            in_head
        };
        if self.got.answer.status == 200 && status == want.to_string() {
            return Ok(self);
        }
        Err(format!(
            "status {} and gRPC status {status:?} ({:?}), want 200 and {want}",
            self.got.answer.status,
            self.got.header("grpc-message"),
        ))
    }

    /// The gRPC status has to be in the headers: the answer has no trailers.
    ///
    /// # Errors
    /// When it is not.
    pub fn trailers_only(self) -> Result<Self, String> {
        if self.trailers.is_empty() && self.got.answer.body.is_empty() {
            return Ok(self);
        }
        Err(format!(
            "trailers {:?} after {} bytes",
            self.trailers,
            self.got.answer.body.len()
        ))
    }

    /// A trailer has to be this; empty: has not to be there.
    ///
    /// # Errors
    /// When it is another.
    pub fn with_trailer(self, name: &str, want: &str) -> Result<Self, String> {
        let got = self.trailer(name);
        if got == want {
            return Ok(self);
        }
        Err(format!("trailer {name} {got:?}, want {want:?}"))
    }

    /// The messages of a gRPC answer.
    ///
    /// # Errors
    /// When the body is none.
    pub fn messages(&self) -> Result<Vec<&[u8]>, String> {
        let mut rest = self.got.answer.body.as_slice();
        let mut all = Vec::new();
        while let Some((prefix, after)) = rest.split_first_chunk::<5>() {
            let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
            let (message, after) = after
                .split_at_checked(length)
                .ok_or("a message that is cut")?;
            all.push(message);
            rest = after;
        }
        if rest.is_empty() {
            Ok(all)
        } else {
            Err("a prefix that is cut".to_owned())
        }
    }

    /// What the application saw, as the first message of its answer says.
    ///
    /// # Errors
    /// When it says nothing.
    pub fn seen(&self, what: &str) -> Result<Value, String> {
        let messages = self.messages()?;
        let first = messages.first().ok_or("no message")?;
        let seen: Value = serde_json::from_slice(first).map_err(|e| e.to_string())?;
        Ok(seen[what].clone())
    }

    /// The end of the chain.
    ///
    /// # Errors
    /// Never.
    pub fn done(self) -> Verdict {
        Ok(())
    }
}
