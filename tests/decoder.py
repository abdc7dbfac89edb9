#!/usr/bin/env python3
"""A second decoder, written from doc/format.md alone: reads a container and
writes what it decodes to as .npy (float32). Slow and plain on purpose."""
import struct
import sys

import numpy as np
import xxhash

# doc/format.md, section 2
A = {2: [-37, -51, -28, -42, -11, -12, -8, -11, 9, 7, 16, 8, 40, 28, 52, 35],
     4: [-86, -58, -45, -35, -26, -18, -10, -4, 4, 11, 19, 27, 36, 46, 58, 88],
     5: [-11, 87, -90, 12, -38, 23, -28, 34, -33, 29, -22, 39, -17, 44, -44, 18],
     6: [-95, -33, 28, 91, -91, -29, 32, 95, -100, -37, 24, 87, -87, -25, 36, 100],
     7: [-113, -79, -48, -17, 15, 46, 77, 110, -110, -77, -46, -15, 17, 48, 79, 113],
     8: [0, 16, 32, 48, 64, 80, 96, 112, -128, -112, -96, -80, -64, -48, -32, -16]}
B = {2: [-24, 9, 38, -17, 23, -13, -47, 15, -13, 48, 12, -19, 10, -38, -11, 21],
     4: [11, -1, -27, 19, -10, 8, -17, 31, -2, -29, 15, -9, 5, 23, -18, -2],
     5: [-15, -18, -37, -25, -6, -30, -1, -10, 16, 18, 3, 12, 22, 8, 40, 28],
     6: [-21, -24, -18, -27, -6, -9, -3, -12, 9, 6, 12, 3, 25, 22, 27, 19],
     7: [-14, -13, -10, -9, -6, -5, -3, -1, 1, 2, 5, 6, 9, 10, 13, 14],
     8: list(range(16))}
TAPS = [[-49, -30, -5, -15, 4, 16, 30, 51],
        [18, -23, 6, -6, 3, -15, 11, -3],
        [-9, 5, -42, 26, 46, -23, 15, -6]]
# Section 3, the upper halves
LLOYD = {2: [0.452780035, 1.51041761],
         3: [0.245094179, 0.756005281, 1.34390928, 2.1519457],
         4: [0.12839503, 0.388048299, 0.656759119, 0.942340456,
             1.2562312, 1.61804639, 2.06901723, 2.73258957]}

# Section 5, the upper halves
MLX = {
    4: """0.1283950 0.3880483 0.6567591 0.9423405 1.2562312 1.6180464 2.0690172 2.7325896""",
    5: """0.0658849 0.1980377 0.3313550 0.4666676 0.6048936 0.7470884 0.8945114 1.0487242
       1.2117410 1.3862739 1.5761599 1.7871646 2.0286608 2.3176743 2.6910589 3.2606790""",
    6: """0.0311537 0.0935225 0.1560761 0.2189392 0.2822386 0.3461048 0.4106724 0.4760822
       0.5424819 0.6100285 0.6788902 0.7492492 0.8213046 0.8952766 0.9714118 1.0499889
       1.1313277 1.2157998 1.3038428 1.3959804 1.4928497 1.5952401 1.7041502 1.8208742
       1.9471373 2.0853192 2.2388464 2.4129324 2.6161277 2.8640626 3.1907215 3.6996161""",
    8: """0.0135717 0.0407151 0.0678584 0.0950019 0.1221453 0.1492888 0.1764324 0.2035761
       0.2307198 0.2578636 0.2850076 0.3121517 0.3392960 0.3664405 0.3935852 0.4207301
       0.4478753 0.4750208 0.5021667 0.5293129 0.5564596 0.5836067 0.6107544 0.6379027
       0.6650517 0.6922014 0.7193520 0.7465035 0.7736561 0.8008098 0.8279648 0.8551212
       0.8822793 0.9094390 0.9366008 0.9637647 0.9909310 1.0180999 1.0452718 1.0724469
       1.0996255 1.1268081 1.1539951 1.1811868 1.2083838 1.2355865 1.2627956 1.2900118
       1.3172356 1.3444678 1.3717093 1.3989610 1.4262237 1.4534986 1.4807869 1.5080897
       1.5354084 1.5627445 1.5900996 1.6174755 1.6448739 1.6722970 1.6997469 1.7272261
       1.7547372 1.7822828 1.8098662 1.8374904 1.8651592 1.8928763 1.9206458 1.9484722
       1.9763603 2.0043154 2.0323430 2.0604493 2.0886408 2.1169245 2.1453081 2.1737998
       2.2024086 2.2311440 2.2600165 2.2890372 2.3182184 2.3475732 2.3771157 2.4068614
       2.4368270 2.4670306 2.4974918 2.5282321 2.5592748 2.5906452 2.6223710 2.6544825
       2.6870129 2.7199985 2.7534795 2.7874999 2.8221086 2.8573596 2.8933131 2.9300362
       2.9676040 3.0061011 3.0456229 3.0862780 3.1281899 3.1715011 3.2163758 3.2630056
       3.3116156 3.3624729 3.4158977 3.4722785 3.5320936 3.5959415 3.6645851 3.7390194
       3.8205780 3.9111092 4.0132856 4.1311907 4.2715508 4.4467193 4.6836997 5.0652659""",
}


def legendre(x, q):
    x %= q
    return 0 if x == 0 else 1 if pow(x, (q - 1) // 2, q) == 1 else -1


def outer_matrix(order):
    """Section 4: Paley's matrices."""
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


def plane_values(codes, d):
    """Section 2, 3 bits."""
    part, symbols = d // 8, []
    for i in range(d):
        byte, half, j = codes[i // 4], i // (d // 2), i % (d // 2)
        high = codes[2 * part + j // 4] >> [0, 1, 4, 5][j % 4] + 2 * half & 1
        symbols.append(byte >> 2 * (i % 4) & 3 | high << 2)
    return [sum(TAPS[t][symbols[i - t]] for t in range(3)) for i in range(d)]


def stream_values(codes, bits, d, codebook):
    if (codebook, bits) == (1, 3):
        return plane_values(codes, d)
    stream = int.from_bytes(codes, "little")
    stream |= stream << d * bits  # cyclic
    out = []
    for i in range(d):
        if codebook == 2:
            half = LLOYD[bits]
            values = [-v for v in reversed(half)] + half
            out.append(np.float32(values[stream >> bits * i & ((1 << bits) - 1)]))
        else:
            window = stream >> bits * i & 255
            out.append(A[bits][window >> 4] + B[bits][window & 15])
    return out


class Container:
    def __init__(self, path):
        data = open(path, "rb").read()
        magic, version, endian = struct.unpack_from("<8sHH", data)
        assert (magic, endian) == (b"TQKVROWS", 0x1234) and version in (3, 4)
        self.is_paged = version == 4
        assert data[22:24] == bytes([self.is_paged, 0])
        assert xxhash.xxh64(data[:56]).intdigest() == struct.unpack_from("<Q", data, 56)[0]
        self.codebook, _, self.rotation, _ = data[12:16]
        sixteenths, self.d = struct.unpack_from("<HH", data, 16)
        assert sixteenths % 16 == 0
        self.bits = sixteenths // 16
        self.layer_axis, has_profile = data[20], data[21]
        self.shape = struct.unpack_from("<QQQ", data, 24)
        self.profile, self.sections, at = None, [], 64
        while True:
            kind, zero, size = struct.unpack_from("<IIQ", data, at)
            payload = data[at + 16:at + 16 + size]
            check, = struct.unpack_from("<Q", data, at + 16 + size)
            assert zero == 0 and xxhash.xxh64(data[at:at + 16 + size]).intdigest() == check
            at += 24 + size
            if kind == 1:
                self.read_profile(payload)
            elif kind == (4 if self.is_paged else 2):
                self.sections.append(payload)
            else:
                assert kind == 3 and at == len(data)
                assert struct.unpack("<Q", payload)[0] == np.prod(self.shape)
                break
        assert bool(has_profile) == (self.profile is not None)

    def read_profile(self, data):
        magic, version, endian, layers, heads, d, text = struct.unpack_from("<8sHHIIII", data)
        assert (magic, version, endian) == (b"TQKVPROF", 2, 0x1234)
        assert xxhash.xxh64(data[:-8]).intdigest() == struct.unpack("<Q", data[-8:])[0]
        values = np.frombuffer(data, "<f4", offset=28 + text, count=layers * heads * d)
        self.profile = values.reshape(layers, heads, d)

    def decode_own(self, row, code_bytes):
        """Original domain of codes and scale, without profile and mean."""
        d = self.d
        if self.codebook == 3:
            return self.decode_mlx(row, code_bytes)
        values = stream_values(row[:code_bytes], self.bits, d, self.codebook)
        scale = np.float32(np.frombuffer(row, "<f2", offset=code_bytes, count=1)[0])
        if self.rotation == 0:
            x = np.array(values, np.float32) * scale
        else:
            root = np.float32(1 / np.sqrt(d))
            total = self.matrix.T @ np.array(values, np.float64)
            x = total.astype(np.float32) * np.float32(scale * root)
            if self.rotation == 2:
                x = x * self.signs.astype(np.float32)
        return x

    def decode_row(self, row, code_bytes, layer, head):
        x = self.decode_own(row, code_bytes)
        if self.profile is not None:
            x = x / self.profile[layer, head]
        return x

    def decode_mlx(self, row, code_bytes):
        d, bits = self.d, self.bits
        upper = [np.float32(v) for v in MLX[bits].split()]
        centroids = [-v for v in reversed(upper)] + upper
        norms = np.frombuffer(row, "<f4", offset=code_bytes, count=max(d // 256, 1))
        root = np.float32(1 / np.sqrt(d))
        x = np.empty(d, np.float32)
        for i in range(d):
            code = row[i // 2] >> i % 2 * 4 & 15 if bits == 4 else row[i] & ((1 << bits) - 1)
            x[i] = centroids[code] * (norms[i // 256] if d > 256 else norms[0] * root)
        return (self.matrix.T @ x.astype(np.float64) / np.sqrt(d)).astype(np.float32)

    def decode(self):
        self.matrix, self.signs = hadamard(self.d), signs(self.d)
        code_bytes = self.d * self.bits // 8
        row_bytes = code_bytes + 2
        if self.codebook == 3:
            code_bytes = self.d // 2 if self.bits == 4 else self.d
            row_bytes = code_bytes + 4 * max(self.d // 256, 1)
        out = (self.decode_pages if self.is_paged else self.decode_rows)(code_bytes, row_bytes)
        return out if self.layer_axis else out[0]

    def decode_pages(self, code_bytes, row_bytes):
        """Section 10."""
        layers, tokens, heads = self.shape
        d, scale_bytes, sections = self.d, row_bytes - code_bytes, iter(self.sections)
        sign_at = 3 if self.codebook == 3 else 1
        out = np.empty((layers, tokens, heads, d), np.float32)
        for layer in range(layers):
            for first in range(0, tokens, 64):
                n, section = min(64, tokens - first), next(sections)
                page_bytes = n * row_bytes + d + 2
                assert len(section) == heads * page_bytes <= 1 << 24
                for head in range(heads):
                    page = section[head * page_bytes:(head + 1) * page_bytes]
                    scales, mean = page[n * code_bytes:], page[n * row_bytes:]
                    half, = np.frombuffer(mean, "<f2", offset=d)
                    factor = np.float32(half if half >= 0 and np.isfinite(half) else 0)
                    mean = np.frombuffer(mean, "i1", count=d).astype(np.float32) * factor
                    for row in range(n):
                        scale = bytearray(scales[row * scale_bytes:(row + 1) * scale_bytes])
                        relative = scale[sign_at] >> 7
                        scale[sign_at] &= 127
                        codes = page[row * code_bytes:(row + 1) * code_bytes]
                        x = self.decode_own(codes + bytes(scale), code_bytes)
                        if self.profile is not None:
                            x = x / self.profile[layer, head]
                        out[layer, first + row, head] = x + mean if relative else x
        assert next(sections, None) is None
        return out

    def decode_rows(self, code_bytes, row_bytes):
        layers, tokens, heads = self.shape
        rows, at = b"".join(self.sections), 0
        out = np.empty((layers, tokens, heads, self.d), np.float32)
        for layer in range(layers):
            for token in range(tokens):
                for head in range(heads):
                    out[layer, token, head] = self.decode_row(
                        rows[at:at + row_bytes], code_bytes, layer, head)
                    at += row_bytes
        assert at == len(rows)
        return out


np.save(sys.argv[2], Container(sys.argv[1]).decode())
