"""A name server for tests, made of dnslib: what it says is told line by line on its standard input, each answered by `ok`.

    add NAME TEXT     one more TXT record
    clear             no records any more
    fault FAULT       none, servfail, refused, silence or truncate (over UDP: come again over TCP)
    asked             answers how many questions came
"""

import sys
import threading

from dnslib import QTYPE, RCODE, RR, TXT
from dnslib.server import DNSServer


class Zone:
    def __init__(self):
        self.lock = threading.Lock()
        self.records, self.fault, self.asked = {}, "none", 0

    def tell(self, line):
        word, _, rest = line.partition(" ")
        with self.lock:
            if word == "add":
                name, _, text = rest.partition(" ")
                parts = [text[i : i + 255].encode() for i in range(0, len(text), 255)]
                self.records.setdefault(name.lower().rstrip("."), []).append(TXT(parts))
            elif word == "clear":
                self.records = {}
            elif word == "fault":
                self.fault = rest
            elif word == "asked":
                return f"ok {self.asked}"
            return "ok"

    def resolve(self, request, handler):
        reply = request.reply()
        with self.lock:
            self.asked += 1
            fault, name = self.fault, str(request.q.qname).lower().rstrip(".")
            found = self.records.get(name)
        if fault == "silence":
            raise TimeoutError("says nothing")
        if fault in ("servfail", "refused"):
            reply.header.rcode = RCODE.reverse[fault.upper()]
        elif fault == "truncate" and handler.protocol == "udp":
            reply.header.tc = 1
        elif found is None:
            reply.header.rcode = RCODE.NXDOMAIN
        elif request.q.qtype in (QTYPE.TXT, QTYPE.ANY):
            for text in found:
                reply.add_answer(RR(request.q.qname, QTYPE.TXT, rdata=text, ttl=300))
        return reply


class Quiet:
    """Logs nothing; a question that is not answered is no error here."""

    def __getattr__(self, _):
        return lambda *_: None


def main():
    port, zone = int(sys.argv[1]), Zone()
    for tcp in (False, True):
        DNSServer(zone, address="127.0.0.1", port=port, tcp=tcp, logger=Quiet()).start_thread()
    print("ok", flush=True)
    for line in sys.stdin:
        print(zone.tell(line.rstrip("\n")), flush=True)


main()
