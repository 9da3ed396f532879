#!/usr/bin/env python3
"""SQLite with synchronous=FULL.

database.py write DATABASE COUNT: commits so many transactions, each a row and a change of another, and says each on the console when it is committed.
database.py check DATABASE LAST: the database is whole, and has every transaction up to this one and none by half.
"""
import hashlib
import sqlite3
import sys

what, path, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
# After the server's death nobody gets a lock until all could reclaim theirs.
database = sqlite3.connect(path, timeout=600)


def content(turn):
    return hashlib.sha256(b"%d" % turn).digest() * 100


if what == "write":
    database.execute("pragma synchronous=full")
    database.execute("create table if not exists rows (turn integer primary key, content blob)")
    database.execute("create table if not exists last (turn integer)")
    database.execute("insert into last values (-1)")
    database.commit()
    for turn in range(number):
        database.execute("insert into rows values (?, ?)", (turn, content(turn)))
        database.execute("update last set turn = ?", (turn,))
        database.commit()
        print(f"== committed {turn}", flush=True)
elif what == "check":
    assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
    rows = database.execute("select turn, content from rows order by turn").fetchall()
    assert rows == [(turn, content(turn)) for turn in range(len(rows))], "one is missing between, or has another content"
    assert database.execute("select turn from last").fetchall() == [(len(rows) - 1,)], "a transaction is there by half"
    assert len(rows) > number, f"{number} was committed, and {len(rows) - 1} is the last"
    print(f"{len(rows)} transactions are there")
