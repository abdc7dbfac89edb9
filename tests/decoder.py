#!/usr/bin/env python3
"""A second decoder, written from doc/format.md alone: reads a container and
writes what it decodes to as .npy (float32). Slow and plain on purpose."""
import struct
import sys

import numpy as np
import xxhash

# doc/format.md, "Trellis tables"
A = {2: [-37, -51, -28, -42, -11, -12, -8, -11, 9, 7, 16, 8, 40, 28, 52, 35],
     3: [-53, -66, -34, -39, -18, -22, -3, -9, 10, 3, 22, 15, 39, 31, 64, 51],
     4: [-86, -58, -45, -35, -26, -18, -10, -4, 4, 11, 19, 27, 36, 46, 58, 88],
     5: [-11, 87, -90, 12, -38, 23, -28, 34, -33, 29, -22, 39, -17, 44, -44, 18],
     6: [-95, -33, 28, 91, -91, -29, 32, 95, -100, -37, 24, 87, -87, -25, 36, 100],
     7: [-113, -79, -48, -17, 15, 46, 77, 110, -110, -77, -46, -15, 17, 48, 79, 113],
     8: [0, 16, 32, 48, 64, 80, 96, 112, -128, -112, -96, -80, -64, -48, -32, -16]}
B = {2: [-24, 9, 38, -17, 23, -13, -47, 15, -13, 48, 12, -19, 10, -38, -11, 21],
     3: [-19, -43, 38, -26, 5, 23, -7, 11, -22, 27, -38, -14, 13, -4, 46, 11],
     4: [11, -1, -27, 19, -10, 8, -17, 31, -2, -29, 15, -9, 5, 23, -18, -2],
     5: [-15, -18, -37, -25, -6, -30, -1, -10, 16, 18, 3, 12, 22, 8, 40, 28],
     6: [-21, -24, -18, -27, -6, -9, -3, -12, 9, 6, 12, 3, 25, 22, 27, 19],
     7: [-14, -13, -10, -9, -6, -5, -3, -1, 1, 2, 5, 6, 9, 10, 13, 14],
     8: list(range(16))}
# "Lloyd-Max values", the positive half
LLOYD = {2: [0.452780035, 1.51041761],
         3: [0.245094179, 0.756005281, 1.34390928, 2.1519457],
         4: [0.12839503, 0.388048299, 0.656759119, 0.942340456,
             1.2562312, 1.61804639, 2.06901723, 2.73258957]}


def legendre(x, q):
    x %= q
    return 0 if x == 0 else 1 if pow(x, (q - 1) // 2, q) == 1 else -1


def outer_matrix(order):
    """ "Rotation": Paley's matrices."""
    if order == 1:
        return np.ones((1, 1), int)
    q = {12: 11, 20: 19, 28: 13, 36: 17}[order]
    jacobsthal = np.array([[legendre(i - j, q) for j in range(q)] for i in range(q)])
    c = np.zeros((q + 1, q + 1), int)
    c[0, 1:] = 1
    c[1:, 0] = -1 if q % 4 == 3 else 1
    c[1:, 1:] = jacobsthal
    if q % 4 == 3:
        return c + np.eye(q + 1, dtype=int)
    return (np.kron(c, [[1, 1], [1, -1]]) +
            np.kron(np.eye(q + 1, dtype=int), [[1, -1], [-1, -1]]))


def hadamard(d):
    odd = d
    while odd % 2 == 0:
        odd //= 2
    order = 1 if odd == 1 else 4 * odd
    inner = np.ones((1, 1), int)
    while len(inner) < d // order:
        inner = np.kron(inner, [[1, 1], [1, -1]])
    return np.kron(outer_matrix(order), inner)


def signs(d):
    result, mask = [], (1 << 64) - 1
    for i in range(d):
        z = (i // 64 + 1) * 0x9E3779B97F4A7C15 & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        z ^= z >> 31
        result.append(-1 if z >> i % 64 & 1 else 1)
    return np.array(result)


def stream_values(codes, rate, d, codebook):
    bits = d * rate // 16
    stream = int.from_bytes(codes, "little") & ((1 << bits) - 1)
    stream |= stream << bits  # cyclic
    out = []
    for i in range(d):
        at = i * rate // 16
        if codebook == 2:
            k = rate // 16
            index = stream >> at & ((1 << k) - 1)
            half = LLOYD[k]
            values = [-v for v in reversed(half)] + half
            out.append(np.float32(values[index]))
        else:
            k = at - (i - 1) * rate // 16  # new bits since the window before
            window = stream >> at & 255
            out.append(A[k][window >> 4] + B[k][window & 15])
    return out


class Container:
    def __init__(self, path):
        data = open(path, "rb").read()
        magic, version, endian = struct.unpack_from("<8sHH", data)
        assert (magic, version, endian) == (b"TQKVROWS", 1, 0x1234)
        assert xxhash.xxh64(data[:56]).intdigest() == struct.unpack_from("<Q", data, 56)[0]
        self.codebook, _, self.rotation, _ = data[12:16]
        self.rate, self.d = struct.unpack_from("<HH", data, 16)
        self.layer_axis, has_profile = data[20], data[21]
        self.shape = struct.unpack_from("<QQQ", data, 24)
        self.profile, rows, at = None, b"", 64
        while True:
            kind, zero, size = struct.unpack_from("<IIQ", data, at)
            payload = data[at + 16:at + 16 + size]
            check, = struct.unpack_from("<Q", data, at + 16 + size)
            assert zero == 0 and xxhash.xxh64(data[at:at + 16 + size]).intdigest() == check
            at += 24 + size
            if kind == 1:
                self.read_profile(payload)
            elif kind == 2:
                rows += payload
            else:
                assert kind == 3 and at == len(data)
                assert struct.unpack("<Q", payload)[0] == np.prod(self.shape)
                break
        assert bool(has_profile) == (self.profile is not None)
        self.rows = rows

    def read_profile(self, data):
        magic, version, endian, layers, heads, d, m, text = struct.unpack_from("<8sHHIIIII", data)
        assert (magic, version, endian) == (b"TQKVPROF", 1, 0x1234)
        assert xxhash.xxh64(data[:-8]).intdigest() == struct.unpack("<Q", data[-8:])[0]
        values = np.frombuffer(data, "<f4", offset=32 + text, count=layers * heads * (1 + m) * d)
        self.profile = values.reshape(layers, heads, 1 + m, d)

    def decode_row(self, row, code_bytes, layer, head):
        d = self.d
        if self.codebook == 3:
            blocks = max(d // 256, 1)
            norms = np.frombuffer(row, "<f4", offset=code_bytes, count=blocks)
            raise SystemExit(f"mlx rows have their own document; norms {norms}")
        values = stream_values(row[:code_bytes], self.rate, d, self.codebook)
        scale = np.float32(np.frombuffer(row, "<f2", offset=code_bytes, count=1)[0])
        if self.rotation == 0:
            x = np.array(values, np.float32) * scale
        else:
            root = np.float32(1 / np.sqrt(d))
            total = self.matrix.T @ np.array(values, np.float64)
            x = total.astype(np.float32) * np.float32(scale * root)
            if self.rotation == 2:
                x = x * self.signs.astype(np.float32)
        if self.profile is not None:
            balance, centres = self.profile[layer, head, 0], self.profile[layer, head, 1:]
            centre = min(row[code_bytes + 2], len(centres) - 1) if len(centres) > 1 else 0
            x = (x + centres[centre]) / balance
        return x

    def decode(self):
        layers, tokens, heads = self.shape
        self.matrix, self.signs = hadamard(self.d), signs(self.d)
        code_bytes = (self.d * self.rate // 16 + 7) // 8
        row_bytes = code_bytes + 2
        if self.profile is not None and self.profile.shape[2] > 2:
            row_bytes += 1
        out = np.empty((layers, tokens, heads, self.d), np.float32)
        at = 0
        for layer in range(layers):
            for token in range(tokens):
                for head in range(heads):
                    out[layer, token, head] = self.decode_row(
                        self.rows[at:at + row_bytes], code_bytes, layer, head)
                    at += row_bytes
        assert at == len(self.rows)
        return out if self.layer_axis else out[0]


np.save(sys.argv[2], Container(sys.argv[1]).decode())
