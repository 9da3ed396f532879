#!/usr/bin/env python3
"""Random operations on one file, held against what its bytes should be: `ranges.py FILE SEED OPERATIONS`.

What fsx has not: ranges that `fallocate` zeroes, in both ways, among writes, maps, copies, holes, cuts and syncs.
"""
import collections
import ctypes
import mmap
import os
import random
import sys

SIZE_MAX, LENGTH_MAX = 1 << 20, 1 << 16
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10
libc = ctypes.CDLL(None, use_errno=True)


class File:
    def __init__(self, path, choices):
        self.path, self.choices, self.bytes = path, choices, bytearray()
        self.number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def resize(self, size):
        del self.bytes[size:]
        self.bytes.extend(bytes(size - len(self.bytes)))

    def put(self, offset, data):
        self.resize(max(len(self.bytes), offset + len(data)))
        self.bytes[offset : offset + len(data)] = data

    def clipped(self, offset, length):
        return max(0, min(length, len(self.bytes) - offset))

    def clear(self, offset, length):
        """Zeros, as far as the file goes."""
        if length := self.clipped(offset, length):
            self.put(offset, bytes(length))

    def fallocate(self, mode, offset, length):
        if libc.fallocate(self.number, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
            raise OSError(ctypes.get_errno(), f"fallocate, mode {mode:#x}")

    def same(self, offset, found):
        wanted = self.bytes[offset : offset + len(found)]
        if found != wanted:
            at = next(at for at in range(len(found)) if found[at] != wanted[at])
            raise AssertionError(f"byte {offset + at} is {found[at]} and should be {wanted[at]}")

    def read(self, offset, length):
        found = os.pread(self.number, length, offset)
        assert len(found) == self.clipped(offset, length), f"{len(found)} bytes were read"
        self.same(offset, found)

    def read_map(self, offset, length):
        if length := self.clipped(offset, length):
            with mmap.mmap(self.number, len(self.bytes)) as view:
                self.same(offset, view[offset : offset + length])

    def write(self, offset, length):
        data = self.choices.randbytes(length)
        assert os.pwrite(self.number, data, offset) == length
        self.put(offset, data)

    def write_map(self, offset, length):
        if length := self.clipped(offset, length):
            data = self.choices.randbytes(length)
            with mmap.mmap(self.number, len(self.bytes)) as view:
                view[offset : offset + length] = data
            self.put(offset, data)

    def cut(self, offset, _length):
        os.ftruncate(self.number, offset)
        self.resize(offset)

    def punch(self, offset, length):
        self.fallocate(PUNCH_HOLE | KEEP_SIZE, offset, length)
        self.clear(offset, length)

    def zero(self, offset, length):
        self.fallocate(ZERO_RANGE, offset, length)
        self.put(offset, bytes(length))

    def zero_inside(self, offset, length):
        self.fallocate(ZERO_RANGE | KEEP_SIZE, offset, length)
        self.clear(offset, length)

    def allocate(self, offset, length):
        self.fallocate(0, offset, length)
        self.resize(max(len(self.bytes), offset + length))

    def copy(self, offset, length):
        to = self.choices.randrange(SIZE_MAX - LENGTH_MAX)
        length = min(self.clipped(offset, length), abs(to - offset))
        while length > 0:
            copied = os.copy_file_range(self.number, self.number, length, offset, to)
            assert copied > 0
            self.put(to, self.bytes[offset : offset + copied])
            offset, to, length = offset + copied, to + copied, length - copied

    def sync(self, _offset, _length):
        os.fsync(self.number)

    def forget(self, _offset, _length):
        os.fsync(self.number)
        os.posix_fadvise(self.number, 0, 0, os.POSIX_FADV_DONTNEED)

    def open_again(self, _offset, _length):
        os.close(self.number)
        self.number = os.open(self.path, os.O_RDWR)


WEIGHTS = {
    File.read: 10, File.read_map: 5, File.write: 10, File.write_map: 5, File.cut: 1, File.punch: 3, File.zero: 5, File.zero_inside: 5,
    File.allocate: 1, File.copy: 4, File.sync: 1, File.forget: 1, File.open_again: 1,
}
path, seed, operations = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
choices = random.Random(seed)
file, last = File(path, choices), collections.deque(maxlen=30)
try:
    for turn in range(operations):
        operation = choices.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        offset, length = choices.randrange(SIZE_MAX - LENGTH_MAX), choices.randrange(1, LENGTH_MAX)
        # Pages matter to kernels.
        if choices.randrange(3) == 0:
            offset, length = offset & ~0xFFF, (length + 0xFFF) & ~0xFFF
        last.append(f"{turn} {operation.__name__} {offset:#x} {length:#x} of {len(file.bytes):#x}")
        operation(file, offset, length)
        size = os.fstat(file.number).st_size
        assert size == len(file.bytes), f"the size is {size:#x} and should be {len(file.bytes):#x}"
        if turn % 500 == 0:
            file.read(0, SIZE_MAX)
    file.open_again(0, 0)
    file.read(0, SIZE_MAX)
except BaseException:
    print("\n".join(last), file=sys.stderr)
    raise
