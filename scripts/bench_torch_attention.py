"""A step of decoding by torch's bf16 attention with grouped queries, as tqkv bench
--attention times its own: medians by events behind a long copy, caches in turn beyond the L2,
and a launch's share of a CUDA graph of twenty. One JSON object a line; shapes as arguments."""
import json
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
SHAPES = ["1,32,8,128,32768", "1,32,8,128,131072", "8,32,8,128,8192", "8,32,8,128,32768",
          "8,64,8,128,32768", "16,8,8,128,32768", "16,32,8,64,32768", "4,32,8,256,32768"]
REPEATS, CHAIN, ROUNDS = 40, 20, 7


def median(times):
    return sorted(times)[len(times) // 2]


def events():
    return [torch.cuda.Event(enable_timing=True) for _ in range(2)]


def time_single(call, delay):
    for i in range(5):
        call(i)
    pairs = [events() for _ in range(REPEATS)]
    delay()
    for i, (begin, end) in enumerate(pairs):
        begin.record()
        call(i)
        end.record()
    torch.cuda.synchronize()
    return median([begin.elapsed_time(end) * 1e3 for begin, end in pairs])


def time_chain(call, delay):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(CHAIN):
            call(i)
    times = []
    for _ in range(ROUNDS):
        begin, end = events()
        delay()
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / CHAIN)
    return median(times)


def main(shapes):
    pool = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")

    def delay():
        for _ in range(4):
            pool[: 1 << 29].copy_(pool[1 << 29:])

    print(json.dumps({"torch": torch.__version__, "device": torch.cuda.get_device_name()}))
    for shape in shapes:
        batch, heads, kv_heads, dim, tokens = map(int, shape.split(","))
        size = 2 * batch * kv_heads * dim * tokens * 2
        sets = max(1, min(8, (300 << 20) // size + 1))
        query = torch.randn(batch, heads, 1, dim, dtype=torch.bfloat16, device="cuda")
        caches = [[torch.randn(batch, kv_heads, tokens, dim, dtype=torch.bfloat16, device="cuda")
                   for _ in range(2)] for _ in range(sets)]
        best = {}
        for backend in BACKENDS:
            def call(i):
                k, v = caches[i % sets]
                with sdpa_kernel([backend]):
                    torch.nn.functional.scaled_dot_product_attention(query, k, v, enable_gqa=True)
            try:
                times = {"us": time_single(call, delay), "graph_us": time_chain(call, delay)}
            except RuntimeError:
                continue
            for name, us in times.items():
                if name not in best or us < best[name]:
                    best[name] = us
        print(json.dumps({"shape": shape, **best}), flush=True)
        del caches
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main(sys.argv[1:] or SHAPES)
