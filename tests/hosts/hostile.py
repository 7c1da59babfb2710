"""What a daemon that means harm may try with the agent's socket. Usage: hostile.py SCENARIO [ARGUMENT…]; it fails with
what was not refused. Run on a host of the tests by hostile.rs, as the daemon's user or as root."""

import array
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import time
import uuid

PACKET_MAX = 64 << 10
ADD_SEALS, ALL_SEALS = 1033, 15
SOMEWHERE = "00000000-0000-7000-8000-000000000000"


def dial():
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(20)
    s.connect("/run/stratavore/agent.sock")
    return s


def send(s, data, fds=()):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    s.sendmsg([data], rights)


def closed(s):
    """Waits until the other side has closed; what it said before does not matter."""
    try:
        while s.recv(1 << 17):
            pass
    except (ConnectionResetError, BrokenPipeError):
        pass


class Peer:
    def __init__(self):
        self.s, self.n = dial(), 0
        assert "Ok" in self.ask({"hello": {"v": 1, "program": "hostile"}})

    def ask(self, order, fds=()):
        self.n += 1
        send(self.s, json.dumps({"seq": self.n, "order": order}).encode(), fds)
        while True:
            got = self.s.recv(1 << 17)
            assert got, f"closed, instead of an answer to {order}"
            reply = json.loads(got).get("reply", {})
            if reply.get("seq") == self.n:
                return reply["result"]

    def refused(self, order, fds=(), code=None):
        result = self.ask(order, fds)
        assert "Err" in result, f"{order} was obeyed: {result}"
        if code is not None:
            assert result["Err"]["code"] in code, f"{order}: {result}"
        return result["Err"]

    def answers(self):
        self.refused({"usage": {"id": SOMEWHERE}}, code=["no-such-runner"])


def sealed(data, seals=ALL_SEALS):
    fd = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data if isinstance(data, bytes) else json.dumps(data).encode())
    if seals:
        fcntl.fcntl(fd, ADD_SEALS, seals)
    return fd


def launch(uid, **more):
    order = {"id": str(uuid.uuid4()), "project": "p", "project_limits": {}, "uid": uid, "name": None, "limits": {}, "unenforced": "refuse"}
    return {"launch": {**order, **more}}


def users(alice, *others):
    """Nobody but those root's agent.toml allows, nothing above its ceilings; those it allows, yes: as any of them."""
    peer, alice = Peer(), int(alice)
    fd = sealed({"command": ["sleep", "1000"]})
    for uid in [0, os.getuid(), 1, 65534, 61184, 4294967294, 4294967295, *map(int, others)]:
        if uid != alice:
            peer.refused(launch(uid), [fd], ["not-permitted", "launch-failed"])
    for uid in (-1, 4294967296, 1.5, "root", None):
        peer.refused(launch(uid), [fd], ["unsupported"])
    hour = 3_600_000_000
    peer.refused(launch(alice, limits={"runtime_max": 2 * hour}), [fd], ["limits-exceeded"])
    for limits in ({"cpu_weight": 0}, {"stop_timeout": 1 << 63}, {"kill_signal": 99}, {"kill_signal": -1}, {"runtime_max": 0}):
        peer.refused(launch(alice, limits=limits), [fd])
    order = launch(alice)
    ours = order["launch"]["id"]
    placed = peer.ask(order, [fd])["Ok"]["prepared"]
    assert peer.ask({"go": {"id": ours}}) == {"Ok": "done"}
    cgroup = open(f"/proc/{placed['shim_pid']}/cgroup").read().strip().removeprefix("0::")
    assert cgroup.endswith(f"/stratavore-p.slice/stratavore-{ours}.scope"), cgroup
    peer.refused({"set-limits": {"id": ours, "limits": {"runtime_max": 2 * hour}, "unenforced": "warn"}}, code=["limits-exceeded"])
    for number in (0, -9, 65, 1 << 31, "KILL"):
        peer.refused({"kill": {"id": ours, "signal": number}})
    # Again the same one, and one from another host: root has not said that it accepts any.
    peer.refused(order, [fd])
    there = {"host": "x", "name": "y"}
    peer.refused(launch(alice, placed=there), [fd], ["not-permitted"])
    for user in ("alice", "../x", "x" * 10_000, "", "a\nb"):
        peer.refused({"place": {"placed": there, "user": user}}, code=["not-permitted"])
    print(ours)


def paths(alice):
    """No text of an order leads anywhere but to the runner's own unit, slice and files."""
    peer, alice = Peer(), int(alice)
    good = sealed({"command": ["true"]})
    tricks = ["", "..", "../../../etc/passwd", "/etc/passwd", f"{SOMEWHERE}/../x", f"{SOMEWHERE}\n", "x" * 5_000, "a\u0000b", SOMEWHERE.upper() + "0"]
    for id in tricks:
        for order in ("go", "abort", "freeze", "thaw", "usage", "forget", "stop-scope"):
            peer.refused({order: {"id": id}}, code=["unsupported"])
        peer.refused({"stop": {"id": id, "asked": "stop"}}, code=["unsupported"])
        peer.refused({"kill": {"id": id, "signal": 9}}, code=["unsupported"])
        peer.refused({"inventory": {"after": id}}, code=["unsupported"])
        peer.refused({"log-files": {"after": id}}, code=["unsupported"])
        peer.refused({"remove-log-files": {"ids": [id]}}, code=["unsupported"])
        peer.refused({"logs": {"id": id, "caller": 0, "logs": {}}}, [good], ["unsupported"])
        peer.refused(launch(alice, id=id), [good], ["unsupported"])
    for project in ["", ".", "..", "../x", "a/b", "-x", "P", "a b", "a\u0000b", "a\nb", "x" * 64, "%i"]:
        peer.refused(launch(alice, project=project), [good], ["unsupported"])
        peer.refused({"set-slice": {"project": project, "limits": {}, "unenforced": "warn"}}, code=["unsupported"])
        peer.refused({"remove-slice": {"project": project}}, code=["unsupported"])
    for name in ["", "-x", "a/b", "../x", "a\nb", "%n", "x" * 5_000, "a\u0000b"]:
        peer.refused(launch(alice, name=name), [good])
    for size in (0, 1, 1 << 50, -1):
        peer.refused(launch(alice, log_file_max=size), [good])
    payloads = [
        {"command": []},
        {"command": [""]},
        {"command": ["a\u0000b"]},
        {"command": ["x"] * 5_000},
        {"command": ["x" * 200_000]},
        {"command": ["true"], "working_directory": "relative"},
        {"command": ["true"], "working_directory": ""},
        {"command": ["true"], "working_directory": "/a\u0000b"},
        {"command": ["true"], "working_directory": "/" + "x" * 5_000},
        {"command": ["true"], "setenv": [["A=B", "c"]]},
        {"command": ["true"], "setenv": [["", "c"]]},
        {"command": ["true"], "setenv": [["A", "a\u0000b"]]},
        {"command": ["true"], "setenv": [[f"A{n}", "x"] for n in range(2_000)]},
        {"command": ["true"], "setenv": [["A", "x" * 300_000]]},
        *({"command": ["true"], "inputs": {"credentials": [{"name": n, "path": "/etc/hostname"}]}} for n in ("", ".", "..", "../x", "a/b", "a\u0000b", "x" * 300)),
        *({"command": ["true"], "inputs": {"credentials": [{"name": "n", "path": p}]}} for p in ("", "relative", "/a\u0000b")),
        {"command": ["true"], "inputs": {"environment_files": [{"path": "relative"}]}},
        {"command": ["true"], "inputs": {"credentials": [{"name": f"n{n}", "path": "/x"} for n in range(65)]}},
        [],
        {"no": 1},
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b" " * (5 << 20),
    ]
    for payload in payloads:
        fd = sealed(payload)
        peer.refused(launch(alice), [fd])
        os.close(fd)
    # What could still be changed while it is read, and what is no memory at all.
    null, pipe = os.open("/dev/null", os.O_RDONLY), os.pipe()
    folder = os.open("/", os.O_RDONLY)
    for fd in (sealed({"command": ["true"]}, 0), sealed({"command": ["true"]}, 1), null, pipe[0], folder):
        peer.refused(launch(alice), [fd], ["unsupported"])
    for passed, fds in (([], []), ([], [good, null]), (["stdin"], [good]), (["stdin", "stdin"], [good, null, null]), (["credentials"], [good, folder]), (["logs"], [good, folder]), (["stderr"], [null, good])):
        peer.refused(launch(alice, passed=passed), fds, ["unsupported"])
    # Root writes to what it is given for a log: only to a pipe, and only where the daemon could write itself.
    for fds in ([], [null], [pipe[0]], [folder], [pipe[1], pipe[1]]):
        peer.refused({"logs": {"id": SOMEWHERE, "caller": 0, "logs": {}}}, fds, ["unsupported"])
    # The user's files are opened by the user: who hands on a path does not lend root's eyes.
    secret = {"command": ["true"], "inputs": {"credentials": [{"name": "n", "path": "/etc/shadow"}]}}
    order = launch(alice)
    ours = order["launch"]["id"]
    assert "Ok" in peer.ask(order, [sealed(secret)])
    why = peer.refused({"go": {"id": ours}}, code=["launch-failed"])
    assert "ermission denied" in why["message"], why
    while True:
        if peer.ask({"forget": {"id": ours}}) == {"Ok": "done"}:
            break
        time.sleep(0.05)
    assert peer.ask({"runner-of": {"pid": 1}}) == {"Ok": {"runner-of": {"id": None}}}
    peer.answers()


def forget(id):
    assert Peer().ask({"forget": {"id": id}}) == {"Ok": "done"}


def frames():
    """Whatever is sent costs who sent it the connection at most."""
    control = Peer()
    hello = json.dumps({"seq": 1, "order": {"hello": {"v": 1, "program": "x"}}}).encode()
    for data in (
        b"garbage",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"seq":1,"order":{"go":{"id":',
        b'{"seq":-1,"order":"x"}',
        b'{"order":{"go":{}}}',
        b'{"seq":99999999999999999999999}',
        hello[:-1],
        b"x" * (PACKET_MAX + 1),
        b" " * (150 << 10),
    ):
        for greeted in (False, True):
            s = dial()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            if greeted:
                send(s, hello)
            send(s, data)
            closed(s)
        control.answers()
    # Nobody is obeyed who has not greeted, or greets twice.
    for first in ({"inventory": {"after": None}}, launch(0)):
        s = dial()
        send(s, json.dumps({"seq": 1, "order": first}).encode())
        closed(s)
    s = dial()
    send(s, hello)
    send(s, hello)
    closed(s)
    # A version of times to come is answered, not guessed.
    control.refused({"format-the-disk": {}}, code=["unsupported"])
    # A name that would be a line of its own in the journal.
    s = dial()
    send(s, json.dumps({"seq": 1, "order": {"hello": {"v": 1, "program": "x\nFORGED=1\n" + "y" * 10_000}}}).encode())
    assert s.recv(1 << 17)
    control.answers()


def descriptors(agent):
    """Floods of descriptors, and such as can't be closed in any time, hold up nobody. As root, who may stop the agent
    for as long as they are sent: so its copy is the last one."""
    agent, keep = int(agent), []
    control = Peer()
    null = os.open("/dev/null", os.O_RDONLY)

    def lingering():
        """A connection whose close waits an hour for a peer that does not read."""
        server = socket.create_server(("127.0.0.1", 0))
        a = socket.create_connection(server.getsockname())
        b, _ = server.accept()
        a.setblocking(False)
        try:
            while True:
                a.send(b"x" * 65_536)
        except BlockingIOError:
            pass
        a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3_600))
        keep.append((server, b))
        return a

    def hold(work):
        os.kill(agent, signal.SIGSTOP)
        try:
            work()
        finally:
            os.kill(agent, signal.SIGCONT)
        control.answers()

    def hand_over(packets, greet=True):
        def work():
            s = dial()
            s.setblocking(False)
            if greet:
                send(s, json.dumps({"seq": 1, "order": {"hello": {"v": 1, "program": "x"}}}).encode())
            for data, count in packets:
                a = lingering()
                send(s, data, [a.fileno()] * count)
                a.close()
            keep.append(s)

        hold(work)

    usage = json.dumps({"seq": 2, "order": {"usage": {"id": SOMEWHERE}}}).encode()
    payload = json.dumps({"seq": 2, "order": launch(1000)}).encode()
    logs = json.dumps({"seq": 2, "order": {"logs": {"id": SOMEWHERE, "caller": 0, "logs": {}}}}).encode()
    hand_over([(usage, 1)])
    hand_over([(payload, 1)])
    hand_over([(payload, 3)])
    hand_over([(logs, 1)])
    hand_over([(logs, 2)])
    hand_over([(b"garbage", 1)])
    hand_over([(usage, 9)])
    hand_over([(usage, 253)])
    # What nobody has read when the connection is closed.
    hand_over([(b"garbage", 1), (usage, 1), (usage, 253)])
    hand_over([(b"garbage", 1)], greet=False)
    # And more of them than anybody would ever start threads for.
    for _ in range(40):
        hand_over([(usage, 1)] * 8)
        keep.pop().close()
    # Floods of such as close at once: none stays.
    for count in (1, 8, 9, 253):
        for _ in range(50):
            s = dial()
            try:
                for _ in range(20):
                    send(s, b"{}", [null] * count)
            except (BrokenPipeError, ConnectionResetError):
                pass
            s.close()
        control.answers()
    for kept in keep:
        for s in kept if isinstance(kept, tuple) else [kept]:
            s.close()


def loris():
    """Connections that say nothing are closed by the agent; meanwhile they are all there is for others."""
    held, refused = [], 0
    for _ in range(40):
        s = dial()
        s.settimeout(0.2)
        try:
            assert s.recv(1) == b""
            refused += 1
        except TimeoutError:
            held.append(s)
    assert 1 <= len(held) <= 16 and refused >= 20, f"{len(held)} are held and {refused} refused"
    print("held", flush=True)
    sys.stdin.readline()
    for s in held:
        s.settimeout(60)
        closed(s)
    Peer().answers()


def deaf():
    """Who asks and does not read is given up, before it costs the agent much."""
    control, asked = Peer(), 0
    s = dial()
    send(s, json.dumps({"seq": 1, "order": {"hello": {"v": 1, "program": "x"}}}).encode())
    try:
        for asked in range(2, 300_000):
            send(s, json.dumps({"seq": asked, "order": {"usage": {"id": SOMEWHERE}}}).encode())
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert 1_000 < asked < 299_999, f"still read after {asked}"
    control.answers()


def second():
    """Another daemon beside the first one."""
    others = [Peer() for _ in range(4)]
    for peer in others:
        peer.answers()
    print("greeted", flush=True)
    sys.stdin.readline()
    for peer in others:
        peer.answers()


globals()[sys.argv[1]](*sys.argv[2:])
