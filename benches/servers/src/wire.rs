//! Bytes that the bare loops write: answers to a client's request, and frames.

/// Answer to the WebSocket key that the load always sends.
pub const UPGRADE: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                           Sec-WebSocket-Accept: M0RbqYHuQSeLmq7DMbJUHNnJUrI=\r\n\r\n";
/// Answer that begins an event stream.
pub const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

/// `MSG_DONTWAIT | MSG_NOSIGNAL`: a full socket is an error, not a wait.
pub const SEND_FLAGS: i32 = 0x40 | 0x4000;

/// Appends the frame of a line, of an event stream or a WebSocket, with spaces after it up to `bytes` in total.
pub fn frame(line: &[u8], is_stream: bool, bytes: usize, out: &mut Vec<u8>) {
    let start = out.len();
    if is_stream {
        let end = b"\n\n";
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.resize(out.len().max((start + bytes).saturating_sub(end.len())), b' ');
        out.extend_from_slice(end);
        return;
    }
    out.push(0x81);
    let len = line.len().max(bytes.saturating_sub(4));
    if len < 126 {
        out.push(len as u8);
    } else {
        out.push(126);
        out.extend_from_slice(&(len as u16).to_be_bytes());
    }
    out.extend_from_slice(line);
    out.resize(out.len() + len - line.len(), b' ');
}
