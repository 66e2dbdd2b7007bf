//! The application behind a node proxy: HTTP/1.1, a thread a connection.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

const END: &[u8; 4] = b"\r\n\r\n";

/// Answers every request on every connection with `answer`, for ever.
pub(crate) fn serve(listener: TcpListener, answer: &Arc<[u8]>) {
    for stream in listener.incoming().filter_map(Result::ok) {
        let answer = Arc::clone(answer);
        std::thread::spawn(move || {
            let _ = connection(stream, &answer);
        });
    }
}

fn connection(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 * 1024];
    let mut matched = 0;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        for _ in 0..heads(&buffer[..count], &mut matched) {
            stream.write_all(answer)?;
        }
    }
}

/// How many heads end in `data`; `matched` bytes of the blank line came before it.
pub(crate) fn heads(data: &[u8], matched: &mut usize) -> usize {
    let mut count = 0;
    for &byte in data {
        *matched = match byte {
            _ if byte == END[*matched] => *matched + 1,
            b'\r' => 1,
            _ => 0,
        };
        if *matched == END.len() {
            *matched = 0;
            count += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_counted_across_pieces() {
        let text = b"GET / HTTP/1.1\r\na: b\r\n\r\nGET / HTTP/1.1\r\n\r\n\r\r\n\r\n";
        for size in 1..text.len() {
            let mut matched = 0;
            let count: usize = text.chunks(size).map(|p| heads(p, &mut matched)).sum();
            assert_eq!((count, matched), (3, 0), "in pieces of {size}");
        }
    }
}
