#!/usr/bin/env python3
"""Record locks, from both sides: `locks.py DIR WHAT`. What the other side does is said in files of the directory, or on the console.

guest: takes locks over NFS, and wants the other side to be refused, to hold one, to let go, and to find one reclaimed after the server was killed.
"""
import fcntl
import os
import struct
import sys
import time

DEADLINE = 300


def wait(what, condition):
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"still waiting: {what}")
        time.sleep(0.2)


def lock(file, start, length, flag=fcntl.LOCK_NB):
    """Whether the range could be locked."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | flag, length, start)
        return True
    except BlockingIOError:
        return False


def is_free(file, start, length):
    asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    return struct.unpack("hhqqi", fcntl.fcntl(file, fcntl.F_GETLK, asked))[0] == fcntl.F_UNLCK


def say(name):
    open(os.path.join(place, name), "w").close()


def want(what, answer):
    print(f"== want {what}", flush=True)
    if answer:
        wait(answer, lambda: answer in os.listdir(place))


place, what = sys.argv[1], sys.argv[2]
file = open(os.path.join(place, "locked"), "a+")
if what == "guest":
    assert lock(file, 0, 100)
    want("refused", "was-refused")
    want("held", "is-held")
    assert not lock(file, 250, 1) and not is_free(file, 200, 100)
    assert lock(file, 300, 1), "what is not locked"
    child = os.fork()
    if child == 0:
        other = open(os.path.join(place, "locked"), "a+")
        assert not lock(other, 0, 1), "its parent's"
        print("== want free", flush=True)
        began = time.monotonic()
        assert lock(other, 200, 100, 0)
        print(f"== it came after {time.monotonic() - began:.1f} seconds", flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    want("reclaimed", "was-reclaimed")
    # When nobody may reclaim any more.
    wait("a new lock", lambda: lock(file, 400, 1))
    fcntl.lockf(file, fcntl.LOCK_UN, 0, 0)
elif what == "refused":
    assert not lock(file, 50, 1) and not is_free(file, 0, 1) and is_free(file, 100, 100)
    say("was-refused")
elif what == "held":
    assert lock(file, 200, 100)
    say("is-held")
    sys.stdin.read()
elif what == "reclaimed":
    wait("the guest has its lock again", lambda: not is_free(file, 0, 100))
    say("was-reclaimed")
