// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/datagrams.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <string_view>

#include "kernels/runtime/error.h"

namespace plinth::parallel {

namespace {

/// Beats of a large world come in bursts.
constexpr int buffer_bytes = 4 << 20;

sockaddr_in system_address(const Address& address) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_addr.s_addr = htonl(address.host);
    in.sin_port = htons(address.port);
    return in;
}

Address our_address(const sockaddr_in& in) {
    return {ntohl(in.sin_addr.s_addr), ntohs(in.sin_port)};
}

}  // namespace

DatagramSocket::DatagramSocket(uint32_t host)
    : socket_(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    REQUIRE(ranks, socket_ >= 0, "heartbeat: no socket: {}", std::strerror(errno));
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof(buffer_bytes));
    sockaddr_in own = system_address({.host = host, .port = 0});
    socklen_t length = sizeof(own);
    auto* name = reinterpret_cast<sockaddr*>(&own);
    if (::bind(socket_, name, length) != 0 || ::getsockname(socket_, name, &length) != 0) {
        const int error = errno;
        ::close(socket_);
        FAIL(ranks, "heartbeat: cannot listen: {}", std::strerror(error));
    }
    port_ = our_address(own).port;
}

DatagramSocket::~DatagramSocket() {
    ::close(socket_);
}

void DatagramSocket::send(const Address& to, std::span<const std::byte> bytes) noexcept {
    const sockaddr_in peer = system_address(to);
    ::sendto(socket_, bytes.data(), bytes.size(), MSG_DONTWAIT,
             reinterpret_cast<const sockaddr*>(&peer), sizeof(peer));
}

std::optional<Address> DatagramSocket::receive(std::span<std::byte> bytes) noexcept {
    for (;;) {
        sockaddr_in peer{};
        socklen_t length = sizeof(peer);
        const ssize_t got =
            ::recvfrom(socket_, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_TRUNC,
                       reinterpret_cast<sockaddr*>(&peer), &length);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return std::nullopt;
        if (static_cast<size_t>(got) == bytes.size() && peer.sin_family == AF_INET)
            return our_address(peer);
    }
}

void DatagramSocket::wait(double seconds) noexcept {
    pollfd wanted{.fd = socket_, .events = POLLIN, .revents = 0};
    ::poll(&wanted, 1, static_cast<int>(seconds * 1e3) + 1);
}

bool is_wanted(const std::string& wanted, const std::string& name, uint32_t address) {
    if (wanted.empty()) return true;
    for (size_t at = 0; at <= wanted.size();) {
        const size_t end = std::min(wanted.find(',', at), wanted.size());
        const std::string word = wanted.substr(at, end - at);
        at = end + 1;
        if (word == name) return true;
        const size_t slash = word.find('/');
        in_addr network{};
        if (slash == std::string::npos ||
            ::inet_pton(AF_INET, word.substr(0, slash).c_str(), &network) != 1)
            continue;
        int bits = -1;
        std::from_chars(word.data() + slash + 1, word.data() + word.size(), bits);
        if (bits < 0 || bits > 32) continue;
        const uint32_t mask = bits == 0 ? 0 : ~uint32_t{0} << (32 - bits);
        if (((address ^ ntohl(network.s_addr)) & mask) == 0) return true;
    }
    return false;
}

std::vector<uint32_t> own_addresses(const std::string& wanted) {
    std::vector<uint32_t> addresses;
    ifaddrs* list = nullptr;
    if (::getifaddrs(&list) != 0) return addresses;
    for (const ifaddrs* one = list; one; one = one->ifa_next) {
        if (!one->ifa_addr || one->ifa_addr->sa_family != AF_INET || !(one->ifa_flags & IFF_UP) ||
            (one->ifa_flags & IFF_LOOPBACK))
            continue;
        sockaddr_in in{};
        std::memcpy(&in, one->ifa_addr, sizeof(in));
        const uint32_t address = our_address(in).host;
        if (is_wanted(wanted, one->ifa_name, address)) addresses.push_back(address);
    }
    ::freeifaddrs(list);
    return addresses;
}

}  // namespace plinth::parallel
