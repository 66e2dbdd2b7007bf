//! An answer, and what a scenario says about it.

use std::fmt::Debug;
use std::time::Duration;

use serde_json::Value;

use super::Verdict;
use crate::http::Answer;

/// An answer, and what can be said about it.
#[derive(Debug)]
pub struct Got {
    /// The answer.
    pub answer: Answer,
    /// How long it took.
    pub took: Duration,
    /// The pods that had seen the request by then, in order.
    pub pods: Vec<String>,
}

impl Got {
    /// A header, empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.answer.header(name).unwrap_or("")
    }

    /// What the application saw.
    #[must_use]
    pub fn seen(&self, what: &str) -> Value {
        self.answer.json()[what].clone()
    }

    /// All values of a header that the application saw, joined by commas.
    #[must_use]
    pub fn seen_header(&self, name: &str) -> String {
        let headers = self.seen("headers");
        let values = headers.as_array().into_iter().flatten();
        let values = values
            .filter(|pair| pair[0] == name)
            .filter_map(|pair| pair[1].as_str());
        values.collect::<Vec<_>>().join(",")
    }

    /// The status has to be this.
    ///
    /// # Errors
    /// When it is another.
    pub fn status(self, want: u16) -> Result<Self, String> {
        if self.answer.status == want {
            return Ok(self);
        }
        let body = String::from_utf8_lossy(&self.answer.body)
            .chars()
            .take(120)
            .collect::<String>();
        Err(format!(
            "status {}, want {want}; body {body:?}",
            self.answer.status
        ))
    }

    /// The pod that answered has to be this.
    ///
    /// # Errors
    /// When it is another.
    pub fn pod(self, want: &str) -> Result<Self, String> {
        let got = self.header("x-pod").to_owned();
        same("pod", got.as_str(), want).map(|()| self)
    }

    /// A header of the answer has to be this; empty: has not to be there.
    ///
    /// # Errors
    /// When it is another.
    pub fn with(self, name: &str, want: &str) -> Result<Self, String> {
        let got = self.header(name).to_owned();
        same(name, got.as_str(), want).map(|()| self)
    }

    /// A header of the request, as the application saw it, has to be this; empty: has not to be there.
    ///
    /// # Errors
    /// When it is another.
    pub fn saw(self, name: &str, want: &str) -> Result<Self, String> {
        let got = self.seen_header(name);
        same(&format!("request header {name}"), got.as_str(), want).map(|()| self)
    }

    /// The path that the application saw has to be this.
    ///
    /// # Errors
    /// When it is another.
    pub fn path(self, want: &str) -> Result<Self, String> {
        let got = self.seen("path");
        same("path", got.as_str().unwrap_or(""), want).map(|()| self)
    }

    /// The body has to be this.
    ///
    /// # Errors
    /// When it is another.
    pub fn text(self, want: &str) -> Result<Self, String> {
        let got = String::from_utf8_lossy(&self.answer.body).into_owned();
        same("body", got.as_str(), want).map(|()| self)
    }

    /// The body has to contain this.
    ///
    /// # Errors
    /// When it does not.
    pub fn containing(self, want: &str) -> Result<Self, String> {
        let got = String::from_utf8_lossy(&self.answer.body).into_owned();
        if got.contains(want) {
            Ok(self)
        } else {
            Err(format!("body {got:?}, want {want:?} in it"))
        }
    }

    /// The applications have to have seen it so often.
    ///
    /// # Errors
    /// When it was another number.
    pub fn attempts(self, want: usize) -> Result<Self, String> {
        same("attempts", &self.pods.len(), &want).map(|()| self)
    }

    /// It has to have taken so long, in milliseconds.
    ///
    /// # Errors
    /// When it did not.
    pub fn within(self, from: u64, to: u64) -> Result<Self, String> {
        let took = self.took.as_millis();
        if (u128::from(from)..=u128::from(to)).contains(&took) {
            Ok(self)
        } else {
            Err(format!("took {took} ms, want {from} to {to}"))
        }
    }

    /// The end of the chain.
    ///
    /// # Errors
    /// Never.
    pub fn done(self) -> Verdict {
        Ok(())
    }
}

/// Two values have to be the same.
pub(super) fn same<T: PartialEq + Debug + ?Sized>(what: &str, got: &T, want: &T) -> Verdict {
    if got == want {
        Ok(())
    } else {
        Err(format!("{what} {got:?}, want {want:?}"))
    }
}
