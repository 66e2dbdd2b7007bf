//! A blocking HTTP/1.1 client that shows exactly what came over the wire: no retries, no pool, no redirects.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

const TIMEOUT: Duration = Duration::from_secs(10);

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header lines in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of that (lower-case) name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// The body as JSON, `null` when it is not.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Connection {
    /// Connects, from `source` if given.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(source: Option<IpAddr>, to: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect_timeout(&to.into(), TIMEOUT)?;
        socket.set_tcp_nodelay(true)?;
        let stream: TcpStream = socket.into();
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self {
            stream: BufReader::new(stream),
            host: to.to_string(),
        })
    }

    /// `GET path` on this connection.
    ///
    /// # Errors
    /// When the connection breaks or what comes is not HTTP/1.1.
    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.request("GET", path, &[], b"")
    }

    /// A request with a body of known length.
    ///
    /// # Errors
    /// When the connection breaks or what comes is not HTTP/1.1.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        self.send(method, path, headers, body)?;
        self.answer(method)
    }

    /// Sends a request and does not wait for the answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        self.send_head(method, path, headers, body.len())?;
        self.write(body)
    }

    /// Sends the head of a request whose body has that length, and nothing of that.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send_head(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        length: usize,
    ) -> io::Result<()> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.host);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if length > 0 {
            head.push_str(&format!("content-length: {length}\r\n"));
        }
        head.push_str("\r\n");
        self.write(head.as_bytes())
    }

    /// Sends raw bytes and reads until the peer closes or `limit` bytes came.
    ///
    /// # Errors
    /// When the connection breaks otherwise than by being closed or reset.
    pub fn raw(&mut self, bytes: &[u8], limit: u64) -> io::Result<Vec<u8>> {
        let closed = |e: &io::Error| {
            matches!(
                e.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            )
        };
        match self.stream.get_mut().write_all(bytes) {
            Err(e) if !closed(&e) => return Err(e),
            _ => {}
        }
        let mut got = Vec::new();
        match self.stream.by_ref().take(limit).read_to_end(&mut got) {
            Err(e) if !closed(&e) => Err(e),
            _ => Ok(got),
        }
    }

    /// Waits for the answer to a request that was sent with that method.
    ///
    /// # Errors
    /// When the connection breaks or what comes is not HTTP/1.1.
    pub fn answer(&mut self, method: &str) -> io::Result<Answer> {
        let mut answer = self.head()?;
        let status = answer.status;
        let bodiless = method == "HEAD" || status == 204 || status == 304 || status < 200;
        if !bodiless {
            answer.body = self.body(&answer)?;
        }
        Ok(answer)
    }

    /// Waits for the head of an answer; its body is left where it is.
    ///
    /// # Errors
    /// When the connection breaks or what comes is not HTTP/1.1.
    pub fn head(&mut self) -> io::Result<Answer> {
        let status_line = self.line()?;
        let status = status_line
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.get(2..5))
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| bad(&format!("status line {status_line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| bad(&format!("header line {line:?}")))?;
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        Ok(Answer {
            status,
            headers,
            body: Vec::new(),
        })
    }

    /// Waits for so many bytes, as they come over the wire.
    ///
    /// # Errors
    /// When the connection breaks before.
    pub fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    fn body(&mut self, answer: &Answer) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if answer
            .header("transfer-encoding")
            .is_some_and(|v| v.eq_ignore_ascii_case("chunked"))
        {
            loop {
                let line = self.line()?;
                let size = line.split(';').next().unwrap_or("").trim();
                let size = u64::from_str_radix(size, 16)
                    .map_err(|_| bad(&format!("chunk size {line:?}")))?;
                if size == 0 {
                    while !self.line()?.is_empty() {}
                    return Ok(body);
                }
                let read = self.stream.by_ref().take(size).read_to_end(&mut body)?;
                if read as u64 != size || !self.line()?.is_empty() {
                    return Err(bad("chunk cut short"));
                }
            }
        }
        match answer
            .header("content-length")
            .and_then(|v| v.parse::<u64>().ok())
        {
            Some(length) => {
                let read = self.stream.by_ref().take(length).read_to_end(&mut body)?;
                if read as u64 != length {
                    return Err(bad("body cut short"));
                }
            }
            None => {
                self.stream.read_to_end(&mut body)?;
            }
        }
        Ok(body)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// `GET` on a connection of its own.
///
/// # Errors
/// When the connection can't be made or breaks.
pub fn get(source: Option<IpAddr>, to: SocketAddr, path: &str) -> io::Result<Answer> {
    Connection::open(source, to)?.get(path)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}
