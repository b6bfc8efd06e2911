// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace plinth::parallel {

/// Of IPv4, in the byte order of the host.
struct Address {
    uint32_t host = 0;
    uint16_t port = 0;
    bool operator==(const Address&) const = default;
};

inline constexpr uint32_t loopback = 0x7f000001;  // 127.0.0.1

/// A UDP socket at a port that the system chooses. Errors while it is made are of kind ranks; what
/// cannot be sent later is lost, as datagrams are.
class DatagramSocket {
  public:
    /// `host`: the address it listens at; 0: all of this machine.
    explicit DatagramSocket(uint32_t host);
    ~DatagramSocket();
    DatagramSocket(const DatagramSocket&) = delete;
    DatagramSocket& operator=(const DatagramSocket&) = delete;

    uint16_t port() const { return port_; }
    void send(const Address& to, std::span<const std::byte> bytes) noexcept;
    /// A datagram that is there; only one of exactly bytes.size() bytes is taken, others are
    /// dropped. None: there is none.
    std::optional<Address> receive(std::span<std::byte> bytes) noexcept;
    /// Until a datagram is there, or for so many seconds.
    void wait(double seconds) noexcept;

  private:
    int socket_ = -1;
    uint16_t port_ = 0;
};

/// Addresses of this machine's interfaces that are up, without the loopback. `wanted` limits them
/// as OpenMPI's btl_tcp_if_include does: interfaces by name or networks such as 10.1.0.0/16,
/// separated by commas; empty: all.
std::vector<uint32_t> own_addresses(const std::string& wanted);

/// True if an interface with this name and address is among those that `wanted` names.
bool is_wanted(const std::string& wanted, const std::string& name, uint32_t address);

}  // namespace plinth::parallel
