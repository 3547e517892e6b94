//! Sockets with the options we want.

use std::{
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

/// A listening TCP socket. `v6_only` keeps a socket on `[::]` from also taking IPv4.
pub(crate) fn listen(addr: SocketAddr, v6_only: bool) -> io::Result<TcpListener> {
    let socket = open(addr, v6_only, Type::STREAM, Protocol::TCP)?;
    // A restart must not wait for connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A UDP socket with room for a burst.
pub(crate) fn datagram(addr: SocketAddr, v6_only: bool) -> io::Result<UdpSocket> {
    let socket = open(addr, v6_only, Type::DGRAM, Protocol::UDP)?;
    // The kernel grants what net.core.rmem_max and wmem_max allow; less is not a fault.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&addr.into())?;
    UdpSocket::from_std(socket.into())
}

fn open(addr: SocketAddr, v6_only: bool, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    if addr.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// An address as we speak of it: IPv4 behind an IPv6 socket is IPv4.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// An address as an IPv6 socket must be told it.
pub(crate) fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) => SocketAddrV6::new(ip.to_ipv6_mapped(), addr.port(), 0, 0).into(),
        IpAddr::V6(_) => addr,
    }
}

/// Connections waiting to be accepted; net.core.somaxconn may allow fewer.
const BACKLOG: i32 = 4_096;
/// Octets asked for each way.
const SOCKET_BUFFER: usize = 4 << 20;
