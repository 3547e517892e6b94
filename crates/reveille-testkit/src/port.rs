//! Free ports on the loopback interface, for programs that must be told a number rather than bind port 0 themselves.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

/// A port of 127.0.0.1 that was free for UDP and for TCP a moment ago.
///
/// Another process may take it before the caller binds it; where the caller can bind port 0 itself, it should.
///
/// # Errors
/// The error of the last attempt, when the system gave no port free for both within 64 attempts.
pub fn free_port() -> io::Result<u16> {
    let mut last = io::Error::other("no port is free for both UDP and TCP");
    for _ in 0..64 {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = udp.local_addr()?.port();
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// [`free_port`] as a socket address of 127.0.0.1.
///
/// # Errors
/// As [`free_port`].
pub fn free_addr() -> io::Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_bound_for_both_transports() {
        let addr = free_addr().unwrap();
        let _udp = UdpSocket::bind(addr).unwrap();
        let _tcp = TcpListener::bind(addr).unwrap();
    }
}
