"""The resolver that the host asks, for tests: it knows a few names and is asked over UDP and TCP on one port."""

import socket
import struct
import threading

A, CNAME, SOA, NXDOMAIN = 1, 5, 6, 3
RESPONSE, TRUNCATED = 0x8180, 0x0200


def name_bytes(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def record(owner, kind, ttl, data):
    return name_bytes(owner) + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


class Upstream:
    """Answers for `addresses`, which has lists of them by name; of other names it says that they do not exist."""

    def __init__(self):
        self.addresses, self.aliases, self.asked = {}, {}, []
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(self.tcp.getsockname())
        self.address = "%s:%d" % self.tcp.getsockname()
        for serve in (self.serve_datagrams, self.serve_connections):
            threading.Thread(target=serve, daemon=True).start()

    def close(self):
        self.udp.close()
        self.tcp.close()

    def serve_datagrams(self):
        while True:
            try:
                message, client = self.udp.recvfrom(4096)
                self.udp.sendto(self.answer(message, 512), client)
            except OSError:
                return

    def serve_connections(self):
        while True:
            try:
                stream, _ = self.tcp.accept()
            except OSError:
                return
            with stream, stream.makefile("rwb") as file:
                (length,) = struct.unpack("!H", file.read(2))
                answer = self.answer(file.read(length), 65_535)
                file.write(struct.pack("!H", len(answer)) + answer)

    def answer(self, message, bytes_max):
        end = message.index(b"\0", 12) + 5
        question, labels, at = message[12:end], [], 12
        while message[at]:
            labels.append(message[at + 1:at + 1 + message[at]].decode())
            at += 1 + message[at]
        name, (kind,) = ".".join(labels).lower(), struct.unpack("!H", question[-4:-2])
        self.asked.append(name)
        records, owner = [], name
        while owner in self.aliases:
            records.append(record(owner, CNAME, 60, name_bytes(self.aliases[owner])))
            owner = self.aliases[owner]
        known = owner in self.addresses
        if kind == A:
            records += [record(owner, A, 60, socket.inet_aton(one)) for one in self.addresses.get(owner, [])]
        soa = name_bytes("example.com") * 2 + struct.pack("!5I", 1, 1, 1, 1, 60)
        authority = [] if records else [record("example.com", SOA, 60, soa)]

        def packet(flags, records, authority):
            counts = struct.pack("!4H", 1, len(records), len(authority), 0)
            return message[:2] + struct.pack("!H", flags) + counts + question + b"".join(records + authority)

        whole = packet(RESPONSE | (0 if known else NXDOMAIN), records, authority)
        return whole if len(whole) <= bytes_max else packet(RESPONSE | TRUNCATED, [], [])
