//! What the waypoint's access log has to say about a scenario's requests: the response flag of each.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::Verdict;

/// The format that the waypoint has to be told to write (`accessLogFormat`).
pub const FORMAT: &str = "%REQ(X-ID)% %DOWNSTREAM_LOCAL_ADDRESS% %RESPONSE_CODE% %RESPONSE_FLAGS% \
    %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS%";

/// Flags of which nothing is expected.
pub const ANY: &str = "any";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    code: String,
    flags: String,
    rest: String,
}

/// All lines so far.
#[derive(Debug, Default)]
pub struct AccessLog {
    /// By the id that the request carried.
    requests: HashMap<String, Vec<Line>>,
    /// Those without one, by the address that the client meant.
    others: HashMap<SocketAddr, Vec<Line>>,
}

impl AccessLog {
    /// Reads a log; one that is not there yet is empty.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let mut log = Self::default();
        for text in std::fs::read_to_string(path).unwrap_or_default().lines() {
            let mut words = text.splitn(5, ' ');
            let mut word = || words.next().unwrap_or_default().to_owned();
            let (id, address) = (word(), word());
            let line = Line {
                code: word(),
                flags: word(),
                rest: word(),
            };
            if id != "-" {
                log.requests.entry(id).or_default().push(line);
            } else if let Ok(address) = address.parse() {
                log.others.entry(address).or_default().push(line);
            }
        }
        log
    }
}

/// What a scenario expects of the log.
#[derive(Debug, Default)]
pub(super) struct Expected(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    requests: HashMap<String, Request>,
    /// Address and flags of lines without an id.
    others: Vec<(SocketAddr, String)>,
    /// Flags that such lines may have.
    perhaps: Vec<String>,
}

#[derive(Debug)]
struct Request {
    flags: String,
    /// What the client got, if it got an answer.
    code: Option<u16>,
}

impl Expected {
    /// A request with that id is sent.
    pub(super) fn request(&self, id: &str, flags: &str) {
        let request = Request {
            flags: flags.to_owned(),
            code: None,
        };
        self.lock().requests.insert(id.to_owned(), request);
    }

    /// It was answered.
    pub(super) fn answered(&self, id: &str, code: u16) {
        if let Some(request) = self.lock().requests.get_mut(id) {
            request.code = Some(code);
        }
    }

    /// It is nothing that anybody has to log.
    pub(super) fn forget(&self, id: &str) {
        self.lock().requests.remove(id);
    }

    /// A connection or request without an id that has a flag.
    pub(super) fn other(&self, address: SocketAddr, flags: &str) {
        self.lock().others.push((address, flags.to_owned()));
    }

    /// A line without an id may have this flag.
    pub(super) fn perhaps(&self, flags: &str) {
        self.lock().perhaps.push(flags.to_owned());
    }

    /// Compares with what was logged. `own` are the addresses of the scenario, whose lines without an id must have no
    /// flag unless it is expected.
    pub(super) fn check(&self, log: &AccessLog, own: impl Fn(SocketAddr) -> bool) -> Verdict {
        let expected = self.lock();
        for (id, want) in &expected.requests {
            match log.requests.get(id).map(Vec::as_slice) {
                None | Some([]) => return Err(format!("access log: request {id} is not in it")),
                Some([line]) => compare(id, line, want)?,
                Some(lines) => {
                    return Err(format!("access log: request {id} is in it as {lines:?}"));
                }
            }
        }
        let mut want: Vec<_> = expected.others.clone();
        want.sort();
        let addresses = log.others.iter().filter(|(address, _)| {
            own(**address) || want.iter().any(|(expected, _)| expected == *address)
        });
        let mut got: Vec<_> = addresses
            .flat_map(|(address, lines)| lines.iter().map(|line| (*address, line.flags.clone())))
            .filter(|(_, flags)| flags != "-" && !expected.perhaps.contains(flags))
            .collect();
        got.sort();
        if got == want {
            Ok(())
        } else {
            Err(format!("access log: without an id {got:?}, want {want:?}"))
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn compare(id: &str, line: &Line, want: &Request) -> Verdict {
    let code = want.code.map(|code| code.to_string());
    if (want.flags != ANY && line.flags != want.flags)
        || code.as_ref().is_some_and(|code| *code != line.code)
    {
        let (wanted_flags, wanted_code) = (&want.flags, code.as_deref().unwrap_or("any"));
        return Err(format!(
            "access log: request {id} with code {} and flags {} ({}), want {wanted_code} and {wanted_flags}",
            line.code, line.flags, line.rest
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn each_request_has_one_line_with_its_flag() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "1 127.96.0.1:80 504 UT upstream_response_timeout -\n\
             - 127.96.0.1:80 400 DPE http1.codec_error -\n- 127.96.0.2:80 0 UF - -\n2 127.96.0.1:80 200 - via_upstream -\n";
        std::fs::write(file.path(), text).unwrap();
        let log = AccessLog::read(file.path());
        let vip: SocketAddr = "127.96.0.1:80".parse().unwrap();
        let own = |address: SocketAddr| address.ip() == vip.ip();
        let expected = Expected::default();
        expected.other(vip, "DPE");
        expected.request("1", "UT");
        expected.answered("1", 504);
        assert_eq!(expected.check(&log, own), Ok(()));
        expected.request("2", "DC");
        assert!(
            expected
                .check(&log, own)
                .unwrap_err()
                .contains("want any and DC")
        );
        expected.request("2", "-");
        expected.answered("2", 503);
        assert!(
            expected
                .check(&log, own)
                .unwrap_err()
                .contains("want 503 and -")
        );
        expected.forget("2");
        expected.request("3", "-");
        assert!(
            expected
                .check(&log, own)
                .unwrap_err()
                .contains("3 is not in it")
        );
        expected.forget("3");
        expected.other(vip, "DPE");
        assert!(
            expected
                .check(&log, own)
                .unwrap_err()
                .contains("without an id")
        );
    }
}
