#!/usr/bin/env python3
"""What access control lists let whom do, and what is inherited: prints it, so that two file systems can be compared. Needs root."""
import errno
import os
import struct
import sys

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32


def acl(*entries):
    packed = (struct.pack("<HHI", tag, rights, named[0] if named else 0xFFFFFFFF) for tag, rights, *named in entries)
    return struct.pack("<I", 2) + b"".join(packed)


def outcome(action, *arguments):
    try:
        result = action(*arguments)
        return "ok" if result is None else result
    except OSError as error:
        return errno.errorcode[error.errno]


def shown(path):
    def entries(name):
        value = os.getxattr(path, name)
        return [struct.unpack("<HHI", value[at : at + 8]) for at in range(4, len(value), 8)]

    return oct(os.lstat(path).st_mode), outcome(entries, ACCESS), outcome(entries, DEFAULT)


def opened(path, flags):
    os.close(os.open(path, flags))


def made(directory):
    opened(directory + "/new", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.unlink(directory + "/new")


ACTIONS = [
    ("read", lambda: opened("file", os.O_RDONLY)),
    ("write", lambda: opened("file", os.O_WRONLY)),
    ("both", lambda: opened("file", os.O_RDWR)),
    ("run", lambda: os.access("file", os.X_OK) or None),
    ("list", lambda: str(os.listdir("dir"))),
    ("make", lambda: made("dir")),
    ("pass", lambda: os.stat("dir/inside") and None),
    ("chmod", lambda: os.chmod("file", 0o777)),
    ("grant", lambda: os.setxattr("file", ACCESS, acl((USER_OBJ, 7), (GROUP_OBJ, 7), (OTHER, 7)))),
]


def as_user(uid, gid, groups, what):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
        print(what, uid, gid, groups, [(name, outcome(action)) for name, action in ACTIONS], flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


os.chdir(sys.argv[1])
os.umask(0o022)
opened("file", os.O_CREAT | os.O_WRONLY)
os.mkdir("dir")
opened("dir/inside", os.O_CREAT | os.O_WRONLY)
lists = {
    "named": acl((USER_OBJ, 6), (USER, 7, 1001), (USER, 0, 1002), (GROUP_OBJ, 4), (GROUP, 6, 2001), (GROUP, 1, 2002), (MASK, 7), (OTHER, 4)),
    "masked": acl((USER_OBJ, 7), (USER, 7, 1001), (GROUP_OBJ, 6), (GROUP, 7, 2001), (MASK, 5), (OTHER, 0)),
    "halves": acl((USER_OBJ, 7), (GROUP_OBJ, 1), (GROUP, 4, 2001), (GROUP, 2, 2002), (MASK, 7), (OTHER, 7)),
    "plain": acl((USER_OBJ, 6), (GROUP_OBJ, 4), (OTHER, 1)),
}
people = [(1000, 2000, []), (1001, 2001, []), (1002, 2001, []), (1003, 2000, []), (1003, 2001, []), (1003, 2002, [2001]), (1004, 2009, [])]
for name, value in lists.items():
    for path in ["file", "dir"]:
        os.chown(path, 1000, 2000)
        os.setxattr(path, ACCESS, value)
        print(name, path, shown(path))
    for uid, gid, groups in people:
        if uid != 1000:
            as_user(uid, gid, groups, name)
    os.chmod("file", 0o750)
    print(name, "after chmod", shown("file"))
    as_user(1001, 2001, [], name)
    outcome(os.removexattr, "file", ACCESS)
    print(name, "without", shown("file"))
for bad in [b"", acl((USER_OBJ, 6)), acl((USER_OBJ, 6), (USER, 7, 5), (GROUP_OBJ, 4), (OTHER, 0)), lists["named"][:-3]]:
    print("bad", outcome(os.setxattr, "file", ACCESS, bad) if bad else "", shown("file"))
print("default of a file", outcome(os.setxattr, "file", DEFAULT, lists["named"]))
for name, value in lists.items():
    for umask in [0o022, 0o077]:
        parent = f"parent-{name}-{umask}"
        os.mkdir(parent, 0o777)
        os.setxattr(parent, DEFAULT, value)
        os.umask(umask)
        os.close(os.open(parent + "/file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.close(os.open(parent + "/run", os.O_CREAT | os.O_WRONLY, 0o770))
        os.mkdir(parent + "/dir", 0o777)
        os.mkdir(parent + "/dir/deeper", 0o700)
        os.mkfifo(parent + "/fifo", 0o666)
        os.symlink("nowhere", parent + "/link")
        os.umask(0o022)
        print(parent, shown(parent))
        for made_there in ["file", "run", "dir", "dir/deeper", "fifo"]:
            print(parent, made_there, shown(parent + "/" + made_there))
        os.removexattr(parent, DEFAULT)
        os.mkdir(parent + "/later", 0o777)
        print(parent, "later", shown(parent + "/later"))
